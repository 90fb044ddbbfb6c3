"""Processes that take a slot, or stand by until one is free; without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import rayqueue
from rayqueue.actors.identity import DirectoryLock, replica_lock
from rayqueue.actors.options import BrokerOptions
from rayqueue.actors.replica_process import LOOK_S, PartitionReplicaProcess
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

WAIT_S = 20.0
HOLD = """
import sys
from pathlib import Path
from rayqueue.actors.identity import DirectoryLock, replica_lock
lock = DirectoryLock(Path(sys.argv[1]))
print(lock.try_acquire(), flush=True)
sys.stdin.read()
"""


def holder(lock: DirectoryLock) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    return child


def fail(error: BaseException) -> None:
    pytest.fail(f"the process would end: {error!r}")


def until(process: PartitionReplicaProcess, condition: Callable[[], bool]) -> None:
    eventually(condition, WAIT_S, f"what {process!r} should do")


def test_one_stands_by_and_takes_over_the_slot_with_all_its_records(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        options = cluster.brokers[0].options
        spare = PartitionReplicaProcess(options, options.pool_size, fail)
        try:
            until(spare, lambda: spare.report().state == "waiting")
            report = spare.report()
            assert (report.role, report.slot, report.port) == ("replica", -1, 0) and "in use by" in report.problem
            rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers).create_topic("t")
            with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                assert producer.produce("t", b"before").result(WAIT_S).offset == 0
                port = cluster.replicas[0, 0].port
                cluster.stop_replica(0)
                assert producer.produce("t", b"after").result(WAIT_S).offset == 1
            report = spare.report()
            assert (report.state, report.slot, report.port) == ("running", 0, port)
        finally:
            spare.stop()


def test_its_own_slot_comes_first_and_one_that_stopped_takes_none(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, replicas=2) as cluster:
        options = cluster.brokers[0].options
        for slot in (0, 1):
            cluster.stop_replica(0, slot)
        second = PartitionReplicaProcess(options, 1, fail)
        until(second, lambda: second.report().state == "running")
        assert second.report().slot == 1
        third = PartitionReplicaProcess(options, 1, fail)  # as Ray starts it when another has taken over meanwhile
        until(third, lambda: third.report().state == "running")
        assert third.report().slot == 0
        late = PartitionReplicaProcess(options, 2, fail)
        until(late, lambda: late.report().state == "waiting")
        late.stop()
        third.stop()
        second.stop()
        for slot in (0, 1):
            lock = DirectoryLock(replica_lock(Path(options.directory), slot))
            until(late, lock.try_acquire)
            lock.release()
        assert late.report().slot == -1


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot watch a process")
def test_the_end_of_the_process_that_holds_the_lock_is_seen_at_once(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        options = cluster.brokers[0].options
        cluster.stop_replica(0)
        assert min(takes_over_in(options) for _ in range(3)) < LOOK_S / 2


def takes_over_in(options: BrokerOptions) -> float:
    """How long after the end of the process that has slot 0 the one that stands by has it, s."""
    child = holder(DirectoryLock(replica_lock(Path(options.directory), 0)))
    spare = PartitionReplicaProcess(options, options.pool_size, fail)
    try:
        until(spare, lambda: f"process {child.pid} " in spare.report().problem)
        began = time.monotonic()
        child.kill()
        until(spare, lambda: spare.report().slot == 0)
        return time.monotonic() - began
    finally:
        spare.stop()
        child.kill()
        child.wait()
