"""What a reader must know to judge a figure: machine, versions, where the data lay."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import rayqueue

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
