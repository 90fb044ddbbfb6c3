"""Consumers that map a follower's segments: over real sockets and disks, with the leader taken for another host's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rayqueue
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.client.fetching import fetch_stream
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

TIMEOUT_S = 20.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path, brokers=3) as running:
        yield running


class Topic:
    """A partition with three replicas, of which `near`'s files alone can be read by consumers."""

    def __init__(self, cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("t", 1, replication_factor=3, config={"segment.bytes": 16384})
            self.leader, self.near, self.other = admin.describe_topic("t").partitions[0].replicas
        proved = fetch_stream.on_this_host
        here = lambda welcome: welcome.broker_id == self.near and proved(welcome)  # noqa: E731
        monkeypatch.setattr(fetch_stream, "on_this_host", here)

    def hosted(self, broker_id: int) -> HostedPartition:
        (found,) = self.cluster.replicas[broker_id, 0]._table
        return found

    def produce(self, *values: bytes) -> None:
        with rayqueue.Producer(bootstrap_servers=self.cluster.bootstrap_servers, linger_ms=0) as producer:
            for value in values:
                producer.produce("t", value).result(TIMEOUT_S)

    def consumer(self, **settings: Any) -> rayqueue.Consumer:
        settings = {"auto_offset_reset": "earliest", **settings}
        return rayqueue.Consumer("t", bootstrap_servers=self.cluster.bootstrap_servers, **settings)


@pytest.fixture
def topic(cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> Topic:
    return Topic(cluster, monkeypatch)


def cursor_of(consumer: rayqueue.Consumer) -> Any:
    return consumer._engine.machine.cursors["t", 0]


def follows(consumer: rayqueue.Consumer, topic: Topic, wanted: bool = True) -> None:
    """Polls until it reads from the follower, or from the leader; there is no record meanwhile."""

    def settled() -> bool:
        assert consumer.poll(0.01) is None
        cursor = cursor_of(consumer)
        return cursor.stream is not None and cursor.following is wanted

    eventually(settled, TIMEOUT_S)
    assert cursor_of(consumer).stream.endpoint.broker_id == (topic.near if wanted else topic.leader)


def values(consumer: rayqueue.Consumer, count: int) -> list[bytes]:
    found: list[bytes] = []
    eventually(lambda: found.extend(m.value for m in consumer.consume(count, 0.1)) or len(found) >= count, TIMEOUT_S)
    return found


def test_records_are_mapped_from_the_follower_in_order_as_they_are_committed(topic: Topic) -> None:
    sent = [b"%d" % number * 50 for number in range(400)]
    topic.produce(*sent[:300])
    with topic.consumer() as consumer:
        assert values(consumer, 300) == sent[:300]
        follows(consumer, topic)
        for value in sent[300:]:
            topic.produce(value)
            assert values(consumer, 1) == [value]
        cursor = cursor_of(consumer)
        assert cursor.following and cursor.mapping is not None
        assert Path(cursor.mapping[0]) == topic.hosted(topic.near).directory
        assert topic.hosted(topic.near).log.segment_count > 1


def test_when_the_follower_is_gone_the_reader_goes_on_at_the_leader(topic: Topic) -> None:
    topic.produce(b"1")
    with topic.consumer() as consumer:
        assert values(consumer, 1) == [b"1"]
        follows(consumer, topic)
        topic.cluster.stop_replica(topic.near)
        topic.produce(b"2", b"3")
        assert values(consumer, 2) == [b"2", b"3"]
        assert not cursor_of(consumer).following


def test_when_the_leader_is_lost_the_reader_stays_or_moves_and_misses_nothing(topic: Topic) -> None:
    topic.produce(b"1")
    with topic.consumer() as consumer:
        assert values(consumer, 1) == [b"1"]
        follows(consumer, topic)
        topic.cluster.stop_replica(topic.leader)
        topic.produce(b"2", b"3")
        assert values(consumer, 2) == [b"2", b"3"]


def test_a_follower_that_is_out_of_the_isr_sends_its_readers_to_the_leader(topic: Topic) -> None:
    topic.produce(b"1")
    with topic.consumer() as consumer:
        assert values(consumer, 1) == [b"1"]
        follows(consumer, topic)
        near = topic.hosted(topic.near)
        near.replica._isr = [topic.leader, topic.other]
        topic.cluster.replicas[topic.near, 0]._driver.call(near.notify)
        follows(consumer, topic, wanted=False)
        topic.produce(b"2")
        assert values(consumer, 1) == [b"2"]


def test_only_the_leader_says_that_an_offset_is_out_of_range(topic: Topic) -> None:
    """Far beyond the end: the follower cannot tell whether the leader has it."""
    topic.produce(b"1", b"2")
    with topic.consumer(auto_offset_reset="none") as consumer:
        consumer.assign([rayqueue.TopicPartition("t", 0, 0)])
        assert values(consumer, 2) == [b"1", b"2"]
        follows(consumer, topic)
        consumer.seek(rayqueue.TopicPartition("t", 0, 1_000))
        with pytest.raises(rayqueue.errors.OffsetOutOfRange):
            eventually(lambda: consumer.poll(0.1), TIMEOUT_S)


def test_a_follower_streams_nothing(topic: Topic) -> None:
    topic.produce(b"1")
    with topic.consumer(mapped_reads=False) as consumer:
        assert values(consumer, 1) == [b"1"]
        assert cursor_of(consumer).stream.endpoint.broker_id == topic.leader
