"""The watch over a broker from the processes beside it: one that hangs is ended, one that answers or starts is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayqueue.actors import hang_watch
from rayqueue.actors.broker_watch import BrokerWatch
from rayqueue.actors.hang_watch import Heard
from rayqueue.actors.identity import DirectoryLock
from rayqueue.actors.lock_holder import Holder, holder_of
from rayqueue.actors.options import BrokerOptions
from rayqueue.config.broker import BrokerConfig
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

WAIT_S = 20.0

# A broker as those beside it see it: holds its directory's lock, listens where its directory says, answers `metadata`.
# "deaf": does not answer; "starting": refuses; "unborn": has the lock, and does not listen yet.
PROCESS = """
import sys, time
from pathlib import Path
from rayqueue.actors.flight import FlightServer
from rayqueue.actors.identity import DirectoryLock
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, MetadataResponse

def metadata(_):
    if how == "starting":
        raise BrokerNotAvailable("try again")
    time.sleep(100 if how == "deaf" else 0)
    return MetadataResponse("c", 0, [], "h", 1, 0, [])

root, how = Path(sys.argv[1]), sys.argv[2]
lock = DirectoryLock(root / "lock")
assert lock.try_acquire()
if how != "unborn":
    me = Identity(PROTOCOL_VERSION, "c", "broker", 0, "i", 0)
    server = FlightServer("127.0.0.1", 0, identity=me, actions={"metadata": metadata})
    (root / "ports").mkdir(exist_ok=True)
    (root / "ports" / "broker").write_text(str(server.port))
print("up", flush=True)
sys.stdin.read()
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def options(tmp_path: Path) -> BrokerOptions:
    return BrokerOptions("n", "c", 0, str(tmp_path), "0.0.0.0", "127.0.0.1", (), None, BrokerConfig.parse())


@pytest.fixture
def start(options: BrokerOptions) -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def begin(how: str = "lively") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, options.directory, how]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(one)
        assert one.stdout is not None and one.stdout.readline() == "up\n"
        return one

    yield begin
    for one in made:
        one.kill()
        one.communicate()


@pytest.fixture
def watch(options: BrokerOptions, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerWatch]:
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.1)
    made = BrokerWatch(options)
    yield made
    made.stop()
    made.join(WAIT_S)


def test_a_stopped_broker_is_ended_and_its_successor_left_alone(
    watch: BrokerWatch, start: Start, options: BrokerOptions
) -> None:
    first = start("lively")
    watch.start()
    first.send_signal(signal.SIGSTOP)
    assert first.wait(WAIT_S) == -signal.SIGKILL
    second = start("lively")
    eventually(lambda: watch.watch.missed == 0 and answers(watch), WAIT_S)
    assert second.poll() is None
    second.send_signal(signal.SIGSTOP)
    assert second.wait(WAIT_S) == -signal.SIGKILL, "what counted against the first one is forgotten, the watch goes on"


def answers(watch: BrokerWatch) -> bool:
    return watch.watch.ask() is Heard.ANSWER


def test_one_that_was_stopped_before_it_listened_is_ended_too(watch: BrokerWatch, start: Start) -> None:
    broker = start("unborn")
    broker.send_signal(signal.SIGSTOP)
    watch.start()
    assert broker.wait(WAIT_S) == -signal.SIGKILL


def test_one_that_runs_and_does_not_answer_is_given_longer(
    watch: BrokerWatch, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Holder] = []
    stopped = hang_watch.is_stopped
    monkeypatch.setattr(hang_watch, "is_stopped", lambda holder: (asked.append(holder), stopped(holder))[1])
    broker = start("deaf")
    watch.start()
    assert broker.wait(WAIT_S) == -signal.SIGKILL
    assert len(asked) >= hang_watch.HANGS_AFTER


@pytest.mark.parametrize("how", ["starting", "unborn"])
def test_one_that_has_not_come_up_yet_is_left_alone(
    watch: BrokerWatch, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    looks = threading.Semaphore(0)
    real = watch.watch.look
    monkeypatch.setattr(watch.watch, "look", lambda: (real(), looks.release()))
    broker = start(how)
    watch.start()
    for _ in range(hang_watch.HANGS_AFTER + 2):
        assert looks.acquire(timeout=WAIT_S)
    assert broker.poll() is None


def test_a_successor_does_not_inherit_what_its_predecessor_missed(
    watch: BrokerWatch, start: Start, options: BrokerOptions
) -> None:
    first = start("deaf")
    for _ in range(hang_watch.HANGS_AFTER - 1):
        watch.watch.look()
    first.kill()
    first.wait(WAIT_S)
    second = start("deaf")
    holder = holder_of(Path(options.directory) / "lock")
    assert holder is not None and holder.pid == second.pid
    watch.watch.look()
    watch.watch.look()
    assert second.poll() is None and watch.watch.missed == 2


def test_a_real_broker_answers(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, config={"token": "secret"}) as cluster:
        watch = BrokerWatch(cluster.brokers[0].options)
        assert answers(watch)
        assert not DirectoryLock(Path(cluster.brokers[0].options.directory) / "lock").try_acquire()
