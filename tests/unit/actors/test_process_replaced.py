"""A process in whose place another is registered: it must end, so that the next one registers anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rayqueue
from rayqueue.actors import broker, partition_replica
from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.group_coordinator import GroupCoordinator
from rayqueue.actors.partition_replica import PartitionReplica
from rayqueue.actors.replica_process import PartitionReplicaProcess
from rayqueue.errors import BrokerNotAvailable, ProcessReplaced
from rayqueue.protocol.messages import RegisterBroker, RegisterGroupActor, RegisterReplicaActor
from rayqueue.testing.inprocess import HOST, InProcessCluster
from tests.integration.group_client import GroupClient
from tests.integration.waiting import eventually

WAIT_S = 20.0


def late(incarnation: str) -> RegisterReplicaActor:
    """What a process asked for that is over by now."""
    return RegisterReplicaActor(0, 0, incarnation, HOST, 1)


def late_broker(cluster: InProcessCluster, incarnation: str) -> RegisterBroker:
    """Of a broker's process that is over by now."""
    (known,) = cluster.coordinator.overview().brokers
    return RegisterBroker(0, known.directory_id, incarnation, HOST, 1, known.node_id, known.pool_size)


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


def test_one_that_stands_by_takes_over_from_a_replaced_one(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers).create_topic("t")
        options = cluster.brokers[0].options
        failures: list[BaseException] = []
        processes = [PartitionReplicaProcess(options, options.pool_size, failures.append)]
        try:
            cluster.stop_replica(0)
            eventually(lambda: processes[0].report().state == "running", WAIT_S, "that it takes over")
            processes.append(PartitionReplicaProcess(options, 0, failures.append))
            cluster.coordinator.ask(late("over"))
            eventually(lambda: bool(failures), WAIT_S, "that it ends")
            processes.pop(0).stop()
            with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                assert producer.produce("t", b"x").result(WAIT_S).offset == 0
            (actor,) = cluster.coordinator.overview().replica_actors
            assert actor.incarnation == processes[0].report().incarnation and len(failures) == 1
        finally:
            for process in processes:
                process.stop()


def begins_anew(cluster: InProcessCluster, replaced: Broker, failures: list[BaseException]) -> None:
    """It ends, and the next one serves."""
    try:
        eventually(lambda: bool(failures), WAIT_S, "that it ends")
        assert isinstance(failures[0], ProcessReplaced)
    finally:
        replaced.stop()
    cluster.start_broker(0, replaced.options.cluster_id)
    cluster.wait_ready()
    (known,) = cluster.coordinator.overview().brokers
    assert known.incarnation == cluster.brokers[0].incarnation and known.port == cluster.brokers[0].port


def ended(cluster: InProcessCluster) -> Broker:
    """The broker's process is over; its replica actor goes on."""
    broker = cluster.brokers.pop(0)
    broker.stop()
    return broker


def next_process(before: Broker, failures: list[BaseException]) -> Broker:
    return Broker(before.options, lambda slot: None, lambda: None, failures.append)


def test_a_broker_that_reads_of_a_registration_after_its_own_ends(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        failures: list[BaseException] = []
        replaced = next_process(ended(cluster), failures)
        assert replaced.ready.wait(WAIT_S) and not failures
        cluster.coordinator.ask(late_broker(cluster, "over"))
        begins_anew(cluster, replaced, failures)


def test_a_broker_that_was_replaced_before_it_heard_of_its_registration_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InProcessCluster(tmp_path) as cluster:
        before = ended(cluster)
        for incarnation in ("mine", "over"):  # ours was taken, its answer lost
            cluster.coordinator.ask(late_broker(cluster, incarnation))
        failures: list[BaseException] = []
        with monkeypatch.context() as patched:
            patched.setattr(broker, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="mine")))
            replaced = next_process(before, failures)
        begins_anew(cluster, replaced, failures)


def test_a_broker_whose_start_fails_halfway_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator goes away after the registration: there are no producer ids yet."""
    refused: list[str] = []
    call = CoordinatorChannel.call

    def refuse_once(self: CoordinatorChannel, action: str, *args: Any) -> Any:
        if action == "allocate_producer_ids" and not refused:
            refused.append(action)
            raise BrokerNotAvailable("it has just gone")
        return call(self, action, *args)

    with InProcessCluster(tmp_path) as cluster:
        monkeypatch.setattr(CoordinatorChannel, "call", refuse_once)
        made = next_process(ended(cluster), [])
        try:
            assert made.ready.wait(WAIT_S), made.report()
            assert refused
        finally:
            made.stop()


def test_a_group_coordinator_in_whose_place_another_is_registered_ends(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        client = GroupClient(cluster.bootstrap_servers, "g")
        client.committed()
        cluster.stop_groups(0)
        failures: list[BaseException] = []
        groups = GroupCoordinator(cluster.brokers[0].options, failures.append)
        assert groups.ready.wait(WAIT_S) and not failures
        cluster.coordinator.ask(RegisterGroupActor(0, "over", HOST, 1))
        try:
            eventually(lambda: bool(failures), WAIT_S, "that it ends")
            assert isinstance(failures[0], ProcessReplaced)
        finally:
            groups.stop()
        cluster.start_groups(0)
        assert client.committed() == {}
