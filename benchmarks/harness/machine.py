"""What a reader must know to judge a figure: machine, versions, where the data lay."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import rayqueue

ROOT = Path(__file__).parents[2]
GIT_WAIT_S = 20.0
PACKAGES = (
    "ray", "pyarrow", "numpy", "msgspec", "google-crc32c", "hdrhistogram", "confluent-kafka", "redis", "nats-py",
)  # fmt: skip


def describe(data_dir: Path) -> dict[str, Any]:
    """Machine, kernel, versions, file system of the data directory, load at the beginning."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {
            "rayqueue": rayqueue.__version__,
            **{name: version for name in PACKAGES if (version := _version(name))},
        },
        "data_dir": {"file_system": file_system(data_dir), "free_bytes": shutil.disk_usage(data_dir).free},
        "load_average": os.getloadavg(),
    }


def code() -> dict[str, Any]:
    """Which version of the code lies here now: its commit and whether files differ from it, where there is git, and a
    digest of all sources of the project and its benchmarks."""
    commit = _git("rev-parse", "HEAD")
    found: dict[str, Any] = {"commit": commit, "sources": _digest()}
    if commit is not None:
        found["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return found


def _git(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=GIT_WAIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def _digest() -> str:
    found = hashlib.sha256()
    for package in (Path(rayqueue.__file__).parent, ROOT / "benchmarks"):
        for source in sorted(package.rglob("*.py")):
            found.update(f"{source.relative_to(package)}\n".encode() + source.read_bytes())
    return found.hexdigest()[:16]


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def file_system(path: Path) -> str:
    """The type of the file system that holds the path."""
    where = path.resolve()
    mounts = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        mounts[Path(mount)] = kind
    return next((mounts[parent] for parent in (where, *where.parents) if parent in mounts), "unknown")
