"""The tier in which an ack means that the record is on stable storage: fsync before each ack (`flush.messages=1`).

Rows and batches of 100 B, one producer process, one partition. Each system is swept anew, since here it pays to wait
for more. The disk's own fdatasync is the ceiling of what awaits its acks one by one. Never mixed with other tiers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeAlias

from benchmarks.baselines.ceilings import fdatasync_s
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.system import System
from benchmarks.harness.throughput import (
    BATCH_ROWS,
    BATCHES,
    COMPARED,
    ROWS,
    Producers,
    Rate,
    Side,
    add_cpu,
    add_rates,
    best_of,
    candidates,
    decide,
    mb_s,
    tunings,
)

TITLE = "producing, fsync before each ack"
SMALL = 100
FSYNC = {"flush_messages": 1}
SYNCS = 50
SHORT = 0.6  # of the scale's seconds: no goal hangs on it
SYNCING = (*COMPARED, "redis")  # JetStream has no such setting of a stream
WHAT = {ROWS: "rows in, fsync", BATCHES: "batches in, fsync"}
UNITS = {ROWS: "records/s", BATCHES: "MB/s"}

Sides: TypeAlias = dict[Side, Callable[[], Rate]]


def run(bench: Bench) -> Outcome:
    """Rows and batches in the same rounds."""
    outcome = Outcome("w5", settings={"topic": FSYNC, "batch_rows": BATCH_ROWS[SMALL], "value_bytes": SMALL})
    with ExitStack() as stack:
        sides: Sides = {}
        for role, what in WHAT.items():
            for system in (one for one in bench.having(role) if one.name in SYNCING):
                bench.say(f"w5: sweeping {what}, {system.name}")
                sides |= _sides(bench, stack, system, role)
        bench.say(f"w5: {len(sides)} sides")
        results = decide(bench.alternate(sides, bench.few))
    path = bench.directory / "fsync"
    syncs = [fdatasync_s(path, SYNCS) * 1e6 for _ in range(bench.few)]
    outcome.add("fdatasync after 1 KiB", "us", syncs, higher_is_better=False, side="machine")
    for role, what in WHAT.items():
        for side, rates in results.items():
            if side.what == what:
                add_rates(outcome, side, rates, UNITS[role])
                if side.best:
                    add_cpu(outcome, side, rates)
        ours, theirs = (best_of(results, name, what) for name in COMPARED)
        if ours and theirs:
            outcome.ratio(f"{what}: to Kafka{'' if role == ROWS else ' with Arrow'}", mb_s(ours), mb_s(theirs))
    return outcome


def _sides(bench: Bench, stack: ExitStack, system: System, role: str) -> Sides:
    sides: Sides = {}
    for tuning in candidates(tunings(bench, system, role, SMALL, **FSYNC), 1):
        producers = Producers(bench, stack, system, role, tuning.arguments)
        measure = partial(producers.measure, SMALL, SHORT * bench.scale.seconds, **FSYNC)
        sides[Side(system.name, WHAT[role], tuning.label)] = measure
    return sides
