"""Items put into a topic and got out of it one by one: the log used as a queue."""

from __future__ import annotations

import time
from typing import Any

from rayqueue.consumer import Consumer
from rayqueue.perf.payload import random_values
from rayqueue.producer import Producer

ITEM_BYTES = 100
DISTINCT = 1000
TIMEOUT_S = 60.0


class OneByOne:
    """A producer and a consumer in one process.

    Args:
        client: the connection's settings.
        topic: of one partition; used by nobody else.
        tuning: settings of the producer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        self._topic = topic
        self._values = random_values(DISTINCT, ITEM_BYTES)
        self._producer = Producer(**{**client, **tuning})
        self._consumer = Consumer(topic, auto_offset_reset="earliest", **client)
        self.awaited(1)  # connects both

    def awaited(self, count: int) -> dict[str, float]:
        """Puts an item, waits until it is acked, gets it; then the next one.

        Returns:
            seconds it took.
        """
        began = time.perf_counter()
        for number in range(count):
            value = self._values[number % DISTINCT]
            self._producer.produce(self._topic, value).result(TIMEOUT_S)
            self._get(value)
        return {"seconds": time.perf_counter() - began}

    def pipelined(self, count: int) -> dict[str, float]:
        """Puts all items one by one, waits until all are acked, then gets all one by one.

        Returns:
            seconds it took.
        """
        values = self._values
        began = time.perf_counter()
        futures = [self._producer.produce(self._topic, values[number % DISTINCT]) for number in range(count)]
        self._producer.flush()
        for future in futures:
            future.result(TIMEOUT_S)
        for number in range(count):
            self._get(values[number % DISTINCT])
        return {"seconds": time.perf_counter() - began}

    def _get(self, value: bytes) -> None:
        message = self._consumer.poll(TIMEOUT_S)
        if message is None or message.value != value:
            raise AssertionError(f"the next item is not the one that was put: {message!r}")

    def close(self) -> None:
        """Closes both."""
        self._consumer.close()
        self._producer.close()
