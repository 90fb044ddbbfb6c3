"""A broker's watch over a process beside it: one that hangs is ended, by its id, and no other is."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors import lock_holder, process_watch
from rayqueue.actors.calls import typed
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.identity import DirectoryLock
from rayqueue.actors.lock_holder import Holder, holder_of, is_stopped, kill
from rayqueue.actors.process_watch import ProcessWatch
from rayqueue.coordination.records import GroupActorRecord
from rayqueue.protocol.messages import PROTOCOL_VERSION, Empty, Identity
from tests.integration.waiting import eventually

WAIT_S = 20.0
HOST = "127.0.0.1"

# A replica actor as its broker sees it: holds its directory's lock, answers pings; "deaf": accepts, and does nothing.
PROCESS = """
import sys, time
from pathlib import Path
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.identity import DirectoryLock
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity

lock = DirectoryLock(Path(sys.argv[1]))
assert lock.try_acquire()
sleep = (lambda _: time.sleep(100)) if sys.argv[2] == "deaf" else None
actions = {"identify": sleep} if sleep else {}
server = DataServer("127.0.0.1", 0, identity=Identity(PROTOCOL_VERSION, "c", "replica", 0, "i", 0), actions=actions)
print(server.port, flush=True)
sys.stdin.read()
"""


class Process:
    """A process of its own with a lock and a server."""

    def __init__(self, lock: Path, how: str = "lively") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(lock), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def processes() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(*arguments: Any) -> Process:
        made.append(Process(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.end()


class Watched:
    """A watch over what listens on a port, with what it started."""

    def __init__(self, port: int, lock: Path) -> None:
        self.started: list[str] = []
        self.watch = ProcessWatch(
            "process", lambda: GroupActorRecord(0, "i", HOST, port), lambda: self.started.append("it"), lock, None
        )
        self.watch.start()

    def stop(self) -> None:
        self.watch.stop()
        self.watch.join(WAIT_S)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_watch, "PING_S", 0.02)
    monkeypatch.setattr(process_watch, "LOOK_S", 0.1)


def test_a_stopped_process_is_ended_and_its_successor_started(
    tmp_path: Path, processes: Callable[..., Process]
) -> None:
    lock = tmp_path / "lock"
    process = processes(lock)
    watched = Watched(process.port, lock)
    eventually(lambda: holder_of(lock), WAIT_S)
    process.process.send_signal(signal.SIGSTOP)
    assert process.process.wait(WAIT_S) == -signal.SIGKILL
    eventually(lambda: watched.started, WAIT_S)
    assert DirectoryLock(lock).try_acquire(), "its successor has the directory"
    watched.stop()


def test_one_that_was_stopped_before_the_broker_came_is_ended_too(
    tmp_path: Path, processes: Callable[..., Process]
) -> None:
    lock = tmp_path / "lock"
    process = processes(lock)
    process.process.send_signal(signal.SIGSTOP)
    watched = Watched(process.port, lock)
    assert process.process.wait(WAIT_S) == -signal.SIGKILL
    watched.stop()


def test_one_that_runs_and_does_not_answer_is_given_longer(
    tmp_path: Path, processes: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Holder] = []
    stopped = lock_holder.is_stopped
    monkeypatch.setattr(process_watch, "is_stopped", lambda holder: (asked.append(holder), stopped(holder))[1])
    lock = tmp_path / "lock"
    process = processes(lock, "deaf")
    watched = Watched(process.port, lock)
    assert process.process.wait(WAIT_S) == -signal.SIGKILL
    assert len(asked) > process_watch.HANGS_AFTER - process_watch.STOPPED_AFTER - 1
    watched.stop()


def test_a_successor_does_not_inherit_what_its_predecessor_missed(
    tmp_path: Path, processes: Callable[..., Process]
) -> None:
    """One that stood by takes the lock and the port at once: no ping was refused in between."""
    lock = tmp_path / "lock"
    first = processes(lock, "deaf")
    watch = ProcessWatch("process", lambda: None, lambda: None, lock, None)
    watch._missed = process_watch.HANGS_AFTER - 1
    assert not watch._end_if_it_hangs()
    first.end()
    second = processes(lock, "deaf")
    watch._missed = process_watch.HANGS_AFTER + 1
    assert not watch._end_if_it_hangs() and watch._missed == 0
    watch._missed = process_watch.HANGS_AFTER
    assert watch._end_if_it_hangs()
    assert second.process.wait(WAIT_S) == -signal.SIGKILL


def test_one_that_answers_is_left_alone_and_so_is_one_that_is_not_there(
    tmp_path: Path, processes: Callable[..., Process]
) -> None:
    lock = tmp_path / "lock"
    process = processes(lock)
    nobody = Watched(1, lock)
    eventually(lambda: len(nobody.started) > 2, WAIT_S)
    nobody.stop()
    assert process.process.poll() is None


def test_a_process_never_ends_itself(tmp_path: Path) -> None:
    """As in tests, where all parts of a cluster share one."""
    pings = threading.Semaphore(0)
    release = threading.Event()

    def silent(_: Empty) -> Identity:
        pings.release()
        release.wait(WAIT_S)
        raise AssertionError("nobody waits for it")

    lock = DirectoryLock(tmp_path / "lock")
    assert lock.try_acquire()
    identity = Identity(PROTOCOL_VERSION, "c", "replica", 0, "i", 0)
    server = DataServer(HOST, 0, identity=identity, actions={"identify": typed(Empty, silent)})
    watched = Watched(server.port, lock.path)
    assert pings.acquire(timeout=WAIT_S)
    eventually(lambda: watched.watch._missed > process_watch.HANGS_AFTER + 2, WAIT_S)
    assert holder_of(lock.path) is None
    watched.stop()
    release.set()
    server.shutdown()
    lock.release()


def test_a_process_is_known_by_its_start(tmp_path: Path, processes: Callable[..., Process]) -> None:
    lock = tmp_path / "lock"
    assert holder_of(lock) is None, "there is no file"
    process = processes(lock)
    holder = holder_of(lock)
    assert holder is not None and holder.pid == process.process.pid and not is_stopped(holder)
    assert not kill(holder._replace(started=holder.started - 1)), "another process of that id"
    assert process.process.poll() is None
    lock.write_text(lock.read_text().replace(str(holder.started), str(holder.started - 1)))
    assert holder_of(lock) is None
    lock.write_text(f"{holder.pid} elsewhere {holder.started}\n")
    assert holder_of(lock) is None, "of another machine"
    assert kill(holder)
    process.process.wait(WAIT_S)
    assert not kill(holder)
    other = processes(tmp_path / "other")
    lock.write_text((tmp_path / "other").read_text())
    assert other.process.poll() is None and holder_of(lock) is None, "it lives, but has not the lock"
