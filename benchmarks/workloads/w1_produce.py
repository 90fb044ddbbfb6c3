"""Producing: record by record and by batches, 100 B and 1 KB, one producer process and four; and items one by one.

The promise is the same everywhere: acks=all, idempotent, no fsync. Bytes are those of the values. Kafka's batches are
the steelman: an Arrow IPC stream a message, of as many rows as rayqueue's batches have where the two are compared. Of
each system the default and the best settings of a sweep run at the same length; the best of these rounds is compared. A
bare Flight stream into a file is the ceiling of what rayqueue's batches go through.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeAlias

from benchmarks.baselines.flight_sink import BARE, CHECKED, FlightSink, FlightWriter
from benchmarks.goals import GOALS
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.harness.throughput import (
    BATCH_ROWS,
    BATCHES,
    BEST,
    CARRIED,
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
    settle,
    tunings,
)
from benchmarks.workloads import w1_costs, w1_one_by_one

TITLE = "producing"
SMALL, LARGE = 100, 1000
BIG_BATCH_ROWS = 10_000
FLIGHT = "flight"
# Of the scale's seconds: measurements on which a goal hangs, and those that are only shown.
LONG, SHORT = 1.3, 0.5
# Of the scale's bytes, what a measurement of batches writes at most, so that it lasts for a second.
BYTES = 2
PRODUCERS = 4
JAVA = "java_rows_in"
JAVA_ROUNDS = 1
JAVA_SECONDS = 3.0
# Kafka's call for lists of records: neither what `produce()` is held against nor a batch of Arrow.
LISTS = "rows_in_batches"
PER_BATCH = "2,500 rows a batch"
WHAT = {ROWS: "rows in", BATCHES: f"batches in, {PER_BATCH}", LISTS: "rows in by lists, produce_batch(1,000)"}
BIG = f"batches in, {BIG_BATCH_ROWS:,} rows a batch"
UNITS = {ROWS: "records/s", BATCHES: "MB/s"}

Sides: TypeAlias = dict[Side, Callable[[], Rate]]
Results: TypeAlias = dict[Side, list[Rate]]


def run(bench: Bench) -> Outcome:
    """Measures 100 B with one producer at length, then the rest, then items one by one."""
    outcome = Outcome("w1", settings={"batch_rows": BATCH_ROWS, "acks": "all", "producers": [1, PRODUCERS]})
    _main(bench, outcome)
    for sizes, producers in (((LARGE,), 1), ((SMALL, LARGE), PRODUCERS)):
        for role in (ROWS, BATCHES):
            _short(bench, outcome, role, sizes, producers)
    w1_one_by_one.run(bench, outcome)
    return outcome


# --- 100 B, one producer ---------------------------------------------------------------------------------------------


def _main(bench: Bench, outcome: Outcome) -> None:
    """Rows and batches in the same rounds, since batches are held against rows too."""
    with ExitStack() as stack:
        taking_part: Sides = {}
        pids: dict[tuple[str, str], list[int]] = {}
        for role, what in WHAT.items():
            for system in bench.having(role):
                bench.say(f"w1: sweeping {what}, {system.name}")
                compared = system.name in COMPARED
                also = (LARGE,) if compared and role != LISTS else ()
                taking_part |= sides(bench, stack, system, role, LONG if compared else SHORT, also, pids, big=True)
        taking_part |= _flight(bench, stack)
        bench.say(f"w1: 100 B, one producer, {len(taking_part)} sides")
        results = decide(bench.alternate(taking_part))
        for role in (ROWS, BATCHES):
            settle(bench, results, WHAT[role], role, SMALL)
        _main_figures(outcome, results)
        w1_costs.memory(bench, outcome, pids)
    _java(bench, outcome)
    w1_costs.disk(bench, outcome, {role: WHAT[role] for role in (ROWS, BATCHES)}, SMALL)


def sides(
    bench: Bench,
    stack: ExitStack,
    system: System,
    role: str,
    seconds: float,
    also: Sequence[int] = (),
    pids: dict[tuple[str, str], list[int]] | None = None,
    big: bool = False,
) -> Sides:
    """The default and what a sweep suggests, all for as long, since any of them may prove to be the best.

    Args:
        seconds: of the scale's, of each. also: see `tunings`.
        pids: gets the producers' process ids. big: batches of `BIG_BATCH_ROWS` too.
    """
    chosen = candidates(tunings(bench, system, role, SMALL, also), CARRIED if also else 1)
    found: Sides = {}
    for number, tuning in enumerate(chosen):
        producers = Producers(bench, stack, system, role, tuning.arguments)
        if pids is not None:
            pids.setdefault((system.name, WHAT[role]), []).extend(producers.pids)
        bytes_max = BYTES * bench.scale.bytes_max
        measure = partial(producers.measure, SMALL, seconds * bench.scale.seconds, bytes_max=bytes_max)
        found[Side(system.name, WHAT[role], tuning.label)] = measure
        if big and role == BATCHES and number == 0:  # no goal hangs on it
            found[Side(system.name, BIG, tuning.label)] = partial(measure, BIG_BATCH_ROWS)
    return found


def _flight(bench: Bench, stack: ExitStack) -> Sides:
    sink = stack.enter_context(bench.process(FlightSink, "flight-sink", directory=str(bench.directory)))
    writer = stack.enter_context(bench.process(FlightWriter, "flight-writer", port=sink.call("port")))
    wanted = ((WHAT[BATCHES], BARE, BATCH_ROWS[SMALL]), (BIG, BARE, BIG_BATCH_ROWS), (BIG, CHECKED, BIG_BATCH_ROWS))
    return {
        Side(FLIGHT, what, grade, grade == BARE): partial(_write, bench, sink, writer, grade, rows)
        for what, grade, rows in wanted
    }


def _write(bench: Bench, sink: Load, writer: Load, grade: str, rows: int) -> Rate:
    sink.call("clear")  # the file of the run before, which it would have to empty in its own time
    meter = bench.meter(sink, writer)
    size = {"rows": rows, "value_bytes": SMALL, "bytes_max": bench.scale.bytes_max}
    result = writer.call("run", grade=grade, seconds=SHORT * bench.scale.seconds, **size)
    return Rate(result["records"], result["seconds"], SMALL, meter.used())


def _main_figures(outcome: Outcome, results: Results) -> None:
    for side, rates in results.items():
        add_rates(outcome, side, rates, "MB/s" if side.what in (WHAT[BATCHES], BIG) else "records/s")
        if side.best:
            add_cpu(outcome, side, rates)
    ours = {what: best_of(results, "rayqueue", what) or [] for what in (WHAT[ROWS], WHAT[BATCHES], BIG)}
    rows, batches, big = ours.values()
    _ceiling(outcome, results, {WHAT[BATCHES]: batches, BIG: big})
    kafka_rows, kafka_lists = (best_of(results, "kafka", WHAT[role]) for role in (ROWS, LISTS))
    steelman, steelman_big = (best_of(results, "kafka", what) for what in (WHAT[BATCHES], BIG))
    if kafka_rows and kafka_lists:
        theirs = mb_s(max(kafka_rows, kafka_lists, key=lambda rates: statistics.median(mb_s(rates))))
        outcome.ratio("rows in, 100 B: to Kafka's produce()", mb_s(rows), mb_s(kafka_rows), GOALS["rows_in"])
        outcome.ratio("rows in, 100 B: to Kafka's produce_batch()", mb_s(rows), mb_s(kafka_lists))
        outcome.ratio(f"{WHAT[BATCHES]}, 100 B: to Kafka's best rows", mb_s(batches), theirs, GOALS["batches_in_rows"])
        outcome.ratio(f"{BIG}, 100 B: to Kafka's best rows", mb_s(big), theirs)
    if steelman and steelman_big:
        theirs = mb_s(steelman)
        outcome.ratio(f"{WHAT[BATCHES]}, 100 B: to Kafka with Arrow", mb_s(batches), theirs, GOALS["batches_in"])
        outcome.ratio(f"{BIG}, 100 B: to Kafka with Arrow, {PER_BATCH}", mb_s(big), theirs)
        outcome.ratio(f"{BIG}, 100 B: to Kafka with Arrow, as many", mb_s(big), mb_s(steelman_big))
        cpu = [[rate.cpu_s_gb() for rate in rates] for rates in (batches, steelman)]
        outcome.ratio(f"CPU: {WHAT[BATCHES]}, 100 B: to Kafka with Arrow", *cpu, higher_is_better=False)


def _ceiling(outcome: Outcome, results: Results, ours: dict[str, list[Rate]]) -> None:
    for what, rates in ours.items():
        bare = best_of(results, FLIGHT, what)
        assert bare is not None
        outcome.ratio(f"{what}: to a bare Flight stream into a file", mb_s(rates), mb_s(bare))


def _java(bench: Bench, outcome: Outcome) -> None:
    """Kafka's own generator in Java, to be shown beside: a JVM a run, whose first third is not counted."""
    for system in bench.having(JAVA):
        with ExitStack() as stack:
            sides: Sides = {}
            for label, arguments in system.tunings[JAVA].items():
                producers = Producers(bench, stack, system, JAVA, arguments)
                measure = partial(producers.measure, SMALL, JAVA_SECONDS * bench.scale.seconds)
                sides[Side(system.name, "rows in by Java", label)] = measure
            bench.say("w1: rows in by Java, 100 B")
            results = bench.alternate(sides, min(JAVA_ROUNDS, bench.scale.repeats), 0)
        for side, rates in results.items():
            add_rates(outcome, side, rates, "records/s")


