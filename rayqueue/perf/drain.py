"""Draining a backlog while more is produced: a producer that keeps to a pace, and a consumer that catches up with it.

The consumer has caught up when it holds the whole backlog and its newest record is not older than `FRESH_MS`, by the
record's own timestamp: producer and consumer share the machine's clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from rayqueue.consumer import Consumer
from rayqueue.perf.latency import NS_PER_S, wake_on_time
from rayqueue.perf.payload import SUM_BELOW, random_values, touch, touch_all, values_table
from rayqueue.producer import Producer
from rayqueue.types import TopicPartition

FRESH_MS = 100
# A pacer that would never be stopped ends after so many sends.
SENDS_MAX = 1_000_000
ACK_TIMEOUT_S = 60.0
LAST_CALLBACK_S = 5.0
WAIT_S = 1.0
NUM_MESSAGES = 500

# Sends one group of records; the function given is called when the group is acked, on any thread.
Send: TypeAlias = Callable[[Callable[[Exception | None], None]], None]
# Of what was read at once: first offset, last offset, records, the newest one's timestamp in ms, sum of the values.
Found: TypeAlias = tuple[int, int, int, float, int]


class Pace:
    """Sends groups of records at a fixed rate on a thread of its own, and notes when each was due and when acked.

    Args:
        send: sends one group.
        groups_per_s: how many a second, whatever the acks do.
    """

    def __init__(self, send: Send, groups_per_s: float) -> None:
        self._send = send
        self._groups_per_s = groups_per_s
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._due: list[int] = []
        self._acked: dict[int, int] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pace", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wake_on_time()
        begin = time.monotonic_ns()
        try:
            for number in range(SENDS_MAX):
                due = begin + int(number * NS_PER_S / self._groups_per_s)
                wait = due - time.monotonic_ns()
                if wait > 0:
                    time.sleep(wait / NS_PER_S)
                stopping = self._stopping.is_set()
                self._due.append(due)
                self._send(self._noting(number))
                if stopping:  # so that one group at least is due after whatever was waited for
                    return
        except Exception as error:
            self._error = error  # `stop` raises it

    def _noting(self, number: int) -> Callable[[Exception | None], None]:
        def acked(error: Exception | None) -> None:
            if error is None:
                self._acked[number] = time.monotonic_ns()
            else:
                self._error = error
            if error is not None or (self._stopping.is_set() and len(self._acked) == len(self._due)):
                self._settled.set()

        return acked

    def stop(self, flush: Callable[[], Any]) -> list[tuple[int, float]]:
        """Sends one group more, and waits for all acks by `flush`.

        Returns:
            of each group, in order: when it was due, in monotonic ns, and the ms from then to its ack.

        Raises:
            AssertionError: a group was not acked.
        """
        self._stopping.set()
        self._thread.join()
        flush()
        if self._error is None:
            self._settled.wait(LAST_CALLBACK_S)  # flush may return while a client's thread is in the last callback
        if self._error is not None:
            raise self._error
        missing = len(self._due) - len(self._acked)
        if missing:
            raise AssertionError(f"{missing} of {len(self._due)} groups of records were not acked")
        return [(due, (self._acked[number] - due) / 1e6) for number, due in enumerate(self._due)]


class Pacer:
    """A producer that keeps to a pace.

    Args:
        client: the connection's settings.
        topic: what it writes.
        tuning: settings of the producer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        self._producer = Producer(**{**client, **tuning})
        self._topic = topic
        self._pace: Pace | None = None

    def batches(self, rows: int, value_bytes: int, rate: float) -> None:
        """Begins to produce tables of `rows` values, `rate` records a second, until `stop`."""
        table = values_table(rows, value_bytes)
        self._producer.produce_batch(self._topic, table).result(ACK_TIMEOUT_S)  # connects, and warms the path
        produce_batch, topic = self._producer.produce_batch, self._topic

        def send(acked: Callable[[Exception | None], None]) -> None:
            produce_batch(topic, table).add_done_callback(lambda future: acked(future.exception()))

        self._pace = Pace(send, rate / rows)

    def rows(self, group: int, value_bytes: int, rate: float) -> None:
        """Begins to produce records one by one, `rate` a second, `group` of them at each look at the clock.

        The last record of each group is the one whose ack is timed.
        """
        values = random_values(group, value_bytes)
        self._producer.produce(self._topic, values[0]).result(ACK_TIMEOUT_S)
        produce, topic = self._producer.produce, self._topic

        def send(acked: Callable[[Exception | None], None]) -> None:
            for value in values[:-1]:
                produce(topic, value)
            produce(topic, values[-1], on_delivery=lambda error, _: acked(error))

        self._pace = Pace(send, rate / group)

    def stop(self) -> list[tuple[int, float]]:
        """Ends the producing; see `Pace.stop`."""
        assert self._pace is not None, "nothing was begun"
        pace, self._pace = self._pace, None
        return pace.stop(self._producer.flush)

    def close(self) -> None:
        """Closes the producer, and ends the producing if nobody did."""
        if self._pace is not None:
            self.stop()
        self._producer.close()


