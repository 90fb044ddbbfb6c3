"""Producers at full speed: record by record, and by tables. Everything is acked, and checked to be acked once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from rayqueue.perf.latency import NS_PER_S, wake_on_time
from rayqueue.perf.load import Load
from rayqueue.perf.payload import Progress, random_values, values_table
from rayqueue.producer import Producer

ACK_TIMEOUT_S = 120.0
# Different values that are sent again and again, and the memory they may take.
DISTINCT = 1000
DISTINCT_BYTES_MAX = 16 << 20
# One record in so many is timed, where latencies are wanted: timing each would measure the timing.
TIMED_EVERY = 100
# At a given rate each record is timed, as long as those are not more than so many a second.
TIMED_PER_S_MAX = 10_000
# Futures that are kept before the older half of them is checked, which bounds the memory of a long run.
FUTURES_MAX = 2_000_000
BATCHES_WAITING_MAX = 64

# Told of one latency to the ack, in ns: from `produce`, or from when a record of a given rate should have been sent.
Timed: TypeAlias = Callable[[int], None]


class _Sending(Load[Producer]):
    """A producer of its own.

    Args:
        client: the connection's settings.
        tuning: settings of the producer, such as linger_ms=5.
    """

    def __init__(self, client: dict[str, Any], **tuning: Any) -> None:
        super().__init__(Producer(**{**client, **tuning}))


class RowsIn(_Sending):
    """One producer that sends records one by one, each with its future."""

    def __init__(self, client: dict[str, Any], **tuning: Any) -> None:
        super().__init__(client, **tuning)
        self._futures: list[Any] = []
        self._sent = self._acked = 0

    def run(
        self,
        topic: str,
        value_bytes: int,
        seconds: float,
        records_max: int,
        progress: Progress | None = None,
        timed: Timed | None = None,
        rate: float | None = None,
        warm_up: bool = True,
    ) -> dict[str, float]:
        """`send`, and `check`.

        Returns:
            records acked, and the seconds from the first call to the last ack.

        Raises:
            RayQueueError: a record was not written.
        """
        found = self.send(topic, value_bytes, seconds, records_max, progress, timed, rate, warm_up)
        self.check()
        return found

    def send(
        self,
        topic: str,
        value_bytes: int,
        seconds: float,
        records_max: int,
        progress: Progress | None = None,
        timed: Timed | None = None,
        rate: float | None = None,
        warm_up: bool = True,
    ) -> dict[str, float]:
        """Produces until time or records are used up, keeps the futures, and waits for every ack; see `check`.

        Args:
            timed: told of one record in `TIMED_EVERY`; at a given rate of all, as far as `TIMED_PER_S_MAX` goes, and
                there from the moment at which the record should have been sent (no coordinated omission).
            warm_up: sends one record more, before the time begins: it connects, and warms the path.
            rate: records a second to keep to; None: as fast as possible.

        Returns:
            records that were sent, and the seconds from the first call to the last ack.
        """
        values = random_values(max(1, min(DISTINCT, DISTINCT_BYTES_MAX // max(1, value_bytes))), value_bytes)
        if warm_up:
            self.client.produce(topic, values[0]).result(ACK_TIMEOUT_S)
        self._futures, self._sent, self._acked = [], 0, 0
        began = time.perf_counter_ns()
        if rate is None:
            self._hurry(topic, values, began, seconds, records_max, progress, timed)
        else:
            self._keep_pace(topic, values, began, seconds, records_max, progress, timed, rate)
        self.client.flush()
        return {"records": self._sent, "seconds": (time.perf_counter_ns() - began) / NS_PER_S}

    def _hurry(
        self,
        topic: str,
        values: list[bytes],
        began: int,
        seconds: float,
        records_max: int,
        progress: Progress | None,
        timed: Timed | None,
    ) -> None:
        """Sends as fast as possible, and looks at the clock now and then."""
        produce, futures = self.client.produce, self._futures
        block = DISTINCT if timed is None else TIMED_EVERY
        while time.perf_counter_ns() - began < seconds * NS_PER_S and self._sent < records_max:
            chosen = values[: min(block, records_max - self._sent)]
            count = len(chosen)
            if timed is not None:
                watch = _stop_watch(timed, time.perf_counter_ns())
                futures.append(produce(topic, chosen.pop(), on_delivery=watch))
            futures += [produce(topic, value) for value in chosen]
            self._went(count, count * len(values[0]), progress)

    def _keep_pace(
        self,
        topic: str,
        values: list[bytes],
        began: int,
        seconds: float,
        records_max: int,
        progress: Progress | None,
        timed: Timed | None,
        rate: float,
    ) -> None:
        """Sends each record at its moment, or at once when that is over."""
        wake_on_time()
        produce, clock = self.client.produce, time.perf_counter_ns
        every = max(1, int(rate / TIMED_PER_S_MAX))
        while self._sent < records_max:
            number = self._sent
            due = began + int(number * NS_PER_S / rate)
            if max(due, clock()) - began >= seconds * NS_PER_S:
                break
            if (wait := due - clock()) > 0:
                time.sleep(wait / NS_PER_S)
            watch = None if timed is None or number % every else _stop_watch(timed, due)
            self._futures.append(produce(topic, values[number % len(values)], on_delivery=watch))
            self._went(1, len(values[0]), progress)

    def _went(self, records: int, size: int, progress: Progress | None) -> None:
        self._sent += records
        if len(self._futures) > FUTURES_MAX:
            self._acked += _places(self._futures[: FUTURES_MAX // 2])
            del self._futures[: FUTURES_MAX // 2]
        if progress is not None:
            progress(records, size)

    def check(self) -> None:
        """Looks at the futures of the last `send`: each record is at a place of its own. Not part of producing.

        Raises:
            RayQueueError: a record was not written.
        """
        futures, self._futures = self._futures, []
        acked = self._acked + _places(futures)
        if acked != self._sent:
            raise AssertionError(f"{self._sent} records sent, {acked} acked")


def _stop_watch(timed: Timed, since: int) -> Any:
    def delivered(error: BaseException | None, metadata: Any) -> None:
        if error is None:  # else the record's future raises it
            timed(time.perf_counter_ns() - since)

    return delivered


def _places(futures: list[Any]) -> int:
    """At how many places of the log these records are: as many as there are records, if none was written twice."""
    found = [(record.partition, record.offset) for record in (future.result(ACK_TIMEOUT_S) for future in futures)]
    if found and found[0][1] < 0:
        return len(found)  # acks=0: nobody tells where they are
    return len(set(found))


class BatchesIn(_Sending):
    """One producer that sends Arrow tables."""

    def run(
        self,
        topic: str,
        rows: int,
        value_bytes: int,
        seconds: float,
        bytes_max: float = math.inf,
        records_max: float = math.inf,
        progress: Progress | None = None,
        timed: Timed | None = None,
        warm_up: bool = True,
    ) -> dict[str, float]:
        """Produces one table of `rows` values again and again until time, bytes or records are used up.

        Args:
            warm_up: sends one batch more, before the time begins: it connects, and warms the path.

        Returns:
            records acked, and the seconds from the first call to the last ack.

        Raises:
            RayQueueError: a batch was not written.
        """
        table = values_table(rows, value_bytes)
        if warm_up:
            self.client.produce_batch(topic, table).result(ACK_TIMEOUT_S)
        waiting: deque[Any] = deque()
        sent = acked = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent * value_bytes < bytes_max and sent < records_max:
            part = table if sent + rows <= records_max else table.slice(0, int(records_max - sent))
            produced_at = time.perf_counter_ns()
            future = self.client.produce_batch(topic, part)
            if timed is not None:
                future.add_done_callback(_batch_watch(timed, produced_at))
            waiting.append(future)
            sent += part.num_rows
            if progress is not None:
                progress(part.num_rows, part.num_rows * value_bytes)
            if len(waiting) > BATCHES_WAITING_MAX:
                acked += _records(waiting.popleft())
        self.client.flush()
        took = time.perf_counter() - began
        acked += sum(_records(future) for future in waiting)
        if acked != sent:
            raise AssertionError(f"{sent} records sent, {acked} acked")
        return {"records": sent, "seconds": took}


def _batch_watch(timed: Timed, produced_at: int) -> Callable[[Any], None]:
    def done(future: Any) -> None:
        if future.exception() is None:  # else its result raises it
            timed(time.perf_counter_ns() - produced_at)

    return done


def _records(future: Any) -> int:
    return sum(count for _, _, count in future.result(ACK_TIMEOUT_S))
