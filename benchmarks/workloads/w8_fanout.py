"""Fan-out: 1, 3 and 10 readers of one topic at the same time, each of which reads it as Arrow from its beginning.

The readers are processes of their own and independent of each other: on rayqueue stand-alone consumers (groups come
later), on Kafka consumers that assign themselves the partition. What all processes use is measured.
"""

from __future__ import annotations

import contextlib
import statistics
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness import throughput
from benchmarks.harness.bench import GB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.harness.throughput import fill, reader_tunings

TITLE = "fan-out: 1, 3, 10 readers of one topic, Arrow, 100 B"
VALUE_BYTES = 100
BATCH_ROWS = throughput.BATCH_ROWS[VALUE_BYTES]
# How many read → each reads the topic's first 1/n of what the scale allows: all numbers make about the same work.
READERS = {1: 1, 3: 3, 10: 8}
READ_TIMEOUT_S = 120.0
# Side → system and role.
SIDES = {
    "rayqueue mapped": ("rayqueue", "arrow_out"),
    "rayqueue streamed": ("rayqueue", "arrow_out_streamed"),
    "kafka": ("kafka", "arrow_out"),
}

Found: TypeAlias = dict[str, Any]


def run(bench: Bench) -> Outcome:
    """Fills a topic on each system once, and reads it with more and more readers."""
    scale = bench.scale
    records = {
        count: max(1, scale.bytes_max // share // VALUE_BYTES // BATCH_ROWS) * BATCH_ROWS
        for count, share in READERS.items()
    }
    written = max(records.values())
    outcome = Outcome("w8", settings={"records": records, "value_bytes": VALUE_BYTES, "batch_rows": BATCH_ROWS})
    results: dict[int, dict[str, list[Found]]] = {}
    with contextlib.ExitStack() as stack:
        topics: dict[str, tuple[str, int]] = {}
        sides: dict[str, tuple[System, list[Load]]] = {}
        for side, (name, role) in SIDES.items():
            system = bench.find(name, "batches_in", role)
            if system is None:
                continue
            if name not in topics:
                topics[name] = fill(bench, stack, system, "batches_in", VALUE_BYTES, written)
                if topics[name][1] < written:
                    raise AssertionError(f"{name} took {topics[name][1]:,} of {written:,} records")
            topic = topics[name][0]
            tuning = reader_tunings(bench, system, role, VALUE_BYTES, partial(topics.__getitem__, name))[0].arguments
            bench.say(f"w8: starting {max(READERS)} readers, {side}")
            starting = (bench.load(system, role, topic=topic, **tuning) for _ in range(max(READERS)))
            sides[side] = system, [stack.enter_context(load) for load in starting]
        for count, some in records.items():
            bench.say(f"w8: {count} readers of {some:,} records")
            calls = {
                side: partial(_read, bench, system, loads[:count], some) for side, (system, loads) in sides.items()
            }
            results[count] = bench.alternate(calls, bench.few)
    _check_sums(results)
    for count, rounds in results.items():
        _figures(outcome, count, rounds)
    outcome.settings["rounds"] = {str(count): rounds for count, rounds in results.items()}
    outcome.notes.append(
        "all readers together: their bytes over the slowest one's seconds; one reads the whole topic, 3 a third of it "
        "each, 10 an eighth. Each is independent: on rayqueue a stand-alone consumer (consumer groups come later), on "
        "Kafka a consumer that assigns itself the partition"
    )
    if "kafka" not in sides:
        outcome.notes.append("no ratios: Kafka was not started")
    return outcome


def _read(bench: Bench, system: System, loads: list[Load], records: int) -> Found:
    """All readers at once.

    Returns:
        GB/s of all together, CPU seconds a GB of all processes and of the servers among them, the sums they found,
        and the seconds of each.
    """
    meter = bench.meter(system, *loads)
    futures = [load.begin("run", records=records) for load in loads]
    found = [future.result(READ_TIMEOUT_S) for future in futures]
    used = meter.used()
    size = len(loads) * records * VALUE_BYTES / GB
    return {
        "gb_s": size / max(one["seconds"] for one in found),
        "cpu_s_gb": sum(used.values()) / size,
        "servers_cpu_s_gb": (sum(used.values()) - used["clients"]) / size,
        "sums": [one["sum"] for one in found],
        "seconds": [one["seconds"] for one in found],
    }


def _check_sums(results: dict[int, dict[str, list[Found]]]) -> None:
    """Raises AssertionError unless as many readers saw the same bytes, all of them, of all systems."""
    for count, rounds in results.items():
        sums = {one_sum for found in rounds.values() for one in found for one_sum in one["sums"]}
        if len(sums) != 1:
            raise AssertionError(f"{count} readers saw different data: sums {sums}")


def _figures(outcome: Outcome, count: int, rounds: dict[str, list[Found]]) -> None:
    readers = f"{count} reader{'s' if count > 1 else ''}"
    rate = {side: [one["gb_s"] for one in found] for side, found in rounds.items()}
    for side in rate:
        if side != "kafka" and "kafka" in rate:
            how = side.removeprefix("rayqueue ")
            outcome.ratio(f"{readers}, {how}: to Kafka with Arrow", rate[side], rate["kafka"])
    for side, found in rounds.items():
        system, _ = SIDES[side]
        what = readers + side.removeprefix(system).replace(" ", ", ")
        outcome.add(f"{what}: all together", "GB/s", rate[side], side=system)
        cpu = [one["cpu_s_gb"] for one in found]
        servers = statistics.median(one["servers_cpu_s_gb"] for one in found)
        outcome.add(
            f"{what}: CPU of all processes", "CPU-s/GB", cpu, higher_is_better=False, side=system,
            note=f"{servers:.2f} of it the servers",
        )  # fmt: skip
