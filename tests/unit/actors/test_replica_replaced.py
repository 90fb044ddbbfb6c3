"""A replica actor's process in whose place another is registered: it must end, so that the next one registers anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import rayqueue
from rayqueue.actors import partition_replica
from rayqueue.actors.partition_replica import PartitionReplica
from rayqueue.errors import ProcessReplaced
from rayqueue.protocol.messages import RegisterReplicaActor
from rayqueue.testing.inprocess import HOST, InProcessCluster
from tests.integration.waiting import eventually

WAIT_S = 20.0


def late(incarnation: str) -> RegisterReplicaActor:
    """What a process asked for that is over by now."""
    return RegisterReplicaActor(0, 0, incarnation, HOST, 1)


def ends(cluster: InProcessCluster, replica: PartitionReplica, failures: list[BaseException]) -> None:
    try:
        eventually(lambda: bool(failures), WAIT_S, "that it ends")
        assert isinstance(failures[0], ProcessReplaced)
    finally:
        replica.stop()
    cluster.start_replica(0)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        assert producer.produce("t", b"x").result(WAIT_S).offset == 0


def test_one_that_reads_of_a_registration_after_its_own_ends(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers).create_topic("t")
        cluster.stop_replica(0)
        failures: list[BaseException] = []
        replica = PartitionReplica(cluster.brokers[0].options, 0, failures.append)
        eventually(lambda: replica.report().state == "running", WAIT_S, "that it serves")
        assert not failures
        cluster.coordinator.ask(late("over"))
        ends(cluster, replica, failures)


def test_one_that_was_replaced_before_it_heard_of_its_registration_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InProcessCluster(tmp_path) as cluster:
        rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers).create_topic("t")
        cluster.stop_replica(0)
        for incarnation in ("mine", "over"):  # ours was taken, its answer lost
            cluster.coordinator.ask(late(incarnation))
        failures: list[BaseException] = []
        with monkeypatch.context() as patched:
            patched.setattr(partition_replica, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="mine")))
            replica = PartitionReplica(cluster.brokers[0].options, 0, failures.append)
        ends(cluster, replica, failures)
