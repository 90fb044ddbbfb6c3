"""The workloads, by name. Each is a module with `TITLE` and `run(bench) -> Outcome`; others here are their parts.

Every figure comes from the run itself.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.workloads import (
    ceilings,
    w1_produce,
    w2_consume,
    w3_both,
    w4_latency,
    w5_fsync,
    w6_replicated,
    w7_drain,
    w8_fanout,
    w9_columns,
    w10_scale,
)

_MODULES = {
    "ceilings": ceilings,
    "w1": w1_produce,
    "w2": w2_consume,
    "w3": w3_both,
    "w4": w4_latency,
    "w5": w5_fsync,
    "w6": w6_replicated,
    "w7": w7_drain,
    "w8": w8_fanout,
    "w9": w9_columns,
    "w10": w10_scale,
}

WORKLOADS: dict[str, Callable[[Bench], Outcome]] = {name: module.run for name, module in _MODULES.items()}
TITLES: dict[str, str] = {name: module.TITLE for name, module in _MODULES.items()}
