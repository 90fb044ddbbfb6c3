"""Ten columns, of which a reader wants 1, 3 or 10.

rayqueue: a typed topic, `iter_batches(columns=[...])`, mapped and over the stream. Kafka, twice: the steelman, an Arrow
IPC stream of as many rows a message, which is fetched whole and of which the columns are picked afterwards; and what
Kafka's users do, a JSON document a record, read by `json.loads`, beside rayqueue's records of the same typed topic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.sweep import Measure
from benchmarks.harness.system import System
from rayqueue.perf.columns import COLUMNS, SCHEMA

TITLE = "ten columns, of which 1, 3, 10 are read"
ROLES = ("columns_in", "columns_out")
BATCH_ROWS = 2_500
# About; what a row of the ten columns takes in Arrow.
ROW_BYTES = 95
MILLION = 1e6
KEY = "ten columns"
# Side → system and tuning of its reader.
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "rayqueue mapped": ("rayqueue", {}),
    "rayqueue streamed": ("rayqueue", {"mapped_reads": False}),
    "kafka": ("kafka", {}),
}
ROW_SIDES = ("rayqueue mapped", "kafka")

Found: TypeAlias = dict[str, Any]


def run(bench: Bench) -> Outcome:
    """Fills a topic on each system, checks once that it reads back equal, and reads it by columns, then by rows."""
    scale = bench.scale
    count = max(1, scale.bytes_max // 2 // ROW_BYTES // BATCH_ROWS)
    row_count = max(1, scale.rows_max // 40 // BATCH_ROWS)
    settings = {"columns": {str(field.name): str(field.type) for field in SCHEMA}, "batch_rows": BATCH_ROWS}
    outcome = Outcome("w9", settings={**settings, "records": count * BATCH_ROWS, "read": COLUMNS, "rounds": {}})
    outcome.settings["records_by_row"] = row_count * BATCH_ROWS
    with _readers(bench, count, "columns") as readers:
        for many, columns in COLUMNS.items():
            bench.say(f"w9: {many} of {len(SCHEMA)} columns of {count * BATCH_ROWS:,} records")
            rounds = _measure(bench, readers, "read", columns, count)
            outcome.settings["rounds"][f"{many} columns"] = rounds
            _figures(outcome, f"{many} of {len(SCHEMA)} columns", rounds, "Arrow")
    with _readers(bench, row_count, "rows") as readers:
        bench.say(f"w9: {row_count * BATCH_ROWS:,} records, one by one")
        by_row = {side: readers[side] for side in ROW_SIDES if side in readers}
        rounds = _measure(bench, by_row, "read_rows", COLUMNS[3], row_count)
        outcome.settings["rounds"]["rows"] = rounds
        _figures(outcome, f"3 of {len(SCHEMA)} columns, record by record", rounds, "JSON")
    outcome.notes.append(
        "Kafka's columns travel as one Arrow IPC stream a message and are picked after the whole of it was fetched. "
        "Reading into Ray Data, against ray.data.read_kafka, comes with rayqueue.read_topic"
    )
    if bench.find("kafka", *ROLES) is None:
        outcome.notes.append("no ratios: Kafka was not started")
    return outcome


@contextlib.contextmanager
def _readers(bench: Bench, count: int, form: str) -> Iterator[dict[str, tuple[System, Load]]]:
    """A reader for each side, of topics that are filled, checked, and deleted in the end."""
    with contextlib.ExitStack() as stack:
        filled: set[str] = set()
        readers = {}
        for side, (name, tuning) in SIDES.items():
            system = bench.find(name, *ROLES)
            if system is None:
                continue
            topic = f"bench-w9-{form}-{name}"
            if name not in filled:
                stack.enter_context(_filled(bench, system, topic, count, form))
                filled.add(name)
            if system is not bench.rayqueue and form != "rows":
                tuning = _best(bench, system, topic, count)
            reader = stack.enter_context(bench.load(system, "columns_out", topic=topic, **tuning))
            reader.call("check_rows" if form == "rows" else "check", rows=BATCH_ROWS, count=count)
            readers[side] = system, reader
        yield readers


def _best(bench: Bench, system: System, topic: str, count: int) -> dict[str, Any]:
    """The settings with which the system's readers of tables read the ten columns fastest."""

    def opened(stack: contextlib.ExitStack, tuning: dict[str, Any]) -> dict[str, Measure]:
        load = stack.enter_context(bench.load(system, "columns_out", topic=topic, **tuning))

        def measure() -> float:
            return 1 / float(load.call("read", columns=COLUMNS[10], records=count * BATCH_ROWS)["seconds"])

        measure()  # connects
        return {KEY: measure}

    known = system.tunings.get("arrow_out", {"default": {}})
    return dict(known[bench.sweep(system, "arrow_out", opened, KEY)[0]])


@contextlib.contextmanager
def _filled(bench: Bench, system: System, topic: str, count: int, form: str) -> Iterator[None]:
    with bench.load(system, "columns_in", topic=topic) as load:
        load.call("fill", rows=BATCH_ROWS, count=count, by_row=form == "rows")
        try:
            yield
        finally:
            load.call("drop")


def _measure(
    bench: Bench, readers: dict[str, tuple[System, Load]], method: str, columns: list[str], count: int
) -> dict[str, list[Found]]:
    records = count * BATCH_ROWS

    def read(system: System, load: Load) -> Found:
        meter = bench.meter(system, load)
        found = load.call(method, columns=columns, records=records)
        cpu = sum(meter.used().values())
        millions = records / MILLION
        return {"rate": millions / found["seconds"], "cpu": cpu / millions, **found}

    calls = {side: partial(read, system, load) for side, (system, load) in readers.items()}
    rounds = bench.alternate(calls, bench.few)
    sums = {one["sum"] for found in rounds.values() for one in found}
    if len(sums) != 1:
        raise AssertionError(f"readers saw different data: sums {sums}")
    return rounds


def _figures(outcome: Outcome, what: str, rounds: dict[str, list[Found]], theirs: str) -> None:
    rate = {side: [one["rate"] for one in found] for side, found in rounds.items()}
    for side in rate:
        if side != "kafka" and "kafka" in rate:
            outcome.ratio(
                f"{what}, {side.removeprefix('rayqueue ')}: to Kafka with {theirs}", rate[side], rate["kafka"]
            )
    for side, found in rounds.items():
        system, _ = SIDES[side]
        name = what + side.removeprefix(system).replace(" ", ", ")
        outcome.add(name, "M records/s", rate[side], side=system)
        cpu = [one["cpu"] for one in found]
        outcome.add(f"{name}: CPU of all processes", "CPU-s/M records", cpu, higher_is_better=False, side=system)
