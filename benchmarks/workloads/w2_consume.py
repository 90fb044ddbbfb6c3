"""Consuming what is there: Arrow as a consumer on another node has it (streamed) and as one on the leader's node has it
(mapped), and records as messages. 100 B, one partition, one consumer process; every byte is touched.

All systems read what they were sent by the batches, or rows, of W1. rayqueue checks CRC32C on both ways, which touches
the bytes a first time; the reader then sums them. The sums of all readers are compared.

What lies there is read again and again until a second has passed; Kafka is shown a second time with the check of CRCs
that librdkafka leaves out by default (`check.crcs`). The CPU of batches in and out together is measured here: each
round produces once and reads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from benchmarks.goals import GOALS
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
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
    candidates,
    check,
    decide,
    fill,
    mb_s,
    reader_tunings,
    settle,
    tunings,
)

TITLE = "consuming"
SMALL = 100
# Of the scale's rows, those that lie in a topic of rows: a Kafka reader takes a second or two for them.
ROWS_SHARE = 2
# Of the scale's seconds, how long is read in each turn at least: passes over the same records, one after the other.
LONG = 1.0
PILOT = 2_000
MAPPED, STREAMED = "Arrow out, mapped", "Arrow out, streamed"
KAFKA_ARROW = "Arrow out"
ROWS_OUT, POLLED = "rows out", "rows out, poll()"
CRCS = ", CRCs checked"
IN = "batches in"
# What rayqueue does → the goal it is held against, to Kafka's best.
HELD = {STREAMED: GOALS["arrow_streamed"], MAPPED: GOALS["arrow_mapped"], ROWS_OUT: GOALS["rows_out"]}
CHECKING = {"check_crcs": True}

Sides: TypeAlias = dict[Side, Callable[[], Rate]]
Results: TypeAlias = dict[Side, list[Rate]]


def run(bench: Bench) -> Outcome:
    """Fills the topics once, then reads them again and again, all sides in turn."""
    outcome = Outcome("w2", settings={"value_bytes": SMALL, "partitions": 1, "check_crcs": "rayqueue only"})
    with ExitStack() as stack:
        readers = Readers(bench, stack)
        sides = {**_arrow(bench, stack, readers), **_rows(bench, stack, readers)}
        bench.say(f"w2: {len(sides)} sides")
        results = decide(bench.alternate(sides))
        readers.check_sums()
        outcome.settings |= readers.records
    for what, role in {MAPPED: "arrow_out", STREAMED: "arrow_out_streamed", KAFKA_ARROW: "arrow_out"}.items():
        settle(bench, results, what, role, SMALL)
    settle(bench, [side for side in results if side.system == "kafka"], ROWS_OUT, "rows_out", SMALL)
    for side, rates in results.items():
        add_rates(outcome, side, rates, "records/s" if side.what.startswith(ROWS_OUT) else "MB/s")
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

    def read(self, system: System, kind: str, load: Load, records: int, role: str | None = None) -> Rate:
        """Reads the topic's first records, as often as a second takes, and keeps their sum; `role`: that it plays."""
        passes, seconds, sums = 0, 0.0, set()
        meter = self._bench.meter(system, load)
        while not passes or seconds < LONG * self._bench.scale.seconds:
            result = load.call("run", records=records)
            passes, seconds = passes + 1, seconds + result["seconds"]
            sums.add(result["sum"])
        used = meter.used()
        if role is not None:
            check(system, role, [load])
        name = system.name if system.name in COMPARED else f"{system.name} alone"
        sums.add(self._sums.setdefault((kind, records), {}).setdefault(name, result["sum"]))
        if len(sums) > 1:
            raise AssertionError(f"{name}, {kind}: {records} records sum up to different numbers: {sorted(sums)}")
        return Rate(passes * records, seconds, SMALL, used)

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
        roles = {"arrow_out": MAPPED, "arrow_out_streamed": STREAMED}
        for role, what in roles.items() if system is bench.rayqueue else [("arrow_out", KAFKA_ARROW)]:
            sides |= _readers_of(system, readers, BATCHES, role, what, topic, records)
        best = tunings(bench, system, BATCHES, SMALL)[0]
        producers = Producers(bench, stack, system, BATCHES, best.arguments)
        sides[Side(system.name, IN, best.label, True)] = partial(producers.measure, SMALL, LONG * bench.scale.seconds)
    return sides


