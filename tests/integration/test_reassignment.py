"""Partitions that are given other replicas, over real sockets and disks in one process, while records come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayqueue
from rayqueue.errors import InvalidReplicaAssignment, NoReassignmentInProgress
from rayqueue.testing.inprocess import InProcessCluster
from rayqueue.types import TopicPartition
from tests.integration.test_replication import TIMEOUT_S, content, hosted, read_all
from tests.integration.waiting import eventually


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path, brokers=4) as running:
        yield running


def settled(admin: rayqueue.AdminClient) -> bool:
    return not admin.list_partition_reassignments()


def test_a_partition_moves_while_it_is_written_and_read_and_leaves_nothing_behind(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, tmp_path: Path
) -> None:
    admin.create_topic("t", 1, replication_factor=2)
    old = admin.describe_topic("t").partitions[0].replicas
    new = [broker_id for broker_id in range(4) if broker_id not in old]
    stop = threading.Event()
    sent: list[int] = []
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                while not stop.is_set():
                    producer.produce("t", b"%d" % len(sent)).result(TIMEOUT_S)
                    sent.append(len(sent))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        eventually(lambda: len(sent) > 50 or errors, TIMEOUT_S)
        admin.reassign_partitions({("t", 0): new})
        eventually(lambda: settled(admin) or errors, TIMEOUT_S)
        before = len(sent)
        eventually(lambda: len(sent) > before + 50 or errors, TIMEOUT_S)
    finally:
        stop.set()
        thread.join(TIMEOUT_S)
    assert errors == []
    partition = admin.describe_topic("t").partitions[0]
    assert (partition.replicas, sorted(partition.isr), partition.leader) == (new, sorted(new), new[0])
    assert [int(value) for value in read_all(cluster)] == sent
    assert content(hosted(cluster, new[0])) == content(hosted(cluster, new[1]))
    for broker_id in old:
        eventually(lambda broker_id=broker_id: not list((tmp_path / str(broker_id)).glob("partitions/t-*")), TIMEOUT_S)


def test_the_replication_factor_grows_and_falls(cluster: InProcessCluster, admin: rayqueue.AdminClient) -> None:
    admin.create_topic("t", 2, replication_factor=1)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(100):
            producer.produce("t", b"%d" % number, partition=number % 2).result(TIMEOUT_S)
        admin.reassign_partitions({("t", 0): [0, 1, 2], TopicPartition("t", 1): [3, 2, 1]})
        eventually(lambda: settled(admin), TIMEOUT_S)
        assert admin.describe_topic("t").configs["min.insync.replicas"] == "2"
        producer.produce("t", b"100", partition=0).result(TIMEOUT_S)
        admin.reassign_partitions({("t", 0): [1], ("t", 1): [1]})
        eventually(lambda: settled(admin), TIMEOUT_S)
        producer.produce("t", b"101", partition=1).result(TIMEOUT_S)
    assert sorted(map(int, read_all(cluster))) == list(range(102))
    assert [(p.replicas, p.leader) for p in admin.describe_topic("t").partitions] == [([1], 1), ([1], 1)]


def test_a_replica_whose_broker_is_down_is_replaced_and_its_log_goes_when_it_is_back(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, tmp_path: Path
) -> None:
    admin.create_topic("t", 1, replication_factor=2)
    first, second = admin.describe_topic("t").partitions[0].replicas
    other = next(broker_id for broker_id in range(4) if broker_id not in (first, second))
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce("t", b"x").result(TIMEOUT_S)
        cluster.stop_replica(second)
        admin.reassign_partitions({("t", 0): [first, other]})
        eventually(lambda: settled(admin), TIMEOUT_S)
        producer.produce("t", b"y").result(TIMEOUT_S)
    assert list((tmp_path / str(second)).glob("partitions/t-*")), "it was not there to delete it"
    cluster.start_replica(second)
    eventually(lambda: not list((tmp_path / str(second)).glob("partitions/t-*")), TIMEOUT_S)
    assert read_all(cluster) == [b"x", b"y"]


def test_one_is_cancelled_while_its_new_replica_is_away(cluster: InProcessCluster, admin: rayqueue.AdminClient) -> None:
    admin.create_topic("t", 1, replication_factor=2)
    first, second = admin.describe_topic("t").partitions[0].replicas
    other = next(broker_id for broker_id in range(4) if broker_id not in (first, second))
    cluster.stop_replica(other)
    admin.reassign_partitions({("t", 0): [first, other]})
    (found,) = admin.list_partition_reassignments().items()
    assert found[0] == TopicPartition("t", 0)
    assert (found[1].replicas, found[1].adding, found[1].removing) == ([first, second, other], [other], [second])
    assert admin.describe_topic("t").replication_factor == 2
    assert admin.describe_cluster().under_replicated == [], "what is being added is not missing"
    admin.reassign_partitions({("t", 0): None})
    assert settled(admin) and admin.describe_topic("t").partitions[0].replicas == [first, second]
    with pytest.raises(NoReassignmentInProgress, match="t-0"):
        admin.reassign_partitions({("t", 0): None})
    with pytest.raises(InvalidReplicaAssignment, match="no broker 9"):
        admin.reassign_partitions({("t", 0): [9]})


def test_a_throttled_copy_takes_its_time_and_others_do_not_wait_for_it(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    """2 MB at 1 MB/s are not copied in less than about 2 s; meanwhile followers in sync ack as ever."""
    admin.create_topic("t", 1, replication_factor=2, config={"max.message.bytes": 2_000_000})
    first, second = admin.describe_topic("t").partitions[0].replicas
    other = next(broker_id for broker_id in range(4) if broker_id not in (first, second))
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, batch_size=20_000) as producer:
        for _ in range(200):
            producer.produce("t", bytes(10_000)).result(TIMEOUT_S)
        begun = time.monotonic()
        admin.reassign_partitions({("t", 0): [first, second, other]}, throttle=1_000_000)
        slowest = 0.0
        while not settled(admin) and time.monotonic() < begun + TIMEOUT_S:
            sent = time.monotonic()
            producer.produce("t", b"x").result(TIMEOUT_S)
            slowest = max(slowest, time.monotonic() - sent)
        took = time.monotonic() - begun
    assert 1.5 < took < 6.0
    assert slowest < 1.0
    assert admin.describe_topic("t").partitions[0].isr == sorted([first, second, other])


def test_a_throttle_that_is_lifted_lets_it_go_on_at_once(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 1, replication_factor=1)
    (first,) = admin.describe_topic("t").partitions[0].replicas
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for _ in range(100):
            producer.produce("t", bytes(10_000)).result(TIMEOUT_S)
    target = [first, (first + 1) % 4]
    admin.reassign_partitions({("t", 0): target}, throttle=1_000)  # a quarter of an hour
    eventually(lambda: hosted(cluster, target[1]).log.log_end_offset > 0, TIMEOUT_S)
    assert not settled(admin)
    admin.reassign_partitions({("t", 0): target})
    eventually(lambda: settled(admin), TIMEOUT_S)
