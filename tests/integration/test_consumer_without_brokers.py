"""Consumers while brokers are away, or hang: what is known is read on, and nobody waits for one that hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import rayqueue
from rayqueue.errors import BrokerNotAvailable, UnknownTopicOrPartition
from rayqueue.testing.inprocess import InProcessCluster
from rayqueue.types import OFFSET_BEGINNING, TopicPartition
from tests.integration.consumer_cluster import WAIT_S, World, numbers, take


def test_a_known_topic_is_assigned_while_all_brokers_are_away_and_read_on(tmp_path: Path, mapped: bool) -> None:
    with InProcessCluster(tmp_path) as cluster:
        world = World(cluster)
        topic = world.topic(partitions=2)
        world.fill(topic, 10)
        consumer = world.consumer(mapped_reads=mapped)
        consumer.assign(TopicPartition(topic, 0, 0))
        assert numbers(take(consumer, 10)) == list(range(10))

        cluster.stop_broker(0)
        consumer.assign([TopicPartition(topic, 0, 3), TopicPartition(topic, 1)])
        assert [one.partition for one in consumer.assignment()] == [0, 1]
        got = consumer.consume(2, timeout=0.2)  # none, or what lies in the mapped segment
        with pytest.raises(UnknownTopicOrPartition):
            consumer.assign(TopicPartition(topic, 2, 0))
        new = world.consumer(request_timeout_ms=300)
        with pytest.raises(BrokerNotAvailable):
            new.assign(TopicPartition(topic, 0, 0))

        cluster.restart_broker(0)
        assert numbers(got + take(consumer, 7 - len(got))) == list(range(3, 10))
        world.fill(topic, 1, 1)
        assert [one.partition for one in take(consumer, 1)] == [1]
        new.assign(TopicPartition(topic, 0, OFFSET_BEGINNING))
        assert len(take(new, 10)) == 10
        world.close()


def test_the_first_assignment_waits_for_brokers(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        world = World(cluster)
        topic = world.topic()
        world.fill(topic, 5)
        cluster.stop_broker(0)
        consumer = world.consumer()
        back = threading.Timer(0.5, cluster.restart_broker, [0])
        back.start()
        consumer.assign(TopicPartition(topic, 0, 0))
        assert numbers(take(consumer, 5)) == list(range(5))
        back.join(WAIT_S)
        world.close()


def test_a_broker_that_hangs_holds_up_no_client(tmp_path: Path) -> None:
    """It might be asked first, by all of them, with all the time there is, in case the topic had to be created."""
    let_go = threading.Event()
    with InProcessCluster(tmp_path, brokers=2) as cluster:
        world = World(cluster)
        topic = world.topic()
        server = cluster.brokers[0]._server
        assert server is not None
        server._actions["metadata"] = lambda _: let_go.wait(WAIT_S)
        try:
            for _ in range(4):  # which broker comes first is drawn by lot
                began = time.monotonic()
                with world.consumer() as consumer:
                    consumer.assign(TopicPartition(topic, 0, 0))
                with rayqueue.Producer(bootstrap_servers=world.servers) as producer:
                    producer.produce(topic, b"x").result(WAIT_S)
                assert time.monotonic() - began < WAIT_S / 2
        finally:
            let_go.set()
        world.close()
