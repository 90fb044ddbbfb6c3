"""Payloads of the benchmarks: those of `rayqueue perf`."""

from rayqueue.perf.payload import SUM_BELOW, random_values, touch, touch_all, values_table

__all__ = ["SUM_BELOW", "random_values", "touch", "touch_all", "values_table"]
