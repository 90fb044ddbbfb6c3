"""Draining a backlog while more is produced: how soon a consumer that begins behind has caught up, and what that does
to the producer's acks.

A backlog lies in the topic. A producer begins to write at a fixed rate, the same for all systems: a fraction of what
the slowest of them was filled with. After a quiet while the consumer begins, as many records behind the end as the
backlog has; it has caught up when its newest record is a tenth of a second old. Acks are timed from the moment their
records should have been sent (open loop). The topic is filled once; each round begins at the same distance to its end.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness import throughput
from benchmarks.harness.bench import MB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.sweep import Measure
from benchmarks.harness.system import System
from benchmarks.harness.throughput import Producers, reader_tunings, tunings

TITLE = "draining a backlog while producing, 100 B"
ROLES = ("batches_in", "rows_in", "pacer", "drainer")
VALUE_BYTES = 100
BATCH_ROWS = throughput.BATCH_ROWS[VALUE_BYTES]
FILL_MAX_S = 60.0
TIMEOUT_S = 30.0
# The producer alone, before the consumer begins, in units of `Scale.seconds`.
QUIET = 0.5
# Of single records, those that are produced between two looks at the clock: a millisecond's.
LOOKS_PER_S = 1000
LEAST_MS = 1e-6

Found: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How records go in and out.

    Attributes:
        name: as the table has it.
        role_in, role_out: which fill the topic, and by which the reader's best settings are found.
        share: of what the slowest system was filled with, the rate at which is produced meanwhile. Single records
            cost the reader as much as the writer: more than a tenth, and a Kafka reader on two cores hardly gains.
        sides: name → (system, tuning of the drainer).
    """

    name: str
    role_in: str
    role_out: str
    share: float
    sides: dict[str, tuple[str, dict[str, Any]]]


ARROW = Kind(
    "Arrow",
    "batches_in",
    "arrow_out",
    0.25,
    {"rayqueue": ("rayqueue", {}), "rayqueue streamed": ("rayqueue", {"mapped_reads": False}), "kafka": ("kafka", {})},
)
ROWS = Kind("rows", "rows_in", "rows_out", 0.1, {"rayqueue": ("rayqueue", {}), "kafka": ("kafka", {})})


@dataclass
class Side:
    """A system with a filled topic, and the processes that write and read it."""

    name: str
    system: System
    pacer: Load
    drainer: Load


