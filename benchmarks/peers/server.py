"""What peers with a server of their own need: to find its program, a port for it, and to wait until it answers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.system import PeerFailed

POLL_S = 0.02
# Where Debian puts servers; not on every user's PATH.
MORE_PATHS = ("/usr/sbin", "/usr/local/sbin", "/sbin")


def find_program(name: str) -> str | None:
    """Where a program lies, or None."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *MORE_PATHS]))


def importable(module: str) -> bool:
    """Whether a Python module is installed."""
    return importlib.util.find_spec(module) is not None


def missing(program: str, module: str, package: str) -> str | None:
    """Which of a Debian server (its package bears the program's name) and its Python client is not installed, and what
    to do about it, in one line; None when both are."""
    lacking, remedies = [], []
    if find_program(program) is None:
        lacking.append(program)
        remedies.append(f"apt install {program}")
    if not importable(module):
        lacking.append(f"the Python package {package}")
        remedies.append(f"pip install '{package}'")
    return f"{' and '.join(lacking)} not installed: {' and '.join(remedies)}" if lacking else None


def client_versions(*packages: str) -> dict[str, str | None]:
    """Versions of Python packages; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at present; somebody may before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(answers: Callable[[], bool], name: str, process: ChildProcess, timeout_s: float) -> None:
    """Waits until a server that was started answers.

    Raises:
        PeerFailed: it ended, or does not answer in time; with the end of its log.
    """
    give_up = time.monotonic() + timeout_s
    while not answers():
        if process.status is not None:
            raise PeerFailed(f"{name} ended with status {process.status}: {process.tail() or 'it said nothing'}")
        if time.monotonic() > give_up:
            raise PeerFailed(f"{name} does not answer after {timeout_s:g} s: {process.tail() or 'it said nothing'}")
        time.sleep(POLL_S)
