"""The documentation is true: its Python runs, its commands exist, its links resolve, its file map is the tree.

Every ```python block of a document runs, in order and in one namespace, in a process of its own on a local Ray; a
block that must not run is fenced as ```text. In a ```bash block each `rayqueue` and `make` line is looked up.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rayqueue.config import BROKER_SETTINGS, CONSUMER_SETTINGS, PRODUCER_SETTINGS, TOPIC_SETTINGS, Setting
from rayqueue.config.settings import to_text

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

# Connected before the document's first line, so that its `rayqueue.start()` takes this Ray and no other.
PROLOGUE = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
"""
EPILOGUE = """
import rayqueue as _rayqueue
_rayqueue.shutdown()
ray.shutdown()
"""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text()) if kind == language]


WITH_PYTHON = [path for path in DOCUMENTS if blocks(path, "python")]


@pytest.mark.integration
@pytest.mark.timeout(240)
@pytest.mark.parametrize("path", WITH_PYTHON, ids=named)
def test_python_of_the_documentation_runs(path: Path, tmp_path: Path) -> None:
    script = tmp_path / "document.py"
    script.write_text("\n".join([PROLOGUE, *blocks(path, "python"), EPILOGUE]))
    environment = dict(os.environ, PYTHONPATH=str(ROOT), RAYQUEUE_DATA_DIR=str(tmp_path / "data"))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=200, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{named(path)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", WITH_PYTHON, ids=named)
def test_python_of_the_documentation_parses(path: Path) -> None:
    assert [ast.parse(block) for block in blocks(path, "python")]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a shell block: pipes and lists taken apart, comments and redirections dropped."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("<", ">", ">>") or set(word) <= set("|&;()"):
                if words:
                    yield words
                words = ["<"] if word[0] in "<>" else []
            else:
                words.append(word)


def check_rayqueue(words: list[str]) -> None:
    """Raises click.UsageError when the command or one of its options does not exist."""
    from rayqueue.cli.main import cli

    command: click.Command = cli
    context = click.Context(command, info_name="rayqueue")
    rest = words
    while isinstance(command, click.Group):
        _, rest = command.make_parser(context).parse_args(list(rest))[:2]
        if not rest:
            return
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(rest))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_of_the_documentation_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for text in blocks(path, "bash"):
        for words in commands(text):
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and Path(words[0]).name == "rayqueue":
                check_rayqueue(words[1:])
            elif words and words[0] == "make":
                assert [word for word in words[1:] if "=" not in word and word not in targets] == []


def test_wrong_commands_are_found() -> None:
    assert list(commands("a b | c 'd e' # f\nX=1 g > out && h")) == [
        *(["a", "b"], ["c", "d e"], ["X=1", "g"], ["<", "out"], ["h"]),
    ]
    for wrong in ("topik list", "topic list --nonsense", "topic explode"):
        with pytest.raises(click.UsageError):
            check_rayqueue(wrong.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_resolve(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{named(path)}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{named(path)}: {target}"


def listed_files() -> list[str]:
    """Paths of the file map: the tables in docs/architecture.md whose rows start with a path in backticks."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index("## File map") :]
    section = section[: section.index("\n## ", 1)]
    return re.findall(r"^\| `([\w./-]+\.py)` \|", section, re.MULTILINE)


def map_row(path: str) -> str:
    """A row of the file map: the first sentence of the module's docstring says what it is."""
    paragraph = (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").partition("\n\n")[0]
    sentence = re.split(r"(?<=[.?!])\s", " ".join(paragraph.split()))[0].rstrip(".:")
    escaped = sentence.replace("|", r"\|")
    return f"| `{path}` | {escaped} |"


def test_file_map_is_the_tree() -> None:
    listed = listed_files()
    tree = {named(path) for top in ("rayqueue", "actors") for path in (ROOT / top).rglob("*.py")}
    missing = sorted(path for path in tree - set(listed) if not path.endswith("__init__.py"))
    assert not missing, "add to docs/architecture.md, for example:\n" + "\n".join(map(map_row, missing))
    assert sorted(set(listed) - tree) == [], "in docs/architecture.md, but not there"
    assert len(listed) == len(set(listed))


def test_every_wire_message_is_described() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    modules = [ROOT / "rayqueue" / "protocol" / name for name in ("messages.py", "group_messages.py")]
    nodes = [node for path in modules for node in ast.parse(path.read_text()).body]
    structs = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert [name for name in structs if f"`{name}" not in text] == []


def setting_row(setting: Setting) -> str:
    """A row of docs/settings.md."""
    default = "all" if setting.name == "acks" else to_text(setting.default) or "none"
    default = {str(2**63 - 1): "never", str(2**31 - 1): "2147483647"}.get(default, default)
    return f"| `{setting.name}` | {default} | {setting.doc or 'not available yet: ' + setting.later} |"


def test_settings_are_listed_as_they_are() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    tables = (BROKER_SETTINGS, TOPIC_SETTINGS, PRODUCER_SETTINGS, CONSUMER_SETTINGS)
    rows = [setting_row(setting) for settings in tables for setting in settings.values()]
    assert [row for row in rows if row not in text] == [], "rows missing in docs/settings.md"
    assert {line for line in text.splitlines() if line.startswith("| `")} == set(rows), "rows of settings that are gone"