def run(bench: Bench) -> Outcome:
    """Measures tables, then single records."""
    scale = bench.scale
    outcome = Outcome("w7", settings={"value_bytes": VALUE_BYTES, "batch_rows": BATCH_ROWS, "acks": "all"})
    for kind, records in ((ARROW, scale.bytes_max // 2 // VALUE_BYTES), (ROWS, scale.rows_max // 8)):
        backlog = max(1, records // BATCH_ROWS) * BATCH_ROWS
        with contextlib.ExitStack() as stack:
            sides, rate = _prepare(bench, stack, kind, backlog)
            what = {"backlog_records": backlog, "rate_records_s": rate}
            outcome.settings[kind.name] = what
            bench.say(f"w7: {kind.name}, {backlog:,} records behind, {rate:,} records/s meanwhile")
            turns = {side.name: partial(_round, bench, kind, side, backlog, rate) for side in sides}
            rounds = bench.alternate(turns, bench.few)
        what["rounds"] = {name: [_short(one) for one in found] for name, found in rounds.items()}
        _figures(outcome, kind, rounds)
    outcome.notes.append(
        "caught up: the whole backlog read, and the newest record 0.1 s old at most; acks from the moment the records "
        "should have been sent; alone: before the consumer began; rayqueue reads mapped unless it says streamed; "
        "consumers and the producers that keep the pace are at their best settings, as swept"
    )
    if bench.find("kafka", *ROLES) is None:
        outcome.notes.append("no ratios: Kafka was not started")
    return outcome


def _prepare(bench: Bench, stack: contextlib.ExitStack, kind: Kind, backlog: int) -> tuple[list[Side], int]:
    """Fills a topic for each side and starts its processes; and the rate for all of them, in records/s."""
    filled: dict[str, tuple[System, str, dict[str, Any], float]] = {}
    for name, (system_name, tuning) in kind.sides.items():
        system = bench.find(system_name, *ROLES)
        if system is None:
            continue
        topic = stack.enter_context(system.topic())
        rate = _fill(bench, system, kind.role_in, topic, backlog)
        if system is not bench.rayqueue:
            tuning = _best_reader(bench, system, kind, topic, backlog)
        filled[name] = system, topic, tuning, rate
    rate = max(1, int(min(rate for *_, rate in filled.values()) * kind.share))
    sides = []
    for name, (system, topic, tuning, _) in filled.items():
        quickest = _quickest(bench, system, kind, topic, rate)
        pacer = stack.enter_context(bench.load(system, "pacer", topic=topic, **quickest))
        drainer = stack.enter_context(bench.load(system, "drainer", topic=topic, **tuning))
        sides.append(Side(name, system, pacer, drainer))
    return sides, rate


def _best_reader(bench: Bench, system: System, kind: Kind, topic: str, backlog: int) -> dict[str, Any]:
    return reader_tunings(bench, system, kind.role_out, VALUE_BYTES, lambda: (topic, backlog))[0].arguments


def _quickest(bench: Bench, system: System, kind: Kind, topic: str, rate: int) -> dict[str, Any]:
    """The sender's tuning with which acks come soonest at this rate, while nobody reads."""

    def opened(stack: contextlib.ExitStack, tuning: dict[str, Any]) -> dict[str, Measure]:
        pacer = stack.enter_context(bench.load(system, "pacer", topic=topic, **tuning))

        def measure() -> float:
            _start(pacer, kind, rate)
            threading.Event().wait(bench.scale.sweep_seconds)
            return 1 / max(LEAST_MS, statistics.median(ms for _, ms in pacer.call("stop")))

        return {f"acks, {kind.name}": measure}

    known = system.tunings.get("sender", {"default": {}})
    return dict(known[bench.sweep(system, "sender", opened, f"acks, {kind.name}")[0]])


def _start(pacer: Load, kind: Kind, rate: int) -> None:
    if kind is ARROW:
        pacer.call("batches", rows=BATCH_ROWS, value_bytes=VALUE_BYTES, rate=rate)
    else:
        pacer.call("rows", group=max(1, rate // LOOKS_PER_S), value_bytes=VALUE_BYTES, rate=rate)


def _fill(bench: Bench, system: System, role: str, topic: str, records: int) -> float:
    """Writes so many records, as the system does it best; records a second."""
    tuning = tunings(bench, system, role, VALUE_BYTES)[0]
    with contextlib.ExitStack() as stack:
        producers = Producers(bench, stack, system, role, tuning.arguments)
        rate = producers.into(topic, VALUE_BYTES, FILL_MAX_S, records=records)
    if rate.records < records:
        raise AssertionError(f"{system.name} took {rate.records:,.0f} of {records:,} records in {FILL_MAX_S:.0f} s")
    return rate.records_s


def _round(bench: Bench, kind: Kind, side: Side, backlog: int, rate: int) -> Found:
    """Produces, drains, and stops producing.

    Returns:
        What the drainer says; seconds; acks in ms, "alone" and "meanwhile"; CPU seconds of all processes.
    """
    _start(side.pacer, kind, rate)
    threading.Event().wait(QUIET * bench.scale.seconds)
    meter = bench.meter(side.system, side.drainer, side.pacer)
    if kind is ARROW:
        found = side.drainer.call("arrow", behind=backlog, rows=BATCH_ROWS, timeout_s=TIMEOUT_S)
    else:
        found = side.drainer.call("rows", behind=backlog, timeout_s=TIMEOUT_S)
    cpu = sum(meter.used().values())
    acks = side.pacer.call("stop")
    seconds = (found["end_ns"] - found["begin_ns"]) / 1e9
    return {**found, **split(acks, found["begin_ns"], found["end_ns"]), "seconds": seconds, "cpu": cpu}


def split(acks: Sequence[Sequence[float]], begin_ns: int, end_ns: int) -> dict[str, list[float]]:
    """The ms to the acks of what was due before the drain ("alone") and during it ("meanwhile").

    A drain may be over before the next group of records is due: then that one counts, and likewise the first of all
    when none was due before. What was due just before, and not acked when the drain began, is "meanwhile" too.
    """
    alone = [ms for due, ms in acks if due + ms * 1e6 <= begin_ns]
    meanwhile = [ms for due, ms in acks if due + ms * 1e6 > begin_ns and due <= end_ns]
    return {
        "alone": alone or [acks[0][1]],
        "meanwhile": meanwhile or [next((ms for due, ms in acks if due > end_ns), acks[-1][1])],
    }


def _short(one: Found) -> Found:
    """A round for the results, its acks in order of time."""
    acks = {key: [round(ms, 3) for ms in one[key]] for key in ("alone", "meanwhile")}
    return {**{key: one[key] for key in ("records", "seconds", "caught_up", "cpu")}, **acks}


def _figures(outcome: Outcome, kind: Kind, rounds: dict[str, list[Found]]) -> None:
    seconds = {side: [one["seconds"] for one in found] for side, found in rounds.items()}
    for side in seconds:
        if side != "kafka" and "kafka" in seconds:
            how = side.removeprefix("rayqueue")
            name = f"{kind.name}{how}: time to catch up: to Kafka's"
            outcome.ratio(name, seconds[side], seconds["kafka"], higher_is_better=False)
    for side, found in rounds.items():
        system, _ = kind.sides[side]
        add = partial(outcome.add, side=system)
        what = f"{kind.name}{side.removeprefix(system)}:"
        stuck = sum(not one["caught_up"] for one in found)
        note = f"{stuck} of {len(found)} rounds had not caught up after {TIMEOUT_S:.0f} s" if stuck else ""
        add(f"{what} time to catch up", "s", seconds[side], higher_is_better=False, note=note)
        rate = [one["records"] / one["seconds"] for one in found]
        if kind is ARROW:
            add(f"{what} drained", "MB/s", [one * VALUE_BYTES / MB for one in rate])
        else:
            add(f"{what} drained", "records/s", rate)
        for when in ("alone", "meanwhile"):
            note = f"longest {statistics.median(max(one[when]) for one in found):.1f} ms"
            acks = [statistics.median(one[when]) for one in found]
            add(f"{what} ack, p50, {when}", "ms", acks, higher_is_better=False, note=note)
