"""Replicas of a compacted partition: each compacts on its own; who was away is fed what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayqueue import AdminClient, Consumer, Producer
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually
from tests.unit.storage.compaction.harness import Record, records

TIMEOUT_S = 20.0
KEYS = 10
SETTINGS = {
    "cleanup.policy": "compact",
    "segment.bytes": 8192,
    "min.cleanable.dirty.ratio": 0,
    "max.message.bytes": 4096,
    "min.insync.replicas": 1,
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    config = {"log.retention.check.interval.ms": 50, "replica.lag.time.max.ms": 1000}
    with InProcessCluster(tmp_path, brokers=2, config=config) as running:
        yield running


def hosted(cluster: InProcessCluster, broker_id: int) -> HostedPartition:
    (found,) = cluster.replicas[broker_id, 0]._table
    return found


@pytest.fixture
def producer(cluster: InProcessCluster) -> Iterator[Producer]:
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as made:
        yield made


def rounds(producer: Producer, first: int, count: int) -> None:
    """A value for each key, so many times, a batch a key: most batches lose all their records."""
    for number in range(first, first + count):
        for key in range(KEYS):
            producer.produce("t", b"%d" % number + b"." * 60, key=b"k%d" % key, partition=0).result(TIMEOUT_S)


def left(cluster: InProcessCluster, broker_id: int) -> dict[int, Record]:
    return records(hosted(cluster, broker_id).log)


def compacted(cluster: InProcessCluster, broker_id: int) -> bool:
    """Whether all closed segments of a replica have been compacted."""
    log = hosted(cluster, broker_id).log
    closed = [segment for segment in log._state.segments if segment.closed]
    return bool(closed) and log._state.compacted == closed[-1].next_offset


def newest(found: dict[int, Record]) -> dict[bytes | None, Record]:
    return {record[0]: record for _, record in sorted(found.items())}


def test_leader_and_follower_compact_on_their_own_to_the_same_records(
    cluster: InProcessCluster, admin: AdminClient, producer: Producer
) -> None:
    admin.create_topic("t", replication_factor=2, config=SETTINGS)
    rounds(producer, 0, 40)

    def alike() -> bool:
        both = compacted(cluster, 0) and compacted(cluster, 1)
        return both and left(cluster, 0) == left(cluster, 1)

    eventually(alike, TIMEOUT_S, "both compacted")
    assert len(left(cluster, 0)) < 40 * KEYS / 2
    assert {one[1][:2] for one in newest(left(cluster, 0)).values() if one[1]} == {b"39"}


def test_a_follower_that_was_away_while_the_log_was_compacted_catches_up(
    cluster: InProcessCluster, admin: AdminClient, producer: Producer
) -> None:
    """Its log ends within what stands as one filler in the leader's."""
    admin.create_topic("t", replication_factor=2, config=SETTINGS)
    rounds(producer, 0, 3)
    leader = int(admin.describe_topic("t").partitions[0].leader)
    follower = 1 - leader
    end = hosted(cluster, follower).log.log_end_offset
    assert end == eventually(lambda: hosted(cluster, leader).log.log_end_offset, TIMEOUT_S) == 3 * KEYS
    cluster.stop_replica(follower)
    rounds(producer, 3, 60)
    eventually(lambda: compacted(cluster, leader), TIMEOUT_S, "compaction")
    fillers = [
        entry for part in hosted(cluster, leader).log.entries_from(0) for entry in part if not entry["record_count"]
    ]
    assert any(entry["base_offset"] < end <= entry["last_offset"] for entry in fillers)

    cluster.start_replica(follower)
    eventually(lambda: len(admin.describe_topic("t").partitions[0].isr) == 2, TIMEOUT_S, "in sync again")
    ends = [hosted(cluster, one).log.log_end_offset for one in (leader, follower)]
    assert ends == [63 * KEYS, 63 * KEYS]
    epochs = [hosted(cluster, one).log.leader_epochs for one in (leader, follower)]
    assert epochs[0] == epochs[1]
    assert newest(left(cluster, leader)) == newest(left(cluster, follower))
    rounds(producer, 63, 40)  # what comes next is not sparse
    eventually(lambda: compacted(cluster, leader) and compacted(cluster, follower), TIMEOUT_S, "compaction of both")
    eventually(lambda: left(cluster, leader) == left(cluster, follower), TIMEOUT_S, "the same records")

    cluster.stop_replica(leader)
    eventually(lambda: admin.describe_topic("t").partitions[0].leader == follower, TIMEOUT_S, "another leader")
    with Consumer(
        "t", bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest", stop_at="latest"
    ) as consumer:
        read = {message.offset: (message.key, message.value) for message in consumer}
    assert read == left(cluster, follower)


def test_producers_go_on_after_compaction_and_a_restart(
    cluster: InProcessCluster, admin: AdminClient, producer: Producer
) -> None:
    """The same producer writes before and after: its sequence is known, though its batches are gone."""
    admin.create_topic("t", replication_factor=2, config=SETTINGS)
    rounds(producer, 0, 30)
    for one in (0, 1):
        eventually(lambda one=one: compacted(cluster, one), TIMEOUT_S, "compaction")
    for one in (0, 1):
        cluster.stop_replica(one)
        for snapshot in hosted_directory(cluster, one).glob("*.snapshot"):
            snapshot.unlink()
        cluster.start_replica(one)
        eventually(lambda: len(admin.describe_topic("t").partitions[0].isr) == 2, TIMEOUT_S, "in sync again")
    rounds(producer, 30, 1)
    assert newest(left(cluster, 0)) == newest(left(cluster, 1))
    assert max(left(cluster, 0)) == 31 * KEYS - 1


def hosted_directory(cluster: InProcessCluster, broker_id: int) -> Path:
    (found,) = cluster.data_dir.glob(f"{broker_id}/partitions/t-*")
    return found
