"""Producers at full speed: record by record, and by tables. Everything is acked, and checked to be acked once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from rayqueue.perf.load import Load
from rayqueue.perf.payload import Progress, random_values, values_table
from rayqueue.producer import Producer

ACK_TIMEOUT_S = 120.0
# Different values that are sent again and again, and the memory they may take.
DISTINCT = 1000
DISTINCT_BYTES_MAX = 16 << 20
# One record in so many is timed, where latencies are wanted: timing each would measure the timing.
TIMED_EVERY = 100
# Futures that are kept before the older half of them is checked, which bounds the memory of a long run.
FUTURES_MAX = 2_000_000
BATCHES_WAITING_MAX = 64

# Told of one latency, from `produce` to the ack, in ns.
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
        """Produces until time or records are used up, keeps the futures, and waits for every ack.

        Args:
            warm_up: sends one record more, before the time begins: it connects, and warms the path.
            rate: records a second to keep to; None: as fast as possible.

        Returns:
            records acked, and the seconds from the first call to the last ack.

        Raises:
            RayQueueError: a record was not written.
        """
        values = random_values(max(1, min(DISTINCT, DISTINCT_BYTES_MAX // max(1, value_bytes))), value_bytes)
        produce = self.client.produce
        if warm_up:
            produce(topic, values[0]).result(ACK_TIMEOUT_S)
        block = _block(timed is not None, rate)
        futures: list[Any] = []
        acked = sent = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent < records_max:
            chosen = values[: min(block, records_max - sent)]
            count = len(chosen)
            if timed is not None:
                produced_at = time.perf_counter_ns()
                futures.append(produce(topic, chosen.pop(), on_delivery=_stop_watch(timed, produced_at)))
            futures += [produce(topic, value) for value in chosen]
            sent += count
            if len(futures) >= FUTURES_MAX:
                acked += _places(futures[: FUTURES_MAX // 2])
                del futures[: FUTURES_MAX // 2]
            if progress is not None:
                progress(count, count * value_bytes)
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.perf_counter()))
        self.client.flush()
        took = time.perf_counter() - began
        acked += _places(futures)
        if acked != sent:
            raise AssertionError(f"{sent} records sent, {acked} acked")
        return {"records": sent, "seconds": took}


def _block(timed: bool, rate: float | None) -> int:
    """Records between two looks at the clock."""
    block = TIMED_EVERY if timed else DISTINCT
    return block if rate is None else max(1, min(block, int(rate / 100)))


def _stop_watch(timed: Timed, produced_at: int) -> Any:
    def delivered(error: BaseException | None, metadata: Any) -> None:
        if error is None:  # else the record's future raises it
            timed(time.perf_counter_ns() - produced_at)

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
