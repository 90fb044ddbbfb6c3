"""How fast one producer process writes, every record acked."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayqueue.cli.perf_report import Latencies, Meter, Report, Summary

if TYPE_CHECKING:
    from rayqueue.producer import Producer

# Every so many rows one is timed: timing each would measure the timing.
SAMPLE_EVERY = 101
BATCHES_IN_FLIGHT = 64


class _Timing:
    """Latencies of sampled records, told from the producer's threads, and the first error of any."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def arrived(self, started: float, error: BaseException | None) -> None:
        microseconds = int((time.perf_counter() - started) * 1e6)
        with self._lock:
            if error is None:
                self.latencies.add(microseconds)
            else:
                self.error = self.error or error


def produce_rows(
    producer: Producer, topic: str, records: int, size: int, report: Report, rate: float | None = None
) -> Summary:
    """Records one by one through `produce`.

    Args:
        producer: flushed at the end.
        topic: an untyped topic.
        records: how many.
        size: bytes of each value, random ones.
        report: told once a second.
        rate: records a second to keep to; None: as fast as possible.

    Raises:
        RayQueueError: a record was not written.
    """
    timing = _Timing()
    value = os.urandom(size)
    meter = Meter("sent", report)
    block = max(1, min(1000, int(rate / 100))) if rate else 1000
    done = 0
    while done < records and timing.error is None:
        count = min(block, records - done)
        for number in range(done, done + count):
            if number % SAMPLE_EVERY:
                producer.produce(topic, value)
            else:
                producer.produce(topic, value, on_delivery=_sampled(timing))
        done += count
        meter.count(count, count * size)
        if rate:
            _keep_pace(meter.started, done / rate)
    _flush(producer, timing)
    return meter.summary(f"produce, {size} byte rows", timing.latencies)


def _sampled(timing: _Timing) -> Any:
    started = time.perf_counter()
    return lambda error, message: timing.arrived(started, error)


def _timed(timing: _Timing, started: float) -> Callable[[Any], None]:
    return lambda future: timing.arrived(started, future.exception())


def _keep_pace(started: float, due_s: float) -> None:
    wait = started + due_s - time.perf_counter()
    if wait > 0:
        time.sleep(wait)


def _flush(producer: Producer, timing: _Timing) -> None:
    producer.flush()
    if timing.error is not None:
        raise timing.error


def produce_batches(
    producer: Producer, topic: str, records: int, size: int, report: Report, batch_records: int = 10_000
) -> Summary:
    """Records through `produce_batch`, Arrow tables of `batch_records` each; latencies are those of batches."""
    import numpy as np
    import pyarrow as pa

    count = min(batch_records, records)
    offsets = pa.py_buffer(
        np.arange(0, (count + 1) * size, size, dtype=np.int32) if size else np.zeros(count + 1, "i4")
    )
    values = pa.Array.from_buffers(pa.binary(), count, [None, offsets, pa.py_buffer(os.urandom(count * size))])
    table = pa.table({"value": values})
    timing = _Timing()
    meter = Meter("sent", report)
    pending: deque[Any] = deque()
    left = records
    while left > 0:
        rows = min(count, left)
        started = time.perf_counter()
        future = producer.produce_batch(topic, table if rows == count else table.slice(0, rows))
        future.add_done_callback(_timed(timing, started))
        pending.append(future)
        left -= rows
        meter.count(rows, rows * size)
        while len(pending) > BATCHES_IN_FLIGHT:
            pending.popleft().result()
    _flush(producer, timing)
    return meter.summary(f"produce, batches of {count:,} records of {size} bytes", timing.latencies)
