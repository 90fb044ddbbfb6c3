"""Consuming what is there: Arrow as a consumer on another node has it (streamed) and as one on the leader's node has it
(mapped), and records as messages. 100 B, one partition, one consumer process; every byte is touched.

All systems read what they were sent by the batches, or rows, of W1. rayqueue checks CRC32C on both ways, which touches
the bytes a first time; the reader then sums them. The sums of all readers are compared.

The CPU of batches in and out together is measured here: each round produces once and reads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.harness.throughput import (
    BATCHES,
    COMPARED,
    DEFAULT,
    FILL_S,
    ROWS,
    Producers,
    Rate,
    Side,
    Tuning,
    add_cpu,
    add_rates,
    best_of,
    fill,
    mb_s,
    reader_tunings,
    tunings,
)

TITLE = "consuming"
SMALL = 100
# Of the scale's rows, those that lie in a topic of rows: a Kafka reader takes a second or two for them.
ROWS_SHARE = 3
PILOT = 2_000
MAPPED, STREAMED = "Arrow out, mapped", "Arrow out, streamed"
KAFKA_ARROW = "Arrow out"
ROWS_OUT = "rows out"
IN = "batches in"
# What rayqueue does → must and aim, to Kafka's best.
GOALS = {STREAMED: (0.8, 1.2), MAPPED: (3.0, 10.0), ROWS_OUT: (2.0, 4.0)}
CPU_GOAL = (0.3, 0.15)

Sides: TypeAlias = dict[Side, Callable[[], Rate]]
Results: TypeAlias = dict[Side, list[Rate]]


def run(bench: Bench) -> Outcome:
    """Fills the topics once, then reads them again and again, all sides in turn."""
    outcome = Outcome("w2", settings={"value_bytes": SMALL, "partitions": 1, "check_crcs": "rayqueue only"})
    with ExitStack() as stack:
        readers = Readers(bench, stack)
        sides = {**_arrow(bench, stack, readers), **_rows(bench, stack, readers)}
        bench.say(f"w2: {len(sides)} sides")
        results = alternate(sides, bench.scale.repeats, bench.scale.warm_up)
        readers.check_sums()
        outcome.settings |= readers.records
    for side, rates in results.items():
        add_rates(outcome, side, rates, "records/s" if side.what == ROWS_OUT else "MB/s")
        if side.best:
            add_cpu(outcome, side, rates)
    _ratios(outcome, results)
    _cpu(outcome, results)
    outcome.notes.append("streamed: over loopback, as from another node; mapped: the leader's files, on its node")
    return outcome


class Readers:
    """Reader processes, and what they read.

    Attributes:
        records: what lies in each topic that is read.
    """

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self._bench = bench
        self._stack = stack
        self._sums: dict[tuple[str, int], dict[str, float]] = {}
        self.records: dict[str, int] = {}

    def fill(self, system: System, role: str) -> tuple[str, int]:
        """A topic with records in it: its name, and how many."""
        bench, scale = self._bench, self._bench.scale
        bench.say(f"w2: filling {system.name} by {role}")
        records = scale.bytes_max // SMALL if role == BATCHES else scale.rows_max // ROWS_SHARE
        # The slow systems get as much as they take in a while.
        seconds = FILL_S if system.name in COMPARED else scale.seconds
        topic, found = fill(bench, self._stack, system, role, SMALL, records, seconds)
        self.records[f"records of {system.name}, {role}"] = found
        return topic, found

    def start(self, system: System, role: str, topic: str, tuning: dict[str, Any]) -> Load:
        """A reader that ends with the workload."""
        return self._stack.enter_context(self._bench.load(system, role, topic=topic, **tuning))

    def tunings(self, system: System, role: str, topic: str, records: int) -> list[Tuning]:
        """See `reader_tunings`."""
        return reader_tunings(self._bench, system, role, SMALL, lambda: (topic, records))

    def read(self, system: System, kind: str, load: Load, records: int) -> Rate:
        """Reads the topic's first records, and keeps their sum."""
        meter = self._bench.meter(system, load)
        result = load.call("run", records=records)
        used = meter.used()
        sums = self._sums.setdefault((kind, records), {})
        name = system.name if system.name in COMPARED else f"{system.name} alone"
        if sums.setdefault(name, result["sum"]) != result["sum"]:
            raise AssertionError(f"{name}, {kind}: {records} records sum up to {result['sum']}, and to {sums[name]}")
        return Rate(records, result["seconds"], SMALL, used)

    def check_sums(self) -> None:
        """
        Raises:
            AssertionError: rayqueue and Kafka gave other bytes for the same records.
        """
        for (kind, records), sums in self._sums.items():
            found = {name: total for name, total in sums.items() if name in COMPARED}
            if len(set(found.values())) > 1:
                raise AssertionError(f"{kind}: the sums of {records} records differ: {found}")


