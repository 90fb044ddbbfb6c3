"""How fast one producer process writes, every record acked."""

from __future__ import annotations

import math
import threading
from typing import Any

from rayqueue.cli.perf_report import Latencies, Meter, Report, Summary
from rayqueue.perf.produce import BatchesIn, RowsIn


class _Timing:
    """Latencies of sampled records, told from the producer's threads."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self._lock = threading.Lock()

    def add(self, nanoseconds: int) -> None:
        """One of them."""
        with self._lock:
            self.latencies.add(nanoseconds // 1000)


def produce_rows(
    settings: dict[str, Any], topic: str, records: int, size: int, report: Report, rate: float | None = None
) -> Summary:
    """Records one by one through `produce`.

    Args:
        settings: of the producer.
        topic: an untyped topic.
        records: how many.
        size: bytes of each value, random ones.
        report: told once a second.
        rate: records a second to keep to; each is timed then from when it should have been sent. None: as fast as
            possible.

    Raises:
        RayQueueError: a record was not written.
    """
    timing = _Timing()
    with RowsIn(settings) as load:
        with Meter("sent", report, records) as meter:
            found = load.send(topic, size, math.inf, records, meter.count, timing.add, rate, warm_up=False)
        load.check()
    return _summary(f"produce, {size} byte rows", found, size, timing)


def produce_batches(
    settings: dict[str, Any], topic: str, records: int, size: int, report: Report, batch_records: int = 10_000
) -> Summary:
    """Records through `produce_batch`, Arrow tables of `batch_records` each; latencies are those of batches."""
    timing = _Timing()
    count = min(batch_records, records)
    with BatchesIn(settings) as load, Meter("sent", report, records) as meter:
        found = load.run(
            topic, count, size, math.inf, records_max=records, progress=meter.count, timed=timing.add, warm_up=False
        )
    return _summary(f"produce, batches of {count:,} records of {size} bytes", found, size, timing)


def _summary(what: str, found: dict[str, float], size: int, timing: _Timing) -> Summary:
    records = int(found["records"])
    return Summary(what, records, records * size, found["seconds"], timing.latencies.percentiles())
