"""The code itself: sizes, nothing left undone, no error swallowed, no test that sleeps, no path of somebody's machine.

A file that has a good reason to be long says so in a comment: `# size: reason`; for a function the comment stands on
its `def` line or the line above.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
CODE = ("rayqueue", "actors", "benchmarks", "tests")
# Assembled, so that this file does not hold what it looks for.
UNDONE = re.compile(
    "|".join(("TO" + "DO", "FIX" + "ME", r"\bX" + r"XX\b", "HA" + r"CK\b", "raise NotImplemented" + "Error"))
)
MACHINE_PATHS = re.compile(
    "|".join(("/ho" + r"me/\w", "/Us" + r"ers/\w", "/wo" + r"rk/\w", "/root" + "/", "/tm" + r"p/\w"))
)
SIZE_REASON = re.compile(r"#\s*size:\s*\w{3,}")

FILES = sorted(path for directory in CODE for path in (ROOT / directory).rglob("*.py"))
TEXTS = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run", ROOT / "cluster.yaml"]
TEXTS += sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_test(path: Path) -> bool:
    return path.is_relative_to(ROOT / "tests")


def long_parts(path: Path) -> Iterator[str]:
    text = path.read_text()
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX and not any(SIZE_REASON.search(line) for line in lines[:30]):
        yield f"{path.name} has {len(lines)} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            above = lines[max(0, node.lineno - 2) : node.lineno]
            if length > FUNCTION_LINES_MAX and not any(SIZE_REASON.search(line) for line in above):
                yield f"{path.name}:{node.lineno} {node.name} has {length} lines"


def does_nothing(part: ast.stmt) -> bool:
    constant = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
    return constant or isinstance(part, ast.Pass | ast.Continue | ast.Break)


def swallowed(tree: ast.AST) -> list[int]:
    """Lines of handlers of every exception that do nothing about it: neither raise, nor call, nor keep it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kind = node.type
            broad = kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
            if broad and all(does_nothing(part) for part in node.body):
                lines.append(node.lineno)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            lines += [node.lineno for arg in node.args if ast.unparse(arg) in ("Exception", "BaseException")]
    return lines


def sleeps(tree: ast.AST) -> list[int]:
    return [
        n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("time.sleep", "sleep")
    ]


ASSERTING_WORDS = ("raises", "assert", "check", "verify", "expect", "validate", "fail", "warns", "run")


def asserts_something(function: ast.AST, asserting: frozenset[str] = frozenset()) -> bool:
    """Whether it asserts, or calls what by its name or by `asserting` does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in asserting or any(word in name.lower() for word in ASSERTING_WORDS):
                return True
    return False


def unasserting_tests(tree: ast.AST) -> list[str]:
    """Names of the tests that can only fail by accident; helpers of the same file that assert are seen through."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    asserting: frozenset[str] = frozenset()
    while (more := frozenset(f.name for f in functions if asserts_something(f, asserting))) != asserting:
        asserting = more
    return [f.name for f in functions if f.name.startswith("test") and f.name not in asserting]


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_and_functions_are_short(path: Path) -> None:
    assert list(long_parts(path)) == []


@pytest.mark.parametrize("path", [*FILES, *TEXTS], ids=named)
def test_nothing_is_left_undone_and_no_machine_is_named(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not UNDONE.search(line), f"{named(path)}:{number} {line.strip()}"
        assert not MACHINE_PATHS.search(line), f"{named(path)}:{number} {line.strip()}"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_error_is_swallowed(path: Path) -> None:
    assert swallowed(ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", [path for path in FILES if is_test(path)], ids=named)
def test_tests_wait_for_conditions_and_can_fail(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert sleeps(tree) == [], "wait for an event or a condition instead of sleeping"
    assert unasserting_tests(tree) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.is_relative_to(ROOT / "tests" / "unit")], ids=named)
def test_unit_tests_name_no_ray(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert [name for name in names if name == "ray" or name.startswith("ray.")] == []


def test_ci_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    targets = re.findall(r"^step make ([\w-]+)", script.read_text(), re.MULTILINE)
    assert {"test", "lint", "types", "test-slow"} <= set(targets)
    subprocess.run(["make", "-n", *targets], check=True, cwd=ROOT, timeout=30, stdout=subprocess.DEVNULL)


def test_the_checks_find_what_they_look_for(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    x = 1\n" * 80 + "\n" * 400)
    assert len(list(long_parts(path))) == 2
    path.write_text("# size: one table\n# size: one table\ndef f():\n" + "    x = 1\n" * 80 + "\n" * 400)
    assert list(long_parts(path)) == []
    bad = "try:\n    f()\nexcept Exception:\n    ...\nwith contextlib.suppress(Exception):\n    f()\n"
    assert swallowed(ast.parse(bad)) == [3, 5]
    assert swallowed(ast.parse("try:\n    f()\nexcept Exception as e:\n    log(e)\n")) == []
    assert sleeps(ast.parse("time.sleep(1)")) == [1]
    tests = "def test_a(): x = 1\ndef test_b(): seen()\ndef seen(): deeper()\ndef deeper(): assert x"
    assert unasserting_tests(ast.parse(tests)) == ["test_a"]
    assert UNDONE.search("# " + "TO" + "DO later")
    assert MACHINE_PATHS.search("cd /ho" + "me/me")
