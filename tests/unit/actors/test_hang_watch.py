"""The watch over neighbours: one that hangs is ended, by the id of that very process; who answers or starts is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayqueue.actors import alive, hang_watch
from rayqueue.actors.alive import AliveServer
from rayqueue.actors.hang_watch import HangWatch
from rayqueue.actors.identity import DirectoryLock
from rayqueue.actors.lock_holder import Holder, holder_of
from rayqueue.errors import BrokerNotAvailable, RequestTimeout
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets, and processes known by their start")

WAIT_S = 20.0
STOPPED_AFTER = 3

# A process with a lock. "deaf": dead-locked; "failing": cannot tell; "unborn": does not listen yet.
PROCESS = """
import sys, time
from pathlib import Path
from rayqueue.actors.alive import AliveServer
from rayqueue.actors.identity import DirectoryLock

def check():
    time.sleep(100 if how == "deaf" else 0)
    assert how != "failing"

path, how = Path(sys.argv[1]), sys.argv[2]
lock = DirectoryLock(path)
assert lock.try_acquire()
server = AliveServer(path, check) if how != "unborn" else None
print("up", flush=True)
sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def begin(how: str, name: str = "lock") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, str(tmp_path / name), how]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(one)
        assert one.stdout is not None and one.stdout.readline() == "up\n"
        return one

    yield begin
    for one in made:
        one.kill()
        one.communicate()


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangWatch]:
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.1)
    made = HangWatch(lambda: sorted(tmp_path.glob("lock*")), STOPPED_AFTER)
    yield made
    made.stop()
    made.join(WAIT_S)


def pid_of(lock: Path) -> int:
    holder = holder_of(lock)
    return os.getpid() if holder is None else holder.pid  # one of our own is not told


def answers(lock: Path) -> bool:
    try:
        alive.ask(lock, pid_of(lock), 1.0)
    except BrokerNotAvailable:
        return False
    return True


def stays_silent(lock: Path) -> None:
    with pytest.raises(RequestTimeout):
        alive.ask(lock, pid_of(lock), 0.3)


def test_one_that_was_stopped_is_ended_and_so_is_its_successor_but_no_other(
    watch: HangWatch, start: Start, tmp_path: Path
) -> None:
    other, first = start("well", "lock-2"), start("well")
    watch.start()
    first.send_signal(signal.SIGSTOP)
    assert first.wait(WAIT_S) == -signal.SIGKILL
    second = start("well")
    eventually(lambda: answers(tmp_path / "lock") and watch.watched[tmp_path / "lock"].missed == 0, WAIT_S)
    assert second.poll() is None
    second.send_signal(signal.SIGSTOP)
    assert second.wait(WAIT_S) == -signal.SIGKILL
    assert other.poll() is None


def test_one_that_was_stopped_before_it_listened_is_ended_too(watch: HangWatch, start: Start) -> None:
    process = start("unborn")
    process.send_signal(signal.SIGSTOP)
    watch.start()
    assert process.wait(WAIT_S) == -signal.SIGKILL


def test_one_that_runs_and_does_not_answer_is_given_longer(
    watch: HangWatch, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Holder] = []
    stopped = hang_watch.is_stopped
    monkeypatch.setattr(hang_watch, "is_stopped", lambda holder: (asked.append(holder), stopped(holder))[1])
    process = start("deaf")
    watch.start()
    assert process.wait(WAIT_S) == -signal.SIGKILL
    assert len(asked) >= hang_watch.HANGS_AFTER


@pytest.mark.parametrize("how", ["well", "failing", "unborn"])
def test_one_that_answers_or_has_not_come_up_yet_is_left_alone(
    watch: HangWatch, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    looks = threading.Semaphore(0)
    look = watch.look
    monkeypatch.setattr(watch, "look", lambda: (look(), looks.release()))
    process = start(how)
    watch.start()
    for _ in range(hang_watch.HANGS_AFTER + 2):
        assert looks.acquire(timeout=WAIT_S)
    assert process.poll() is None


def test_a_successor_does_not_inherit_what_its_predecessor_missed(
    watch: HangWatch, start: Start, tmp_path: Path
) -> None:
    first = start("deaf")
    for _ in range(hang_watch.HANGS_AFTER - 1):
        watch.look()
    first.kill()
    first.wait(WAIT_S)
    second = start("deaf")
    holder = holder_of(tmp_path / "lock")
    assert holder is not None and holder.pid == second.pid
    for _ in range(3):  # the first finds that it is another one
        watch.look()
    assert second.poll() is None and watch.watched[tmp_path / "lock"].missed == 2


def test_real_brokers_and_coordinators_answer_until_they_end_or_hang(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, brokers=2, coordinators=3) as cluster:
        locks = [*tmp_path.glob("coordinator-*/lock"), *(tmp_path / str(number) / "lock" for number in range(2))]
        assert len(locks) == 5 and all(map(answers, locks))
        stopped = cluster.stop_coordinator()
        assert [lock for lock in locks if not answers(lock)] == [tmp_path / f"coordinator-{stopped}" / "lock"]
        cluster.brokers[0]._follower.read(lambda *_: stays_silent(tmp_path / "0" / "lock"))
        number = next(i for i in cluster.coordinators if i != stopped)
        lock = tmp_path / f"coordinator-{number}" / "lock"
        cluster.coordinators[number]._driver.call(lambda: stays_silent(lock))
        assert answers(tmp_path / "1" / "lock") and eventually(lambda: answers(lock), WAIT_S)
    assert not any(map(answers, locks))


def test_a_server_that_is_closed_makes_room_for_the_next(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock")
    assert lock.try_acquire()
    first = AliveServer(lock.path, lambda: None)
    assert answers(lock.path)
    AliveServer(lock.path, lambda: None).close()  # there is one already: it says so, and harms nobody
    assert answers(lock.path)
    first.close()
    first.close()
    assert not answers(lock.path)
    second = AliveServer(lock.path, lambda: None)
    assert answers(lock.path)
    second.close()
