"""Partitions with three replicas, over real sockets and disks in one process: what followers hold, who takes over."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import rayqueue
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.actors.identity import write_json
from rayqueue.actors.partition_locks import PartitionInUse, PartitionLocks
from rayqueue.actors.start_mark import Mark
from rayqueue.errors import DeliveryTimeout, NotEnoughReplicas
from rayqueue.storage.files import OsFiles
from rayqueue.storage.log import Log
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

TIMEOUT_S = 20.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path, brokers=3) as running:
        yield running


def hosted(cluster: InProcessCluster, broker_id: int, partition: int = 0) -> HostedPartition:
    (found,) = [one for one in cluster.replicas[broker_id, 0]._table if one.partition == partition]
    return found


def leader_of(admin: rayqueue.AdminClient, topic: str = "t") -> int:
    return int(admin.describe_topic(topic).partitions[0].leader)


def in_sync(admin: rayqueue.AdminClient, count: int = 3, topic: str = "t") -> bool:
    return all(len(partition.isr) == count for partition in admin.describe_topic(topic).partitions)


def content(replica: HostedPartition) -> bytes:
    """Every byte of the log, as it stands in its segments."""
    files = sorted(replica.directory.glob("*.arrow"))
    return b"".join(file.read_bytes() for file in files)


def read_all(cluster: InProcessCluster, topic: str = "t", **settings: Any) -> list[bytes]:
    with rayqueue.Consumer(
        topic,
        bootstrap_servers=cluster.bootstrap_servers,
        auto_offset_reset="earliest",
        stop_at="latest",
        **settings,
    ) as consumer:
        return [message.value for message in consumer]


def test_what_is_acked_is_on_every_replica_byte_by_byte(cluster: InProcessCluster, admin: rayqueue.AdminClient) -> None:
    admin.create_topic("t", 3, replication_factor=3, config={"segment.bytes": 16384})
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, batch_size=4096) as producer:
        for number in range(2000):
            producer.produce("t", b"%d" % number * 20)
        table = pa.table({"value": pa.array([b"table %d" % i for i in range(5000)], pa.binary())})
        producer.produce_batch("t", table).result(TIMEOUT_S)
    assert in_sync(admin)
    for partition in range(3):
        first, *others = (hosted(cluster, broker_id, partition) for broker_id in range(3))
        assert first.log.segment_count > 1
        assert all(content(other) == content(first) for other in others)
        for replica in (first, *others):
            end = first.log.log_end_offset
            eventually(lambda replica=replica, end=end: replica.high_watermark == end, TIMEOUT_S)
    assert len(read_all(cluster)) == 7000


def test_records_survive_the_loss_of_each_leader_in_turn(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    """Producing and reading go on meanwhile, without an error, a gap, a duplicate or a change of order."""
    admin.create_topic("t", 1, replication_factor=3)
    stop = threading.Event()
    all_sent = threading.Event()
    sent: list[int] = []
    read: list[int] = []
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                while not stop.is_set():
                    producer.produce("t", b"%d" % len(sent)).result(TIMEOUT_S)
                    sent.append(len(sent))
        finally:
            all_sent.set()

    def consume() -> None:
        with rayqueue.Consumer(
            "t", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            silent = 0
            while not all_sent.is_set() or len(read) < len(sent):
                message = consumer.poll(0.5)
                silent = 0 if message is not None else silent + 1
                assert silent < 2 * TIMEOUT_S, "a record that was acked does not come"
                if message is not None:
                    read.append(int(message.value))

    def noted(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=noted, args=(work,)) for work in (produce, consume)]
    for thread in threads:
        thread.start()
    leaders = []
    try:
        for _ in range(3):
            before = len(sent)
            eventually(lambda before=before: len(sent) >= before + 20 or errors, TIMEOUT_S)
            leader = leader_of(admin)
            leaders.append(leader)
            cluster.stop_replica(leader)
            before = len(sent)
            eventually(lambda before=before: len(sent) >= before + 20 or errors, TIMEOUT_S)
            assert leader_of(admin) != leader
            cluster.start_replica(leader)
            eventually(lambda: in_sync(admin) or errors, TIMEOUT_S)
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * TIMEOUT_S)
    assert errors == []
    assert len(set(leaders)) > 1
    assert read == sent == list(range(len(sent)))


def test_below_the_minimum_in_sync_nothing_is_acked_and_nothing_lost(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 1, replication_factor=3)  # min.insync.replicas is 2
    leader = leader_of(admin)
    followers = [broker_id for broker_id in range(3) if broker_id != leader]
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, delivery_timeout_ms=20_000) as producer:
        producer.produce("t", b"three").result(TIMEOUT_S)
        cluster.stop_replica(followers[0])
        producer.produce("t", b"two").result(TIMEOUT_S)
        cluster.stop_replica(followers[1])
        eventually(lambda: in_sync(admin, 1), TIMEOUT_S)
        waiting = producer.produce("t", b"one")
        with (
            rayqueue.Producer(
                bootstrap_servers=cluster.bootstrap_servers, delivery_timeout_ms=1_500, request_timeout_ms=1_000
            ) as hasty,
            pytest.raises((NotEnoughReplicas, DeliveryTimeout), match="in sync|replicas"),
        ):
            hasty.produce("t", b"never").result(TIMEOUT_S)
        assert not waiting.done()
        cluster.start_replica(followers[1])
        waiting.result(TIMEOUT_S)
    assert read_all(cluster) == [b"three", b"two", b"one"]


def test_a_follower_that_was_away_catches_up_with_what_it_missed(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 1, replication_factor=3, config={"segment.bytes": 65536})
    leader = leader_of(admin)
    away = (leader + 1) % 3
    cluster.stop_replica(away)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(3000):
            producer.produce("t", b"%d" % number * 50)
    cluster.start_replica(away)
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    assert content(hosted(cluster, away)) == content(hosted(cluster, leader))


def test_a_follower_whose_leader_has_deleted_what_it_has_not_begins_anew(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 1, replication_factor=3, config={"segment.bytes": 16384})
    leader = leader_of(admin)
    away = (leader + 1) % 3
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, linger_ms=0) as producer:
        producer.produce("t", b"first").result(TIMEOUT_S)
        cluster.stop_replica(away)
        for number in range(600):
            producer.produce("t", b"%d" % number * 50)
    admin.delete_records({("t", 0): 403})
    cluster.start_replica(away)
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    other = hosted(cluster, away)
    eventually(lambda: other.log.log_start_offset == 403, TIMEOUT_S)
    assert other.log.log_end_offset == hosted(cluster, leader).log.log_end_offset == 601
    assert other.high_watermark == 601


def test_a_follower_that_begins_anew_where_nothing_is_left_knows_what_is_committed(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    """Elected, it would else tell an end that lies before the log's start."""
    admin.create_topic("t", 1, replication_factor=3)
    leader = leader_of(admin)
    away = (leader + 1) % 3
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce("t", b"first").result(TIMEOUT_S)
        cluster.stop_replica(away)
        for _ in range(20):
            producer.produce("t", b"gone").result(TIMEOUT_S)
    admin.delete_records({("t", 0): -1})
    cluster.start_replica(away)
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    other = hosted(cluster, away)
    assert (other.log.log_start_offset, other.high_watermark) == (21, 21)