# --- 1 KB, and four producers ----------------------------------------------------------------------------------------


def _short(bench: Bench, outcome: Outcome, role: str, sizes: Sequence[int], producers: int) -> None:
    """rayqueue and Kafka, each with its default and with what suits one producer; the better one counts."""
    with ExitStack() as stack:
        writers: dict[tuple[str, str], Producers] = {}  # processes are slow to start: those of all sizes are the same
        rounds: dict[str, Sides] = {}
        for value_bytes in sizes:
            size = f"{value_bytes} B, {producers} producer{'s' if producers > 1 else ''}"
            what = f"{'rows' if role == ROWS else 'batches of 250 KB'} in, {size}"
            sides = rounds.setdefault(what, {})
            for system in (one for one in bench.having(role) if one.name in COMPARED):
                for tuning in candidates(tunings(bench, system, role, value_bytes), 1):
                    key = system.name, tuning.label
                    if key not in writers:
                        writers[key] = Producers(bench, stack, system, role, tuning.arguments, producers)
                    measure = partial(writers[key].measure, value_bytes, SHORT * bench.scale.seconds)
                    sides[Side(system.name, what, tuning.label)] = measure
        for what, sides in rounds.items():
            bench.say(f"w1: {what}")
            # More producers than the sweep had may be served best by something else: nothing is called best then.
            mark = BEST if producers == 1 else ""
            found = bench.alternate(sides, bench.few)
            _short_figures(outcome, role, what, decide(found, mark))


def _short_figures(outcome: Outcome, role: str, what: str, results: Results) -> None:
    for side, rates in results.items():
        add_rates(outcome, side, rates, UNITS[role])
        if side.best:
            add_cpu(outcome, side, rates)
    ours, theirs = (best_of(results, name, what) for name in ("rayqueue", "kafka"))
    if ours and theirs:
        outcome.ratio(f"{what}: to Kafka{'' if role == ROWS else ' with Arrow'}", mb_s(ours), mb_s(theirs))
