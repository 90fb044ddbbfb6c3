"""Items put into Kafka and got out of it one by one with confluent-kafka: the log used as a queue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.kafka_clients import Receiving, Sending, value_of
from rayqueue.perf.payload import random_values

ITEM_BYTES = 100
DISTINCT = 1000


class OneByOne:
    """A producer and a consumer in one process, as rayqueue's (`rayqueue.perf.one_by_one`)."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Sending`; the topic has one partition and is used by nobody else."""
        self._topic = topic
        self._values = random_values(DISTINCT, ITEM_BYTES)
        self._sending = Sending(client, **tuning)
        self._receiving = Receiving(client, topic)
        self._receiving.rewind()
        self.awaited(1)  # connects both

    def awaited(self, count: int) -> dict[str, float]:
        """Puts an item, waits until it is acked, gets it; then the next one.

        Returns:
            seconds it took.
        """
        began = time.perf_counter()
        for number in range(count):
            value = self._values[number % DISTINCT]
            self._sending.produce_waiting(self._topic, value)
            self._sending.flush()
            self._get(value)
        return {"seconds": time.perf_counter() - began}

    def pipelined(self, count: int) -> dict[str, float]:
        """Puts all items one by one, waits until all are acked, then gets all one by one.

        Returns:
            seconds it took.
        """
        values, sending = self._values, self._sending
        began = time.perf_counter()
        for number in range(count):
            sending.produce_waiting(self._topic, values[number % DISTINCT])
            sending.producer.poll(0)
        sending.flush()
        for number in range(count):
            self._get(values[number % DISTINCT])
        return {"seconds": time.perf_counter() - began}

    def _get(self, value: bytes) -> None:
        found = value_of(self._receiving.poll())
        if found != value:
            raise AssertionError(f"the next item is not the one that was put: {found!r}")

    def close(self) -> None:
        """Closes both."""
        self._receiving.close()
        self._sending.close()
