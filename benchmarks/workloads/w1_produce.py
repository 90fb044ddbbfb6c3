"""Producing: record by record and by batches, 100 B and 1 KB, one producer process and four; and items one by one.

The promise is the same everywhere: acks=all, idempotent, no fsync. Bytes are those of the values. Kafka's batches are
the steelman: an Arrow IPC stream a message, of as many rows as rayqueue's batches have where the two are compared. A
bare Flight stream into a file is the ceiling of what rayqueue's batches go through.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeAlias

from benchmarks.baselines.flight_sink import BARE, CHECKED, FlightSink, FlightWriter
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.harness.throughput import (
    BATCH_ROWS,
    BATCHES,
    COMPARED,
    ROWS,
    Producers,
    Rate,
    Side,
    Tuning,
    add_cpu,
    add_rates,
    best_of,
    mb_s,
    tunings,
)
from benchmarks.workloads import w1_costs, w1_one_by_one

TITLE = "producing"
SMALL, LARGE = 100, 1000
BIG_BATCH_ROWS = 10_000
FLIGHT = "flight"
# Of the scale's seconds: measurements that are held against no "must".
SHORT = 0.5
PRODUCERS = 4
JAVA = "java_rows_in"
JAVA_ROUNDS = 1
PER_BATCH = "2,500 rows a batch"
WHAT = {ROWS: "rows in", BATCHES: f"batches in, {PER_BATCH}"}
BIG = f"batches in, {BIG_BATCH_ROWS:,} rows a batch"
UNITS = {ROWS: "records/s", BATCHES: "MB/s"}

Sides: TypeAlias = dict[Side, Callable[[], Rate]]
Results: TypeAlias = dict[Side, list[Rate]]


def run(bench: Bench) -> Outcome:
    """Measures 100 B with one producer at length, then the rest, then items one by one."""
    outcome = Outcome("w1", settings={"batch_rows": BATCH_ROWS, "acks": "all", "producers": [1, PRODUCERS]})
    _main(bench, outcome)
    for value_bytes, producers in ((LARGE, 1), (SMALL, PRODUCERS), (LARGE, PRODUCERS)):
        for role in (ROWS, BATCHES):
            _short(bench, outcome, role, value_bytes, producers)
    w1_one_by_one.run(bench, outcome)
    return outcome


# --- 100 B, one producer ---------------------------------------------------------------------------------------------


def _main(bench: Bench, outcome: Outcome) -> None:
    """Rows and batches in the same rounds, since batches are held against rows too."""
    with ExitStack() as stack:
        sides: Sides = {}
        pids: dict[str, list[int]] = {}
        for role in (ROWS, BATCHES):
            for system in bench.having(role):
                bench.say(f"w1: sweeping {WHAT[role]}, {system.name}")
                also = (LARGE,) if system.name in COMPARED else ()
                for tuning in tunings(bench, system, role, SMALL, also):
                    producers = Producers(bench, stack, system, role, tuning.arguments)
                    pids.setdefault(system.name, []).extend(producers.pids)
                    held = tuning.best and system.name in COMPARED
                    seconds = bench.scale.seconds * (1 if held else SHORT)
                    measure = partial(producers.measure, SMALL, seconds)
                    sides[_side(system, WHAT[role], tuning)] = measure
                    if role == BATCHES and tuning.best:
                        sides[_side(system, BIG, tuning)] = partial(measure, BIG_BATCH_ROWS)
        sides |= _flight(bench, stack)
        bench.say(f"w1: 100 B, one producer, {len(sides)} sides")
        results = alternate(sides, bench.scale.repeats, bench.scale.warm_up)
        _main_figures(outcome, results)
        w1_costs.memory(bench, outcome, pids)
    _java(bench, outcome)
    w1_costs.disk(bench, outcome, WHAT, SMALL)


def _side(system: System, what: str, tuning: Tuning) -> Side:
    return Side(system.name, what, str(tuning), tuning.best)


def _flight(bench: Bench, stack: ExitStack) -> Sides:
    sink = stack.enter_context(bench.process(FlightSink, "flight-sink", directory=str(bench.directory)))
    writer = stack.enter_context(bench.process(FlightWriter, "flight-writer", port=sink.call("port")))
    wanted = ((WHAT[BATCHES], BARE, BATCH_ROWS[SMALL]), (BIG, BARE, BIG_BATCH_ROWS), (BIG, CHECKED, BIG_BATCH_ROWS))
    return {
        Side(FLIGHT, what, grade, grade == BARE): partial(_write, bench, sink, writer, grade, rows)
        for what, grade, rows in wanted
    }


def _write(bench: Bench, sink: Load, writer: Load, grade: str, rows: int) -> Rate:
    meter = bench.meter(sink, writer)
    size = {"rows": rows, "value_bytes": SMALL, "bytes_max": bench.scale.bytes_max}
    result = writer.call("run", grade=grade, seconds=SHORT * bench.scale.seconds, **size)
    return Rate(result["records"], result["seconds"], SMALL, meter.used())


def _main_figures(outcome: Outcome, results: Results) -> None:
    for side, rates in results.items():
        add_rates(outcome, side, rates, "records/s" if side.what == WHAT[ROWS] else "MB/s")
        if side.best:
            add_cpu(outcome, side, rates)
    ours = {what: best_of(results, "rayqueue", what) for what in (*WHAT.values(), BIG)}
    rows, batches, big = (ours[what] or [] for what in (WHAT[ROWS], WHAT[BATCHES], BIG))
    _ceiling(outcome, results, {WHAT[BATCHES]: batches, BIG: big})
    kafka_rows = best_of(results, "kafka", WHAT[ROWS])
    steelman, steelman_big = (best_of(results, "kafka", what) for what in (WHAT[BATCHES], BIG))
    if kafka_rows:
        theirs = mb_s(kafka_rows)
        outcome.ratio("rows in, 100 B: to Kafka", mb_s(rows), theirs, must=1.2, aim=2)
        outcome.ratio(f"{WHAT[BATCHES]}, 100 B: to Kafka's rows", mb_s(batches), theirs, must=6, aim=12)
        outcome.ratio(f"{BIG}, 100 B: to Kafka's rows", mb_s(big), theirs)
    if steelman and steelman_big:
        theirs = mb_s(steelman)
        outcome.ratio(f"{WHAT[BATCHES]}, 100 B: to Kafka with Arrow", mb_s(batches), theirs, must=2, aim=4)
        outcome.ratio(f"{BIG}, 100 B: to Kafka with Arrow, {PER_BATCH}", mb_s(big), theirs)
        outcome.ratio(f"{BIG}, 100 B: to Kafka with Arrow, as many", mb_s(big), mb_s(steelman_big))
        cpu = [[rate.cpu_s_gb() for rate in rates] for rates in (batches, steelman)]
        outcome.ratio(f"CPU: {WHAT[BATCHES]}, 100 B: to Kafka with Arrow", *cpu, higher_is_better=False)


def _ceiling(outcome: Outcome, results: Results, ours: dict[str, list[Rate]]) -> None:
    for what, rates in ours.items():
        bare = best_of(results, FLIGHT, what)
        assert bare is not None
        outcome.ratio(f"{what}: to a bare Flight stream into a file", mb_s(rates), mb_s(bare), aim=0.7)


def _java(bench: Bench, outcome: Outcome) -> None:
    """Kafka's own generator in Java, to be shown beside: a JVM a run."""
    for system in bench.having(JAVA):
        with ExitStack() as stack:
            sides: Sides = {}
            for label, arguments in system.tunings[JAVA].items():
                producers = Producers(bench, stack, system, JAVA, arguments)
                sides[Side(system.name, "rows in by Java", label, False)] = partial(producers.measure, SMALL)
            bench.say("w1: rows in by Java, 100 B")
            results = alternate(sides, min(JAVA_ROUNDS, bench.scale.repeats), 0)
        for side, rates in results.items():
            add_rates(outcome, side, rates, "records/s")


