"""Latencies of an open loop, in an HDR histogram: from when a record should have been sent to when it was read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 60_000_000
DIGITS = 3


def summary(latencies_ns: Iterable[int]) -> dict[str, Any]:
    """Percentiles in ms, the count, and the histogram itself (HdrHistogram's base64 V2, microseconds)."""
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    for latency in latencies_ns:
        histogram.record_value(max(LOWEST_US, latency // 1000))
    found = {
        name: histogram.get_value_at_percentile(percentile) / 1000
        for name, percentile in (("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9), ("max", 100))
    }
    return {**found, "count": histogram.get_total_count(), "histogram": histogram.encode().decode()}


def pooled(histograms: Sequence[str]) -> HdrHistogram:
    """All of them in one."""
    whole = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    for one in histograms:
        whole.decode_and_add(one)
    return whole


def pooled_ms(histograms: Sequence[str], percentile: float) -> float:
    """A percentile of all of them together, in ms."""
    return float(pooled(histograms).get_value_at_percentile(percentile)) / 1000