def test_records_that_only_the_lost_leader_had_are_cut_when_it_comes_back(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    """With acks=1 a leader may ack what nobody else has; another leader goes on without it."""
    admin.create_topic("t", 1, replication_factor=3, config={"min.insync.replicas": 1})
    leader = leader_of(admin)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce("t", b"shared").result(TIMEOUT_S)
    alone = hosted(cluster, leader)
    for _, subscription in alone._followers.values():
        subscription.ended = True  # it feeds nobody any more
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, acks=1) as producer:
        producer.produce("t", b"lost").result(TIMEOUT_S)
    assert alone.log.log_end_offset == 2 and alone.high_watermark == 1
    cluster.stop_replica(leader)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for _ in range(3):
            producer.produce("t", b"kept").result(TIMEOUT_S)
    cluster.start_replica(leader)
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    assert read_all(cluster) == [b"shared", b"kept", b"kept", b"kept"]
    back = hosted(cluster, leader)
    assert content(back) == content(hosted(cluster, leader_of(admin)))
    assert back.log.generation > 0


def test_a_cluster_that_is_stopped_and_started_has_all_of_it(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, brokers=3) as cluster:
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("t", 2, replication_factor=3)
        with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
            for number in range(500):
                producer.produce("t", b"%d" % number)
    with InProcessCluster(tmp_path, brokers=3) as cluster:
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            eventually(lambda: in_sync(admin), TIMEOUT_S)
        assert sorted(read_all(cluster), key=int) == [b"%d" % number for number in range(500)]
        with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
            producer.produce("t", b"more").result(TIMEOUT_S)


