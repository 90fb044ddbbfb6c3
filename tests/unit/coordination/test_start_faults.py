"""A disk that is full or gone while a process starts: reported, tried again, and over when it is back. And crashes."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors import identity
from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.identity import DirectoryLock, bind_server, kept_port
from rayqueue.actors.options import BrokerOptions, CoordinatorOptions
from rayqueue.config import BrokerConfig
from rayqueue.errors import StorageError

WAIT_S = 20.0
HOST = "127.0.0.1"
FULL = OSError(errno.ENOSPC, "No space left on device")
LOST = OSError(errno.EIO, "Input/output error")
Break = Callable[[pytest.MonkeyPatch, Path], None]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def no_space_for_the_note(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(identity.os, "pwrite", failing(FULL))


def no_locks(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(identity.fcntl, "flock", failing(LOST))


def unreadable_port(patch: pytest.MonkeyPatch, directory: Path) -> None:
    read = Path.read_text
    broken = directory / "ports"
    patch.setattr(Path, "read_text", lambda p, *a, **k: failing(LOST)() if p.parent == broken else read(p, *a, **k))


def unexpected(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setattr(identity, "kept_port", failing(LOST))


def until_reported(process: Broker | Coordinator, error: str) -> str:
    """Waits until a process reports that it failed of this error; says what it tells of it."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        report = process.report()
        if (report.state, report.error) == ("failed", error):
            return report.problem
        pause.wait(0.02)
    raise AssertionError(process.report())


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(CoordinatorOptions("c", str(tmp_path), HOST, HOST, BrokerConfig.parse()))
    assert made.ready.wait(WAIT_S), made.report()
    made.format("c1")
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        (no_space_for_the_note, "StorageError", "free some space"),
        (no_locks, "StorageError", "Input/output error"),
        (unreadable_port, "StorageError", "Input/output error"),
        (unexpected, "OSError", "Input/output error"),
    ],
)
def test_a_broker_says_what_its_disk_does_and_starts_when_that_is_over(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, error: str, said: str
) -> None:
    addresses = ((HOST, coordinator.port),)
    options = BrokerOptions("c", "c1", 0, str(tmp_path), HOST, HOST, addresses, None, coordinator.options.config, "n")
    with monkeypatch.context() as patch:
        broken(patch, tmp_path / "0")
        broker = Broker(options, lambda slot: None, lambda: None)
        try:
            assert said in until_reported(broker, error)
            patch.undo()
            assert broker.ready.wait(WAIT_S), broker.report()
        finally:
            broker.stop()


@pytest.mark.parametrize(
    ("broken", "error"),
    [(no_space_for_the_note, "StorageError"), (no_locks, "StorageError"), (unreadable_port, "StorageError"),
     (unexpected, "OSError")],
)  # fmt: skip
def test_a_coordinator_says_what_its_disk_does_and_starts_when_that_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break, error: str
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, tmp_path / "coordinator-0")
        made = Coordinator(CoordinatorOptions("c", str(tmp_path), HOST, HOST, BrokerConfig.parse()))
        try:
            until_reported(made, error)
            patch.undo()
            assert made.ready.wait(WAIT_S), made.report()
            assert made.format() == made.format(), "an id is made once"
        finally:
            made.stop()


# --- locks, ports -----------------------------------------------------------------------------------------------------


def test_a_lock_that_could_not_be_signed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = DirectoryLock(tmp_path / "lock"), DirectoryLock(tmp_path / "lock")
    with monkeypatch.context() as patch:
        no_space_for_the_note(patch, tmp_path)
        with pytest.raises(StorageError, match="No space left"):
            first.try_acquire()
    assert second.try_acquire()
    second.release()


def test_a_lock_is_signed_over_a_longer_note_without_room_for_another_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    lock.path.write_text("4194304 a-host-with-a-very-long-name-of-which-nothing-may-be-left-" + "x" * 80)
    sizes: list[int] = []
    write = os.pwrite

    def watched(file: int, data: bytes, offset: int) -> int:
        sizes.append(os.fstat(file).st_size)
        return write(file, data, offset)

    monkeypatch.setattr(identity.os, "pwrite", watched)
    assert lock.try_acquire()
    assert sizes[0] > 80, "the old note was not cut before"
    assert lock.holder().startswith(f"process {os.getpid()} on ") and "xxx" not in lock.holder()
    lock.release()


def test_a_lock_held_by_another_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not DirectoryLock(path).try_acquire()
    assert DirectoryLock(path).try_acquire()


class Server:
    def __init__(self, port: int) -> None:
        self.port = port or 4711
        self.open = True

    def shutdown(self) -> None:
        self.open = False


def test_a_server_whose_port_cannot_be_kept_is_not_left_listening(tmp_path: Path) -> None:
    made: list[Server] = []

    def make(port: int) -> Server:
        made.append(Server(port))
        return made[-1]

    (tmp_path / "ports").write_text("in the way")
    with pytest.raises(StorageError):
        bind_server(tmp_path, "b", HOST, make)
    assert not any(server.open for server in made)
    (tmp_path / "ports").unlink()
    assert bind_server(tmp_path, "b", HOST, make).open and kept_port(tmp_path / "ports" / "b") == 4711


def test_what_is_written_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(identity.os, "write", lambda file, data: write(file, data[:7]))
    noted = identity.BrokerIdentity("a cluster", 3, "a directory")
    identity.write_json(tmp_path / "identity.json", noted)
    assert identity.read_json(tmp_path / "identity.json", identity.BrokerIdentity) == noted


# --- crashes ----------------------------------------------------------------------------------------------------------

CRASH = """
import ctypes, logging, sys
from rayqueue.actors.logs import write_logs
from rayqueue.actors.options import Logging
import rayqueue.actors.logs as logs
logs.FILE_BYTES_MAX = 2000
write_logs(Logging(sys.argv[1]))
for i in range(int(sys.argv[2])):
    logging.getLogger("rayqueue.x").info("line %d %s", i, "." * 100)
def where_it_crashed():
    ctypes.string_at(0)
where_it_crashed()
"""


@pytest.mark.parametrize("lines", [0, 50], ids=["at once", "after rotations"])
def test_a_crash_leaves_its_stack_in_the_newest_log_file(tmp_path: Path, lines: int) -> None:
    file = tmp_path / "logs" / "p.log"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", CRASH, str(file), str(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    text = file.read_text()
    assert done.returncode < 0, done.stderr
    assert "Segmentation fault" in text and "where_it_crashed" in text
    assert lines or "starts" in text


def test_a_log_file_closes_what_it_opened_before_a_rotation(tmp_path: Path) -> None:
    command = (
        "import sys, os, logging\nfrom rayqueue.actors.logs import _LogFile\n"
        "h = _LogFile(sys.argv[1], maxBytes=100, backupCount=1)\ncount = lambda: len(os.listdir('/proc/self/fd'))\n"
        "before = count()\nfor _ in range(20): h.emit(logging.LogRecord('x', 20, '', 1, 'y' * 90, (), None))\n"
        "print(count() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = [sys.executable, "-c", command, str(tmp_path / "log")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr
