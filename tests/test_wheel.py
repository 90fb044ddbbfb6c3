"""The packages we ship: every package directory is listed; wheel and sdist install and work outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What a new user does first, away from the checkout; the process must find the installed files, not ours.
SMOKE = """
import pathlib, sys
import rayqueue, rayqueue.actors, rayqueue.cli.main
import rayqueue.actors.broker, rayqueue.actors.partition_replica, rayqueue.actors.coordinator
from rayqueue import AdminClient, Consumer, Producer, TopicPartition, connect, shutdown, start, status
for module in (rayqueue, rayqueue.actors):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module.__file__
assert (pathlib.Path(rayqueue.__file__).parent / "py.typed").exists()
print(rayqueue.__version__)
"""


def package_directories() -> set[str]:
    """Every directory with Python files in it under rayqueue/ and actors/, as a package name."""
    found = set()
    for top, name in ((ROOT / "rayqueue", "rayqueue"), (ROOT / "actors", "rayqueue.actors")):
        for path in top.rglob("*.py"):
            found.add(".".join((name, *path.parent.relative_to(top).parts)))
    return found


def run(*command: str | Path, cwd: Path, timeout_s: float = 600) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, timeout=timeout_s, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(directory: Path) -> Path:
    """A new virtual environment without rayqueue that sees the dependencies of this one, so that nothing is fetched."""
    # Without pip, because an old pip brings an old setuptools, which would be found before ours.
    run(sys.executable, "-m", "venv", "--without-pip", directory, cwd=directory.parent)
    (site,) = directory.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return directory / "bin" / "python"


def install(python: Path, distribution: Path) -> None:
    """Installs without fetching; `--ignore-installed`, because this environment's own rayqueue is in sight."""
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--no-cache-dir")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", *options, distribution, cwd=python.parent)


def test_every_package_directory_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == package_directories()


def test_version_is_told_in_one_voice() -> None:
    import rayqueue

    assert PROJECT["project"]["version"] == rayqueue.__version__
    assert f"## {rayqueue.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist), built the way `make wheel` builds them, but from the installed setuptools."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_holds_each_module_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(built[0]).namelist() if ".dist-info/" not in name}
    expected = {"rayqueue/py.typed"}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "rayqueue").rglob("*.py")}
    expected |= {"rayqueue/" + str(path.relative_to(ROOT)) for path in (ROOT / "actors").rglob("*.py")}
    assert names == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sdist_holds_tests_and_documentation(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "README.md", "LICENSE", "cluster.yaml", "tests/test_wheel.py", "docs/architecture.md"):
        assert name in names


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_installed_package_works_outside_the_checkout(built: tuple[Path, Path], kind: int, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, built[kind])
    version = run(python, "-c", SMOKE, cwd=tmp_path).strip()
    assert version == PROJECT["project"]["version"]
    script = python.parent / "rayqueue"
    assert "topic" in run(script, "--help", cwd=tmp_path)
    assert "produce" in run(python, "-m", "rayqueue", "topic", "--help", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_plain_checkout_works_as_the_working_directory(tmp_path: Path) -> None:
    """`python script.py` and Ray's workers put the checkout itself on sys.path, without rayqueue/actors in it."""
    python = environment(tmp_path / "venv")
    code = "import rayqueue.actors.driver, sys; print(rayqueue.actors.__file__)"
    assert run(python, "-c", code, cwd=ROOT).strip() == str(ROOT / "actors" / "__init__.py")