def catch_up(
    begin: Callable[[], None], read: Callable[[], Found | None], start: int, end: int, timeout_s: float
) -> dict[str, Any]:
    """Reads from offset `start` until everything up to `end` is there and what came last is fresh.

    Args:
        begin: makes the consumer go to `start`; the time runs from its call.
        read: what comes next; None: nothing did for a while.
        timeout_s: gives up then.

    Returns:
        begin_ns and end_ns (monotonic), records (offsets) read, caught_up, and the sum of the values.

    Raises:
        AssertionError: the offsets have a gap, or are not in order.
    """
    begin_ns = time.monotonic_ns()
    give_up = begin_ns + int(timeout_s * NS_PER_S)
    begin()
    expected, total = start, 0
    caught_up = False
    while not caught_up and time.monotonic_ns() < give_up:
        found = read()
        if found is None:
            continue
        first, last, count, newest_ms, more = found
        if first != expected or last != first + count - 1:
            raise AssertionError(f"expected offset {expected}, got {count} records, {first} to {last}")
        expected = last + 1
        total += more
        caught_up = expected >= end and time.time() * 1000 - newest_ms <= FRESH_MS
    took = {"begin_ns": begin_ns, "end_ns": time.monotonic_ns(), "records": expected - start}
    return {**took, "caught_up": caught_up, "sum": total % SUM_BELOW}


class Drainer:
    """A consumer of a topic of one partition, which begins behind and catches up.

    Args:
        client: the connection's settings.
        topic: what it reads.
        tuning: settings of the consumer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        self._consumer = Consumer(topic, **{"auto_offset_reset": "earliest", **client, **tuning})
        self._partition = TopicPartition(topic, 0)

    def arrow(self, behind: int, rows: int, timeout_s: float) -> dict[str, Any]:
        """Reads tables from `behind` records before the end until it has caught up, and touches every byte.

        Args:
            rows: of a batch, for peers that find records by their batches only.

        Returns, raises: as `catch_up`.
        """
        return self._drain(behind, timeout_s, self._table)

    def rows(self, behind: int, timeout_s: float) -> dict[str, Any]:
        """The same record by record, with `consume(500)`."""
        return self._drain(behind, timeout_s, self._messages)

    def _drain(self, behind: int, timeout_s: float, read: Callable[[], Found | None]) -> dict[str, Any]:
        _, end = self._consumer.get_watermark_offsets(self._partition)
        start = end - behind
        found = catch_up(lambda: self._go_to(start), read, start, end, timeout_s)
        self._consumer.pause()  # it must not cost anything while the next round begins with the producer alone
        return found

    def _go_to(self, offset: int) -> None:
        self._consumer.seek(self._partition, offset)
        self._consumer.resume()

    def _table(self) -> Found | None:
        table = self._consumer.consume_arrow(timeout=WAIT_S)
        if not table.num_rows:
            return None
        offsets = table["offset"]
        newest_ms = table["timestamp"][-1].value
        return offsets[0].as_py(), offsets[-1].as_py(), table.num_rows, newest_ms, touch(table["value"])

    def _messages(self) -> Found | None:
        messages = self._consumer.consume(NUM_MESSAGES, timeout=WAIT_S)
        if not messages:
            return None
        newest = messages[-1]
        total = touch_all([message.value for message in messages])
        return messages[0].offset, newest.offset, len(messages), newest.timestamp, total

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()
