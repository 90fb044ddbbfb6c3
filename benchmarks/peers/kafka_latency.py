"""The roles of an open loop that confluent-kafka plays: a sender that keeps to a rate, a receiver that sits in `poll`.

As rayqueue's (`rayqueue.perf.latency`): each record carries the moment at which it should have been sent. librdkafka's
threads are made after `wake_on_time`, and inherit it: their sleeps, of which linger is one, end when they should.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from typing import Any

from benchmarks.harness.latency import summary
from benchmarks.peers.kafka_clients import Receiving, Sending, value_of
from rayqueue.perf.latency import NS_PER_S, STAMP, wake_on_time
from rayqueue.perf.payload import random_values


class Sender:
    """Sends at a fixed rate, whatever happens."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Sending`. The topic gets one record at once, which connects and bears no moment."""
        wake_on_time()
        self._sending = Sending(client, **tuning)
        self._topic = topic
        self._sending.produce_waiting(topic, bytes(STAMP))
        self._sending.flush()

    def run(self, begin_ns: int, count: int, rate: float, value_bytes: int) -> dict[str, float]:
        """Sends `count` records of `value_bytes` (8 or more) each, the first at `begin_ns`, and waits for their acks.

        Returns:
            late_ms: the worst lateness of a send.
        """
        padding = random_values(1, value_bytes - STAMP)[0]
        sending, topic = self._sending, self._topic
        produce, poll, clock = sending.produce_waiting, sending.producer.poll, time.monotonic_ns
        check = sending.lifeline.check
        sending.acked = 0
        late = 0
        for number in range(count):
            intended = begin_ns + int(number * NS_PER_S / rate)
            wait = intended - clock()
            if wait > 0:
                time.sleep(wait / NS_PER_S)
            late = max(late, clock() - intended)
            produce(topic, intended.to_bytes(STAMP, "little") + padding)
            poll(0)
            check()
        sending.flush()
        if sending.acked != count:
            raise AssertionError(f"kafka: {count} records sent, {sending.acked} acked")
        return {"late_ms": late / 1e6}

    def close(self) -> None:
        """Closes the producer."""
        self._sending.close()


class Receiver:
    """Polls record by record and takes the time."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Receiving`; it fetches from now on."""
        wake_on_time()
        self._receiving = Receiving(client, topic, **tuning)
        self._receiving.rewind()

    def warm(self) -> None:
        """Opens the connection; what comes until it is open is not received later."""
        self._receiving.consumer.poll(0.2)

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        """Receives the records that should have been sent at `begin_ns` or later until there are `count`.

        Args:
            skip_ns: records of so long from the beginning are received, but not among the latencies.

        Returns:
            What `latency.summary` makes of the times from when a record should have been sent to when `poll` had
            returned it.
        """
        poll, clock = self._receiving.poll, time.monotonic_ns
        found = array("q")
        seen = 0
        while seen < count:
            message = poll()
            now = clock()
            intended = int.from_bytes(value_of(message)[:STAMP], "little")
            if intended < begin_ns:
                continue  # a sender's first record, or one of a round before
            seen += 1
            if intended >= begin_ns + skip_ns:
                found.append(now - intended)
        return summary(found)

    def close(self) -> None:
        """Closes the consumer."""
        self._receiving.close()
