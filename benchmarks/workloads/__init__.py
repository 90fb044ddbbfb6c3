"""The workloads, by name. Each is a module with `run(bench) -> Outcome` and the loads it starts."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.workloads import ceilings, consume, end_to_end, idle_partitions, produce_batches, produce_rows

WORKLOADS: dict[str, Callable[[Bench], Outcome]] = {
    "ceilings": ceilings.run,
    "produce_batches": produce_batches.run,
    "produce_rows": produce_rows.run,
    "consume": consume.run,
    "end_to_end": end_to_end.run,
    "idle_partitions": idle_partitions.run,
}
