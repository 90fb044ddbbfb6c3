"""A broker's watch over the coordinators on its node: one that hangs is ended, active ones and standbys are not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rayqueue.actors import coordinator_watch, hang_watch
from rayqueue.actors.coordinator_watch import CoordinatorWatch
from rayqueue.actors.hang_watch import Heard
from rayqueue.actors.options import BrokerOptions
from rayqueue.config.broker import BrokerConfig
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

WAIT_S = 20.0

# A coordinator as its broker sees it: a standby, whose loop may be dead-locked ("deaf").
PROCESS = """
import sys, time
from pathlib import Path
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.identity import DirectoryLock
from rayqueue.errors import NotController
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity

def metadata(_):
    if how == "deaf":
        time.sleep(100)
    raise NotController("a standby")

root, how = Path(sys.argv[1]), sys.argv[2]
lock = DirectoryLock(root / "lock")
assert lock.try_acquire()
me = Identity(PROTOCOL_VERSION, "c", "coordinator", 0, "i", 0)
server = DataServer("127.0.0.1", 0, identity=me, actions={"metadata": metadata})
(root / "ports").mkdir()
(root / "ports" / "coordinator").write_text(str(server.port))
print("up", flush=True)
sys.stdin.read()
"""


def start(root: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(root), how]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None and made.stdout.readline() == "up\n"
    return made


@pytest.mark.parametrize("how", ["stopped", "deaf"])
def test_one_that_hangs_is_ended_and_a_standby_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.1)
    options = BrokerOptions("n", "c", 0, str(tmp_path), "127.0.0.1", "127.0.0.1", (), None, BrokerConfig.parse())
    processes = [start(tmp_path / "coordinator-0", how), start(tmp_path / "coordinator-1", "well")]
    watch = CoordinatorWatch(options)
    looks = threading.Semaphore(0)
    look = watch._look
    monkeypatch.setattr(watch, "_look", lambda: (look(), looks.release()))
    watch.start()
    try:
        if how == "stopped":
            processes[0].send_signal(signal.SIGSTOP)
        assert processes[0].wait(WAIT_S) == -signal.SIGKILL
        for _ in range(coordinator_watch.STOPPED_AFTER + 1):
            assert looks.acquire(timeout=WAIT_S)
        assert processes[1].poll() is None
    finally:
        watch.stop()
        watch.join(WAIT_S)
        for one in processes:
            one.kill()
            one.communicate()


def test_real_coordinators_answer_active_or_not(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, coordinators=3) as cluster:
        watch = CoordinatorWatch(cluster.brokers[0].options)
        watch._look()
        assert len(watch._watches) == 3
        eventually(lambda: all(one.ask() is Heard.ANSWER for one in watch._watches.values()), WAIT_S)
        cluster.stop_coordinator()
        assert [one.ask() for one in watch._watches.values()].count(Heard.NOBODY) == 1