def test_a_topic_that_is_deleted_is_gone_from_every_replica(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, tmp_path: Path
) -> None:
    admin.create_topic("t", 2, replication_factor=3)
    assert len(list(tmp_path.glob("*/partitions/t-*"))) in (0, 6)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce("t", b"x").result(TIMEOUT_S)
    admin.delete_topic("t")
    eventually(lambda: not list(tmp_path.glob("*/partitions/t-*")), TIMEOUT_S)


def test_leaders_are_given_back_to_those_that_were_wanted(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 3, replication_factor=3)
    wanted = {partition.partition: partition.leader for partition in admin.describe_topic("t").partitions}
    assert admin.elect_leaders() == 0
    cluster.stop_replica(wanted[0])
    eventually(lambda: in_sync(admin, 2), TIMEOUT_S)
    with pytest.raises(NotEnoughReplicas, match="t-0"):
        admin.elect_leaders([("t", 0)])
    cluster.start_replica(wanted[0])
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    assert leader_of(admin) != wanted[0]
    assert admin.elect_leaders([rayqueue.TopicPartition("t", 0)]) == 1
    assert {partition.partition: partition.leader for partition in admin.describe_topic("t").partitions} == wanted


def test_a_log_that_another_process_of_the_broker_still_has_open_is_waited_for(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, tmp_path: Path
) -> None:
    """As when `num.replica.actors` changes, and the process that has it reads of that later."""
    admin.create_topic("t", 1, replication_factor=3)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce("t", b"first").result(TIMEOUT_S)
        away = (leader_of(admin) + 1) % 3
        before = hosted(cluster, away)
        key = before.topic_id, 0
        root = before.directory.parent.parent
        holder = PartitionLocks(root)
        with pytest.raises(PartitionInUse):
            holder.take(key)
        cluster.stop_replica(away)
        holder.take(key)
        cluster._stopped.discard((away, 0))
        cluster._start_replica(cluster.brokers[away].options, 0)  # `start_replica` waits until it serves
        table = cluster.replicas[away, 0]._table
        eventually(lambda: key in table._failed, TIMEOUT_S)
        assert len(table) == 0
        producer.produce("t", b"second").result(TIMEOUT_S)
        holder.close()
        eventually(lambda: in_sync(admin), TIMEOUT_S)
    assert hosted(cluster, away).log.log_end_offset == 2 and not table._failed


def lose_power(cluster: InProcessCluster, lost: dict[int, int]) -> None:
    """Stops all replica actors as if their machines had lost power; `lost`: records by broker that were not fsynced."""
    logs = {broker_id: hosted(cluster, broker_id) for broker_id in range(3)}
    for broker_id in range(3):
        cluster.stop_replica(broker_id)
    for broker_id, log in logs.items():
        again = Log.open(OsFiles(), str(log.directory), log.schema, log.config)
        again.truncate(again.log_end_offset - lost[broker_id])
        again.close()
        mark = log.directory.parent.parent / "starts" / "replica-0"
        write_json(mark, Mark("another boot", os.stat(log.directory).st_dev))


def test_after_a_power_failure_of_all_machines_the_longest_log_leads(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", 1, replication_factor=3)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, linger_ms=0) as producer:
        for number in range(10):
            producer.produce("t", b"%d" % number).result(TIMEOUT_S)
    first, second, third = admin.describe_topic("t").partitions[0].replicas
    lose_power(cluster, {first: 4, second: 1, third: 2})
    for broker_id in (first, third):
        cluster.start_replica(broker_id)
    assert leader_of(admin) in (-1, second), "one that may hold more has not come back"
    cluster.start_replica(second)
    eventually(lambda: leader_of(admin) == second, TIMEOUT_S)
    eventually(lambda: in_sync(admin), TIMEOUT_S)
    assert read_all(cluster) == [b"%d" % number for number in range(9)]
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        assert producer.produce("t", b"on").result(TIMEOUT_S).offset == 9


def test_an_only_replica_leads_again_with_what_is_left(cluster: InProcessCluster, admin: rayqueue.AdminClient) -> None:
    """Nobody else ever held a record of it, so there is nobody to wait for."""
    admin.create_topic("t", 3, replication_factor=1)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers, linger_ms=0) as producer:
        for partition in range(3):
            producer.produce("t", b"record", partition=partition).result(TIMEOUT_S)
    for broker_id in range(3):
        root = next(iter(cluster.replicas[broker_id, 0]._table)).directory.parent.parent
        cluster.stop_replica(broker_id)
        write_json(root / "starts" / "replica-0", Mark("another boot", os.stat(root).st_dev))
        cluster.start_replica(broker_id)
    assert eventually(lambda: sorted(read_all(cluster)) == [b"record"] * 3, TIMEOUT_S)