def _arrow(bench: Bench, stack: ExitStack, readers: Readers) -> Sides:
    """Readers of tables; and a producer of each system, for the CPU of both ways together."""
    sides: Sides = {}
    for system in bench.having(BATCHES, "arrow_out"):
        topic, records = readers.fill(system, BATCHES)
        read = partial(readers.read, system, BATCHES, records=records)
        ours = system is bench.rayqueue
        for tuning in readers.tunings(system, "arrow_out", topic, records):
            load = readers.start(system, "arrow_out", topic, tuning.arguments)
            what = MAPPED if ours else KAFKA_ARROW
            sides[Side(system.name, what, str(tuning), tuning.best)] = partial(read, load)
        if ours:
            for tuning in readers.tunings(system, "arrow_out_streamed", topic, records):
                load = readers.start(system, "arrow_out_streamed", topic, tuning.arguments)
                sides[Side(system.name, STREAMED, str(tuning), tuning.best)] = partial(read, load)
        best = tunings(bench, system, BATCHES, SMALL)[-1]
        producers = Producers(bench, stack, system, BATCHES, best.arguments)
        sides[Side(system.name, IN, str(best), True)] = partial(producers.measure, SMALL)
    return sides


def _rows(bench: Bench, stack: ExitStack, readers: Readers) -> Sides:
    """Readers of messages; of rayqueue both ways are shown, `consume(500)`, its default, and `poll()`."""
    sides: Sides = {}
    for system in bench.having(ROWS, "rows_out"):
        topic, records = readers.fill(system, ROWS)
        for tuning in _row_tunings(system, readers, topic, records):
            load = readers.start(system, "rows_out", topic, tuning.arguments)
            wanted = records if system.name in COMPARED else _some(load, records, bench.scale.seconds)
            read = partial(readers.read, system, ROWS, load, records=wanted)
            sides[Side(system.name, ROWS_OUT, str(tuning), tuning.best)] = read
    return sides


def _row_tunings(system: System, readers: Readers, topic: str, records: int) -> list[Tuning]:
    if system.name == "rayqueue":
        return [Tuning(label, dict(given), label == DEFAULT) for label, given in system.tunings["rows_out"].items()]
    if system.name in COMPARED:
        return readers.tunings(system, "rows_out", topic, records)
    return [Tuning(DEFAULT, {}, True)]


def _some(load: Load, records: int, seconds: float) -> int:
    """As many records as a slow system reads in about so long, as far as a few of them tell."""
    few = min(PILOT, records)
    return int(min(records, max(few, seconds * few / load.call("run", records=few)["seconds"])))


def _ratios(outcome: Outcome, results: Results) -> None:
    """Goals are held against Kafka's best tuning; what it does by default is shown."""
    for side, rates in results.items():
        if side.system != "rayqueue" or side.what == IN or (side.what != ROWS_OUT and not side.best):
            continue
        is_rows = side.what == ROWS_OUT
        what = f"{side.what}, {'poll()' if not side.best else 'consume(500)'}" if is_rows else side.what
        must, aim = GOALS[side.what] if side.best else (None, None)
        for theirs, kafka in results.items():
            if theirs.system == "kafka" and theirs.what == (ROWS_OUT if is_rows else KAFKA_ARROW):
                name = f"{what}: to Kafka{'' if is_rows else ' with Arrow'}"
                if theirs.best:
                    outcome.ratio(name, mb_s(rates), mb_s(kafka), must, aim)
                else:
                    outcome.ratio(f"{name}, default", mb_s(rates), mb_s(kafka))


def _cpu(outcome: Outcome, results: Results) -> None:
    """CPU of batches in and out together, round by round."""
    sums: dict[str, list[float]] = {}
    for system, what in (("rayqueue", MAPPED), ("rayqueue", STREAMED), ("kafka", KAFKA_ARROW)):
        produced, read = best_of(results, system, IN), best_of(results, system, what)
        if produced and read:
            sums[what] = [one.cpu_s_gb() + other.cpu_s_gb() for one, other in zip(produced, read, strict=True)]
            name = f"CPU: {IN} + {what}"
            outcome.add(name, "CPU-s/GB", sums[what], higher_is_better=False, side=system)
    theirs = sums.get(KAFKA_ARROW)
    if theirs:
        for what, (must, aim) in {MAPPED: CPU_GOAL, STREAMED: (None, None)}.items():
            name = f"CPU: {IN} + {what}: to Kafka with Arrow"
            outcome.ratio(name, sums[what], theirs, must, aim, higher_is_better=False)
