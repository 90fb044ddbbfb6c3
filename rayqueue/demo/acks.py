"""How long a producer went without an ack, partition by partition, while records waited for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any


class AckGaps:
    """The longest time without an ack, in one topic. Thread-safe: acks are told on a thread of the producer.

    A record that was sent at `s` and acked at `t`, where the last ack of its partition came at `l`, waited through
    `t - max(l, s)` without an ack of that partition. Acks of a partition come in the order of its records, so the
    longest such time over all records is the longest time that a partition acked nothing while a record waited. A
    batch is acked when its last part is: the time of the slowest partition is right, and that is the one that counts.

    Attributes:
        longest_s: so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, float] = {}
        self.longest_s = 0.0

    def record(self, producer: Any, topic: str, **record: Any) -> Any:
        """Produces a record; its future."""
        sent = time.monotonic()

        def told(error: Exception | None, where: Any) -> None:
            if error is None:
                self._acked(sent, [where.partition])

        return producer.produce(topic, on_delivery=told, **record)

    def batch(self, producer: Any, topic: str, records: Any) -> Any:
        """Produces a table; its future."""
        sent = time.monotonic()
        future = producer.produce_batch(topic, records)
        future.add_done_callback(lambda done: self._told(sent, done))
        return future

    def _told(self, sent: float, done: Any) -> None:
        if done.exception() is None:
            self._acked(sent, {partition for partition, _, _ in done.result()})

    def _acked(self, sent: float, partitions: Iterable[int]) -> None:
        now = time.monotonic()
        with self._lock:
            for partition in partitions:
                self.longest_s = max(self.longest_s, now - max(sent, self._last.get(partition, sent)))
                self._last[partition] = now
