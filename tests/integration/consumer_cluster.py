"""One in-process cluster for the consumer's tests, with topics and records made in a line."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayqueue.admin import AdminClient
from rayqueue.consumer import Consumer
from rayqueue.message import Message
from rayqueue.producer import Producer
from rayqueue.testing.inprocess import InProcessCluster

WAIT_S = 20.0


class World:
    """A cluster, a producer and an admin client.

    Attributes:
        servers: for clients of the test's own.
    """

    def __init__(self, cluster: InProcessCluster) -> None:
        self.cluster = cluster
        self.servers = cluster.bootstrap_servers
        self.admin = AdminClient(bootstrap_servers=self.servers)
        self.producer = Producer(bootstrap_servers=self.servers, request_timeout_ms=1000)
        self._consumers: list[Consumer] = []

    def topic(self, partitions: int = 1, prefix: str = "t", **options: Any) -> str:
        """A new topic."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.admin.create_topic(name, partitions=partitions, **options)
        return name

    def fill(self, topic: str, count: int, partition: int = 0, start: int = 0, size: int = 0, **options: Any) -> None:
        """Records whose values are their numbers, padded to `size`."""
        futures = [
            self.producer.produce(topic, b"%d" % i + b"." * max(0, size - 8), partition=partition, **options)
            for i in range(start, start + count)
        ]
        self.producer.flush(WAIT_S)
        for future in futures:
            future.result(WAIT_S)

    def rows(self, topic: str, table: pa.Table, **options: Any) -> None:
        """Rows of a table."""
        self.producer.produce_batch(topic, table, **options).result(WAIT_S)

    def consumer(self, *topics: Any, **settings: Any) -> Consumer:
        """A consumer that starts at the beginning and is closed after the test."""
        settings.setdefault("auto_offset_reset", "earliest")
        made = Consumer(*topics, bootstrap_servers=self.servers, **settings)
        self._consumers.append(made)
        return made

    def close_consumers(self) -> None:
        """Between tests."""
        while self._consumers:
            self._consumers.pop().close()

    def close(self) -> None:
        """Ends the clients."""
        self.close_consumers()
        self.producer.close()
        self.admin.close()

    def segments(self, topic: str) -> list[Path]:
        """The data files of a topic, in order."""
        return sorted(self.cluster.data_dir.glob(f"*/partitions/{topic}-*/*.arrow"))


def numbers(messages: list[Message]) -> list[int]:
    """What `fill` numbered them."""
    return [int(message.value.rstrip(b".")) for message in messages]


def take(consumer: Consumer, count: int) -> list[Message]:
    """Exactly so many records, however many calls it takes."""
    found: list[Message] = []
    while len(found) < count:
        got = consumer.consume(count - len(found), timeout=WAIT_S)
        assert got, f"only {len(found)} of {count} records came"
        found += got
    return found
