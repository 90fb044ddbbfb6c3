"""Latency end to end, open loop: each record carries the moment at which it should have been sent.

A sender that falls behind makes the figure worse, not better (no coordinated omission). Moments are those of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import ctypes
import sys
import time
from array import array
from typing import Any

from rayqueue.consumer import Consumer
from rayqueue.perf.load import Load
from rayqueue.perf.payload import Progress, random_values
from rayqueue.producer import Producer

STAMP = 8
SILENCE_MAX_S = 30.0
PR_SET_TIMERSLACK = 29
NS_PER_S = 1_000_000_000


def wake_on_time() -> None:
    """Lets this thread's sleeps end when they should: Linux adds 50 us of slack by default (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Sender(Load[Producer]):
    """Sends at a fixed rate, whatever happens.

    Args:
        client: the connection's settings.
        topic: gets one record at once, which connects and bears no moment.
        tuning: settings of the producer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        super().__init__(Producer(**{**client, **tuning}))
        self._topic = topic
        self.client.produce(topic, bytes(STAMP)).result(SILENCE_MAX_S)

    def run(
        self, begin_ns: int, count: int, rate: float, value_bytes: int, progress: Progress | None = None
    ) -> dict[str, float]:
        """Sends `count` records of `value_bytes` (8 or more) each, the first at `begin_ns`, and waits for their acks.

        Returns:
            late_ms: the worst lateness of a send.

        Raises:
            RayQueueError: a record was not written.
        """
        wake_on_time()
        padding = random_values(1, value_bytes - STAMP)[0]
        produce, topic = self.client.produce, self._topic
        futures = []
        late = 0
        for number in range(count):
            intended = begin_ns + int(number * NS_PER_S / rate)
            wait = intended - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / NS_PER_S)
            late = max(late, time.monotonic_ns() - intended)
            futures.append(produce(topic, intended.to_bytes(STAMP, "little") + padding))
            if progress is not None:
                progress(1, value_bytes)
        self.client.flush()
        for future in futures:
            future.result(SILENCE_MAX_S)
        return {"late_ms": late / 1e6}


class Receiver(Load[Consumer]):
    """Polls record by record and takes the time.

    Args:
        client: the connection's settings.
        topic: one that a `Sender` writes, and nobody else.
        tuning: settings of the consumer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        super().__init__(Consumer(topic, **{"auto_offset_reset": "earliest", **client, **tuning}))

    def warm(self) -> None:
        """Opens the stream; what comes until it is open is not received later."""
        self.client.poll(0.2)

    def latencies(self, begin_ns: int, count: int, skip_ns: int = 0) -> array[int]:
        """Receives the records that should have been sent at `begin_ns` or later until there are `count`.

        Args:
            skip_ns: records of so long from the beginning are received, but not among the latencies.

        Returns:
            ns from the moment a record should have been sent to the one at which `poll` had returned it.

        Raises:
            TimeoutError: nothing came for too long.
        """
        wake_on_time()
        seen = 0
        found = array("q")
        poll, clock = self.client.poll, time.monotonic_ns
        while seen < count:
            message = poll(SILENCE_MAX_S)
            now = clock()
            if message is None:
                raise TimeoutError(f"{seen} of {count} records, then nothing for {SILENCE_MAX_S:g} s")
            intended = int.from_bytes(message.value[:STAMP], "little")
            if intended < begin_ns:
                continue  # a sender's first record, or one of a round before
            seen += 1
            if intended >= begin_ns + skip_ns:
                found.append(now - intended)
        return found