# --- 1 KB, and four producers ----------------------------------------------------------------------------------------


def _short(bench: Bench, outcome: Outcome, role: str, value_bytes: int, producers: int) -> None:
    """rayqueue and Kafka, each with its best tuning."""
    systems = [system for system in bench.having(role) if system.name in COMPARED]
    size = f"{value_bytes} B, {producers} producer{'s' if producers > 1 else ''}"
    what = f"{'rows' if role == ROWS else 'batches of 250 KB'} in, {size}"
    with ExitStack() as stack:
        sides: Sides = {}
        for system in systems:
            tuning = tunings(bench, system, role, value_bytes)[-1]
            writers = Producers(bench, stack, system, role, tuning.arguments, producers)
            seconds = SHORT * bench.scale.seconds
            sides[_side(system, what, tuning)] = partial(writers.measure, value_bytes, seconds)
        bench.say(f"w1: {what}")
        results = alternate(sides, bench.scale.repeats, bench.scale.warm_up)
    for side, rates in results.items():
        add_rates(outcome, side, rates, UNITS[role])
        add_cpu(outcome, side, rates)
    ours, theirs = (best_of(results, name, what) for name in ("rayqueue", "kafka"))
    if ours and theirs:
        outcome.ratio(f"{what}: to Kafka{'' if role == ROWS else ' with Arrow'}", mb_s(ours), mb_s(theirs))
