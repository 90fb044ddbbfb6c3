"""Latencies and rates of `rayqueue perf`: a line a second, a summary at the end."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
REPORT_EVERY_S = 1.0
_HIGHEST_US = 3_600_000_000

Report = Callable[[str], None]


class Latencies:
    """Durations in microseconds: an HdrHistogram where it is installed, else all of them."""

    def __init__(self) -> None:
        self._all = array("q")
        try:
            from hdrh.histogram import HdrHistogram
        except ModuleNotFoundError:
            self._histogram: Any = None
        else:
            self._histogram = HdrHistogram(1, _HIGHEST_US, 3)

    def __len__(self) -> int:
        return len(self._all) if self._histogram is None else int(self._histogram.get_total_count())

    def add(self, microseconds: int) -> None:
        """One duration."""
        if self._histogram is None:
            self._all.append(microseconds)
        else:
            self._histogram.record_value(min(max(1, microseconds), _HIGHEST_US))

    def percentiles(self) -> dict[str, float]:
        """Milliseconds by name: p50, p90, p99, p99.9, max. Empty without durations."""
        if not len(self):
            return {}
        if self._histogram is None:
            values = np.percentile(np.frombuffer(self._all, dtype=np.int64), PERCENTILES).tolist()
        else:
            values = [float(self._histogram.get_value_at_percentile(p)) for p in PERCENTILES]
        return {_name(p): round(value / 1000, 3) for p, value in zip(PERCENTILES, values, strict=True)}


def _name(percentile: float) -> str:
    return "max" if percentile == 100.0 else f"p{percentile:g}"


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        what: of what, in words.
        records, bytes: of values.
        seconds: from the first record to the last one acked, or read.
        latency_ms: percentiles by name, in ms; empty where none were taken.
    """

    what: str
    records: int
    bytes: int
    seconds: float
    latency_ms: dict[str, float]

    @property
    def records_per_second(self) -> float:
        """Records a second over the whole run."""
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes a second over the whole run."""
        return self.bytes / self.seconds / 1e6 if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rates = {
            "records_per_second": round(self.records_per_second, 1),
            "megabytes_per_second": round(self.megabytes_per_second, 2),
        }
        return {**asdict(self), "seconds": round(self.seconds, 3), **rates}

    def text(self) -> str:
        """For a person."""
        head = (
            f"{self.what}: {self.records:,} records, {self.bytes / 1e6:,.1f} MB in {self.seconds:.2f} s = "
            f"{self.records_per_second:,.0f} records/s, {self.megabytes_per_second:,.1f} MB/s"
        )
        latency = latency_text(self.latency_ms)
        return f"{head}\nlatency: {latency}" if latency else head


def latency_text(latency_ms: dict[str, float]) -> str:
    """Percentiles in a line."""
    return ", ".join(f"{name} {value:g} ms" for name, value in latency_ms.items())


class Meter:
    """Counts, and reports once a second, also when there was nothing to count: a stall is a line of zeros.

    A context manager: a thread of its own reports within the block.

    Args:
        what: what is done with the records, as "sent".
        report: told each line.
        total: records there will be; None when nobody knows.
    """

    def __init__(self, what: str, report: Report, total: int | None = None) -> None:
        self._what = what
        self._report = report
        self._total = total
        self._last = time.perf_counter()
        self._reported_records = self._reported_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perf-meter", daemon=True)
        self.records = self.bytes = 0

    def count(self, records: int, size: int) -> None:
        """Some more records of `size` bytes in all."""
        self.records += records
        self.bytes += size

    def line(self) -> None:
        """Reports what came since the last line."""
        now = time.perf_counter()
        all_records, all_bytes = self.records, self.bytes
        records, size, seconds = (
            all_records - self._reported_records,
            all_bytes - self._reported_bytes,
            now - self._last,
        )
        of = f", {all_records:,} of {self._total:,} ({all_records / self._total:.0%})" if self._total else ""
        self._report(
            f"{self._what} {records:,} records in {seconds:.1f} s, {records / seconds:,.0f} records/s, "
            f"{size / seconds / 1e6:,.1f} MB/s{of}"
        )
        self._last, self._reported_records, self._reported_bytes = now, all_records, all_bytes

    def _run(self) -> None:
        next_s = self._last
        while True:
            next_s += REPORT_EVERY_S
            if self._end.wait(max(0.0, next_s - time.perf_counter())):
                return
            self.line()

    def __enter__(self) -> Meter:
        self._last = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
