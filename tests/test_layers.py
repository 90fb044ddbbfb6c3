"""The import rules of docs/architecture.md ("Layers"), checked over the syntax tree of every module.

Imports inside functions and under `TYPE_CHECKING` count too; the few that are allowed are named here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BASE = ("rayqueue.types", "rayqueue.errors")
CONFIG = (*BASE, "rayqueue.config")
PROTOCOL = (*CONFIG, "rayqueue.protocol")
PURE = (*CONFIG, "rayqueue.protocol.messages")
GROUPS = (*PURE, "rayqueue.protocol.group_messages")
# What reads segments, in any process; the rest of storage writes and belongs to the replica actor.
STORAGE_READ = ("rayqueue.storage.index", "rayqueue.storage.mapped", "rayqueue.storage.reader")
PUBLIC_CLIENTS = ("rayqueue.producer", "rayqueue.consumer", "rayqueue.admin", "rayqueue.message")
CLIENT = (*PROTOCOL, "rayqueue.client", *STORAGE_READ, *PUBLIC_CLIENTS)
CLIENT_OUTSIDE = {"click", "google_crc32c", "msgspec", "numpy", "pandas", "pyarrow"}

# Layer -> rayqueue modules it may import (each with what is below it), packages from outside the standard library.
ALLOWED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "rayqueue.types": (("rayqueue.errors",), set()),
    "rayqueue.errors": ((), set()),
    "rayqueue.config": (CONFIG, set()),
    "rayqueue.protocol": (PROTOCOL, {"google_crc32c", "msgspec", "numpy", "pyarrow"}),
    "rayqueue.replication": ((*PURE, "rayqueue.replication"), {"msgspec", "numpy"}),
    "rayqueue.coordination": ((*PURE, "rayqueue.coordination"), {"msgspec", "numpy"}),
    "rayqueue.groups": ((*GROUPS, "rayqueue.groups"), {"msgspec"}),
    "rayqueue.client": ((*GROUPS, "rayqueue.client"), {"msgspec", "numpy"}),
    "rayqueue.storage": ((*PROTOCOL, "rayqueue.storage"), {"google_crc32c", "msgspec", "numpy", "pyarrow"}),
    **dict.fromkeys(PUBLIC_CLIENTS, (CLIENT, CLIENT_OUTSIDE)),
    "rayqueue.perf": ((*CONFIG, *PUBLIC_CLIENTS, "rayqueue.perf"), {"numpy", "pyarrow"}),
}
# May import everything but what the rules for ray and the actors forbid.
TOP = {"rayqueue.actors", "rayqueue.cli", "rayqueue.cluster", "rayqueue.demo", "rayqueue.testing"}
PURE_LAYERS = ("rayqueue.replication", "rayqueue.coordination", "rayqueue.groups", "rayqueue.client")
# The client's modules with I/O, threads or Arrow in them: they follow the rules of producer.py and consumer.py.
CLIENT_IO = tuple(
    f"rayqueue.client.{name}"
    for name in (
        *("connection", "cluster_client", "data_channel", "fetching", "framed_socket", "io"),
        *(f"groups.{name}" for name in ("assignment", "auto_commit", "calls", "commits", "committer")),
        *(f"groups.{name}" for name in ("membership", "session", "watch")),
    )
)
# What a machine without side effects has no use for. `random.Random`, handed in, is fine.
IMPURE = {"asyncio", "concurrent", "multiprocessing", "os", "pathlib", "selectors", "signal", "socket", "subprocess"}
IMPURE |= {"tempfile", "threading", "time", "uuid", "secrets", "queue", "shutil", "mmap"}

RAY_USERS = ("rayqueue.actors", "rayqueue.cluster")
ACTOR_USERS = ("rayqueue.actors", "rayqueue.cluster", "rayqueue.testing")
# bootstrap_servers="auto" asks Ray where the cluster is: one lazy import.
LAZY_CLUSTER = {"rayqueue.client.connection", "rayqueue.client.cluster_client"}


def modules() -> Iterator[tuple[str, Path]]:
    for directory, package in ((ROOT / "rayqueue", "rayqueue"), (ROOT / "actors", "rayqueue.actors")):
        for path in sorted(directory.rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            yield ".".join((package, *parts)), path


MODULES = dict(modules())


def within(module: str, layer: str) -> bool:
    """`admin_topics` is a part of `admin` that has a file of its own, as `admin.topics` would be."""
    return module == layer or module.startswith((layer + ".", layer + "_"))


def imports(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything the module imports; `from rayqueue import x` gives `rayqueue.x`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base]) if base else ".".join(parent)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if base == "rayqueue" or full in MODULES else base


def layer_of(module: str) -> str | None:
    if any(within(module, name) for name in CLIENT_IO):
        return "rayqueue.producer"
    return next((layer for layer in ALLOWED if within(module, layer)), None)


def breaches(module: str, path: Path) -> Iterator[str]:
    layer = layer_of(module)
    pure = layer in PURE_LAYERS
    for line, name in imports(module, path):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        top = name.partition(".")[0]
        if top == "ray" and not any(within(module, user) for user in RAY_USERS):
            yield f"{where}: only {', '.join(RAY_USERS)} may import ray"
        if within(name, "rayqueue.actors") and not any(within(module, user) for user in ACTOR_USERS):
            yield f"{where}: only {', '.join(ACTOR_USERS)} may import the actors"
        if top == "actors":
            yield f"{where}: the package is rayqueue.actors; two names for one module break pickling"
        if layer is None or (name == "rayqueue.cluster" and module in LAZY_CLUSTER):
            continue
        inside, outside = ALLOWED[layer]
        if top == "rayqueue":
            if name != "rayqueue" and not any(within(name, allowed) for allowed in inside):
                yield f"{where}: {layer} may import {', '.join(inside) or 'nothing of rayqueue'}"
        elif top in sys.stdlib_module_names:
            if pure and top in IMPURE:
                yield f"{where}: {layer} is pure; hand in what it needs"
        elif top not in outside:
            yield f"{where}: {layer} may import {', '.join(sorted(outside)) or 'the standard library only'}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_layers(module: str) -> None:
    assert list(breaches(module, MODULES[module])) == []


def test_every_module_has_a_layer() -> None:
    tops = {".".join(module.split(".")[:2]) for module in MODULES}
    unlisted = {top for top in tops if layer_of(top) is None and not any(within(top, name) for name in TOP)}
    assert unlisted == {"rayqueue", "rayqueue.__main__"}


def random_calls(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno}: random.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
    ]


def test_pure_packages_draw_no_random_numbers_of_their_own() -> None:
    for module, path in MODULES.items():
        if layer_of(module) in PURE_LAYERS:
            assert random_calls(ast.parse(path.read_text())) == [], path


def test_breaches_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker itself: a module that does all that is forbidden."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text(
        "import ray\nimport time\nimport pyarrow\nfrom rayqueue import storage\nfrom ..actors import broker\n"
        "def f():\n    from rayqueue.coordination.state import ClusterState\n"
    )
    found = "\n".join(breaches("rayqueue.replication.bad", path))
    for name in ("ray:", "time:", "pyarrow:", "rayqueue.storage:", "rayqueue.actors", "rayqueue.coordination.state:"):
        assert f"imports {name}" in found, found
    assert random_calls(ast.parse("import random\nrandom.random()\nrandom.Random(1)")) == ["line 2: random.random"]


@pytest.mark.parametrize("name", ["rayqueue", "rayqueue.producer", "rayqueue.consumer", "rayqueue.admin"])
def test_clients_import_no_ray(name: str) -> None:
    code = f"import sys, {name}; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_import_of_the_package_is_light() -> None:
    code = "import sys, rayqueue; print(sorted({'ray', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_actors_under_their_bare_name_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", "import actors"], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert done.returncode != 0
    assert "rayqueue.actors" in done.stderr
