"""What `rayqueue doctor` looks at on this machine, without Ray and without a cluster."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rayqueue.cli.output import size_text

OK, WARN, FAIL = "ok", "warn", "fail"

OLDEST_PYTHON = (3, 10)
PACKAGES = ("rayqueue", "ray", "pyarrow", "msgspec", "google-crc32c", "click", "rich")
# Below these Ray or a broker gets into trouble soon, or at once.
DESCRIPTORS_WARN = 4096
DISK_WARN = 5 << 30
DISK_FAIL = 256 << 20
SHARED_MEMORY_WARN = 256 << 20


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        result: "ok", "warn" or "fail".
        found: what was found, in plain words.
        advice: what to do; "" when all is well.
    """

    name: str
    result: str
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def default_data_dir(name: str) -> Path:
    """Where a cluster's data lies when nobody says (see `rayqueue.start`)."""
    return Path(os.environ.get("RAYQUEUE_DATA_DIR") or Path.home() / ".rayqueue" / name)


def check_machine(data_dir: Path | None, cluster_up: bool) -> Iterator[Check]:
    """All checks of this machine.

    Args:
        data_dir: the cluster's data directory on this node; None: not known.
        cluster_up: whether the cluster runs (then its processes rightly hold the locks there).
    """
    yield check_python(sys.version_info[:3])
    yield check_packages()
    yield check_crc()
    yield check_descriptors()
    yield check_shared_memory(Path("/dev/shm"))
    if data_dir is None:
        yield Check("data directory", OK, "not checked; give --data-dir")
        return
    yield check_data_dir(data_dir)
    yield check_disk(data_dir)
    yield check_locks(data_dir, cluster_up)


def check_python(version: tuple[int, ...]) -> Check:
    """Python is one that rayqueue supports."""
    text = ".".join(map(str, version))
    if tuple(version) < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return Check(
            "Python", FAIL, f"Python {text} is too old", f"use Python {needed} or newer, on all nodes the same"
        )
    return Check("Python", OK, f"Python {text} on {platform.system()} {platform.machine()}")


def check_packages() -> Check:
    """What rayqueue stands on is installed."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    # A checkout that was not installed works, and so does a client without Ray.
    needed = [name for name in missing if name not in ("rayqueue", "ray")]
    if needed:
        return Check("packages", FAIL, f"missing: {', '.join(needed)}", f"pip install {' '.join(needed)}")
    if "ray" in missing:
        return Check(
            "packages",
            WARN,
            "Ray is not installed here",
            "clients with an address work; for the rest: pip install 'ray[default]'",
        )
    return Check("packages", OK, ", ".join(found))


def check_crc() -> Check:
    """Checksums are computed by the C library; the fallback in Python is slower by a thousand."""
    import google_crc32c

    if google_crc32c.implementation != "c":
        return Check(
            "checksums",
            WARN,
            "google-crc32c runs in pure Python, a thousand times slower",
            "pip install --force-reinstall google-crc32c (a wheel with the C library)",
        )
    return Check("checksums", OK, "CRC32C by the C library")


def check_descriptors() -> Check:
    """Enough files can be open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = min(hard, 65536) if hard > 0 else 65536
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_WARN:
        return Check(
            "open files",
            WARN,
            f"a process may open {soft} files; segments and connections need more",
            f"ulimit -n {possible}, in the shell that starts Ray (or LimitNOFILE= in its unit)",
        )
    return Check("open files", OK, f"a process may open {soft if soft > 0 else 'any number of'} files")


def check_shared_memory(path: Path) -> Check:
    """Ray's object store has room; containers have 64 MiB unless told otherwise."""
    if not path.is_dir():
        return Check("shared memory", OK, f"no {path} on this system; Ray uses files")
    total = shutil.disk_usage(path).total
    if total < SHARED_MEMORY_WARN:
        return Check(
            "shared memory",
            WARN,
            f"{path} has {size_text(total)}; Ray's object store will be slow",
            "in a container: docker run --shm-size=2g",
        )
    return Check("shared memory", OK, f"{path} has {size_text(total)}")


def check_data_dir(path: Path) -> Check:
    """The data directory, or the nearest one above that exists, can be written."""
    there = _existing(path)
    if not there.is_dir():
        return Check("data directory", FAIL, f"{there} is not a directory", "choose another with --data-dir")
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".rayqueue-doctor-"):
            pass
    except OSError as error:
        return Check(
            "data directory",
            FAIL,
            f"{there} cannot be written ({error.strerror})",
            f"give user {_user()} the right to write there, or choose another with --data-dir or RAYQUEUE_DATA_DIR",
        )
    if there != path:
        return Check("data directory", OK, f"{path} does not exist yet and can be made")
    return Check("data directory", OK, f"{path} can be written")


def check_disk(path: Path) -> Check:
    """There is room for segments."""
    usage = shutil.disk_usage(_existing(path))
    found = f"{size_text(usage.free)} of {size_text(usage.total)} free"
    advice = "free some space, lower retention.ms or retention.bytes of large topics, or move the data directory"
    if usage.free < DISK_FAIL:
        return Check("disk", FAIL, found, advice)
    if usage.free < DISK_WARN:
        return Check("disk", WARN, found, advice)
    return Check("disk", OK, found)


def check_locks(path: Path, cluster_up: bool) -> Check:
    """No process of a cluster that is down holds a broker's directory."""
    locks = [*path.glob("*/lock"), *path.glob("*/locks/*")]
    held = [lock for lock in sorted(locks) if _is_held(lock)]
    if not held or cluster_up:
        return Check("locks", OK, f"{len(held)} held by the running cluster" if held else "none held")
    holders = ", ".join(sorted({_holder(lock) for lock in held}))
    return Check(
        "locks",
        FAIL,
        f"the cluster is not up, yet {path} is in use by {holders}",
        "another cluster uses this directory, or a process was left behind: end it, or choose another --data-dir",
    )


def _is_held(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # gone, or not ours to read: then not ours to judge
    return False


def _holder(path: Path) -> str:
    """The process that holds a lock, as it wrote there itself."""
    pid, _, host = path.read_text(errors="replace").strip().partition(" ")
    return f"process {pid} on {host}" if pid else "a process that did not leave its name"


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