def _readers_of(system: System, readers: Readers, kind: str, role: str, what: str, topic: str, records: int) -> Sides:
    """The default and what a sweep suggests; of Kafka the first of these once more, with its CRCs checked."""
    sides: Sides = {}
    found = candidates(readers.tunings(system, role, topic, records))
    for tuning in found:
        load = readers.start(system, role, topic, tuning.arguments)
        sides[Side(system.name, what, tuning.label)] = partial(readers.read, system, kind, load, records, role)
    if system.name == "kafka":
        load = readers.start(system, role, topic, {**found[0].arguments, **CHECKING})
        side = Side(system.name, what + CRCS, found[0].label, True)
        sides[side] = partial(readers.read, system, kind, load, records, role)
    return sides


def _rows(bench: Bench, stack: ExitStack, readers: Readers) -> Sides:
    """Readers of messages; of rayqueue both ways are shown, `consume(500)`, its default, and `poll()`."""
    sides: Sides = {}
    for system in bench.having(ROWS, "rows_out"):
        topic, records = readers.fill(system, ROWS)
        if system.name == "kafka":
            sides |= _readers_of(system, readers, ROWS, "rows_out", ROWS_OUT, topic, records)
            continue
        # Of rayqueue the tuning is another call, and a row of its own; the slow systems are shown as they are.
        given = system.tunings["rows_out"] if system.name in COMPARED else {DEFAULT: {}}
        for label, arguments in given.items():
            load = readers.start(system, "rows_out", topic, dict(arguments))
            wanted = records if system.name in COMPARED else _some(load, records, bench.scale.seconds)
            side = Side(system.name, f"{ROWS_OUT}, {label}" if label != DEFAULT else ROWS_OUT, DEFAULT, True)
            sides[side] = partial(readers.read, system, ROWS, load, wanted)
    return sides


def _some(load: Load, records: int, seconds: float) -> int:
    """As many records as a slow system reads in about so long, as far as a few of them tell."""
    few = min(PILOT, records)
    return int(min(records, max(few, seconds * few / load.call("run", records=few)["seconds"])))


def _ratios(outcome: Outcome, results: Results) -> None:
    """Goals are held against Kafka's best; what it does by default, and with its CRCs checked, is shown."""
    ours = {side.what: rates for side, rates in results.items() if side.system == "rayqueue" and side.best}
    kafka = {side: rates for side, rates in results.items() if side.system == "kafka"}
    for what, theirs in {MAPPED: KAFKA_ARROW, STREAMED: KAFKA_ARROW, ROWS_OUT: ROWS_OUT, POLLED: ROWS_OUT}.items():
        arrow = " with Arrow" if theirs == KAFKA_ARROW else ""
        shown = f"{what}, consume(500)" if what == ROWS_OUT else what
        for side, rates in kafka.items():
            name = f"{shown}: to Kafka{arrow}"
            if side.what == theirs and side.best:
                outcome.ratio(name, mb_s(ours[what]), mb_s(rates), HELD.get(what))
            elif side.what == theirs + CRCS or (side.what == theirs and side.tuning == DEFAULT):
                how = CRCS if side.what == theirs + CRCS else ", default"
                outcome.ratio(f"{name}{how}", mb_s(ours[what]), mb_s(rates))


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
        for what, goal in {MAPPED: GOALS["cpu"], STREAMED: None}.items():
            name = f"CPU: {IN} + {what}: to Kafka with Arrow"
            outcome.ratio(name, sums[what], theirs, goal, higher_is_better=False)
