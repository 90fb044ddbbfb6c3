"""Producing and consuming at once: 16 partitions, two producers and two consumers, batches and rows, 100 B.

The partitions are those of two topics of 8, each with one producer and one consumer, who reads from the beginning while
the producer writes, and has ended when it has all. What counts is what was read, and how long that took.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.system import System
from benchmarks.harness.throughput import (
    BATCH_ROWS,
    BATCHES,
    COMPARED,
    FILL_S,
    ROWS,
    WAIT_S,
    Rate,
    Side,
    add_cpu,
    add_rates,
    best_of,
    check,
    fill,
    mb_s,
    reader_tunings,
    tunings,
)

TITLE = "producing and consuming at once"
SMALL = 100
TOPICS = 2
PARTITIONS = 8  # of each
# While others read and write, a producer gets about so much of the rate that all of them have when they only produce.
SHARE = 0.7
# role of the reader → what the table calls it, and the role of the producer.
PAIRS = {
    "arrow_out": (BATCHES, "batches through, mapped"),
    "arrow_out_streamed": (BATCHES, "batches through, streamed"),
    "rows_out": (ROWS, "rows through"),
}
KAFKA_ARROW = "batches through"

Sides: TypeAlias = dict[Side, Callable[[], Rate]]


def run(bench: Bench) -> Outcome:
    """Runs all sides in turn."""
    outcome = Outcome("w3", settings={"partitions": TOPICS * PARTITIONS, "topics": TOPICS, "value_bytes": SMALL})
    with ExitStack() as stack:
        sides: Sides = {}
        for reader, (writer, what) in PAIRS.items():
            for system in bench.having(writer, reader):
                ours = system is bench.rayqueue
                if system.name not in COMPARED or (not ours and reader == "arrow_out_streamed"):
                    continue  # what a peer's consumer does is the same wherever it is
                if ours and reader == "arrow_out" and not one_machine(system):
                    outcome.notes.append(f"{what}: left out, a reader maps only what lies on its own machine")
                    continue
                flow = Flow(bench, stack, system, writer, reader)
                name = what if ours or writer == ROWS else KAFKA_ARROW
                outcome.settings[f"records of {system.name}, {name}"] = flow.records
                sides[Side(system.name, name, flow.label, True)] = flow.run
        bench.say(f"w3: {len(sides)} sides")
        results = bench.alternate(sides, bench.few)
    for side, rates in results.items():
        add_rates(outcome, side, rates, "records/s" if side.what == PAIRS["rows_out"][1] else "MB/s")
        add_cpu(outcome, side, rates)
    for writer, what in PAIRS.values():
        ours = best_of(results, "rayqueue", what)
        theirs = best_of(results, "kafka", what if writer == ROWS else KAFKA_ARROW)
        if ours and theirs:
            outcome.ratio(f"{what}: to Kafka{'' if writer == ROWS else ' with Arrow'}", mb_s(ours), mb_s(theirs))
    return outcome


def one_machine(system: System) -> bool:
    """Whether all that a system's readers may read lies where they are."""
    nodes = getattr(system, "nodes", None)
    return nodes is None or bool(nodes.one_machine)


class Flow:
    """Producers and consumers of one system, a pair for each topic, all with its best tunings.

    Attributes:
        records: of each pair, in each round.
        label: of the tunings.
    """

    def __init__(self, bench: Bench, stack: ExitStack, system: System, writer: str, reader: str) -> None:
        self._bench = bench
        self._system = system
        self._writer, self._reader = writer, reader
        bench.say(f"w3: preparing {system.name}, {writer} and {reader}")
        writing = tunings(bench, system, writer, SMALL)[0]
        with ExitStack() as sweeping:
            filled = partial(self._filled, sweeping)
            reading = reader_tunings(bench, system, reader, SMALL, filled)[0]
        self.label = writing.label if writing.label == reading.label else f"{writing.label} / {reading.label}"
        self._writers = [stack.enter_context(bench.load(system, writer, **writing.arguments)) for _ in range(TOPICS)]
        self._readers = [
            stack.enter_context(bench.load_anew(system, reader, **reading.arguments)) for _ in range(TOPICS)
        ]
        self.records = self._calibrated()

    def run(self) -> Rate:
        """One round, on fresh topics."""
        with ExitStack() as stack:
            topics = [stack.enter_context(self._system.topic(PARTITIONS)) for _ in range(TOPICS)]
            for reader, topic in zip(self._readers, topics, strict=True):
                reader.call("make", topic=topic)
            meter = self._bench.meter(self._system, *self._readers, *self._writers)
            reading = [reader.begin("run", records=self.records) for reader in self._readers]
            writing = [
                writer.begin("run", topic=topic, **self._arguments(FILL_S, self.records))
                for writer, topic in zip(self._writers, topics, strict=True)
            ]
            read = [one.result(WAIT_S) for one in reading]
            for one in writing:
                one.result(WAIT_S)
            used = meter.used()
            check(self._system, self._writer, self._writers)
            check(self._system, self._reader, self._readers)
        return Rate(TOPICS * self.records, max(one["seconds"] for one in read), SMALL, used)

    def _arguments(self, seconds: float, records: int) -> dict[str, Any]:
        if self._writer == ROWS:
            return {"value_bytes": SMALL, "seconds": seconds, "records_max": records}
        size = records * SMALL
        return {"value_bytes": SMALL, "seconds": seconds, "bytes_max": size, "rows": BATCH_ROWS[SMALL]}

    def _calibrated(self) -> int:
        """Records that each pair passes in about as long as a measurement is to take; whole batches."""
        scale = self._bench.scale
        most = min(scale.bytes_max // SMALL, scale.rows_max) if self._writer == ROWS else scale.bytes_max // SMALL
        with ExitStack() as stack:
            running = []
            for writer in self._writers:
                topic = stack.enter_context(self._system.topic(PARTITIONS))
                running.append(writer.begin("run", topic=topic, **self._arguments(scale.sweep_seconds, most)))
            found = [one.result(WAIT_S) for one in running]
            check(self._system, self._writer, self._writers)
        rate = min(one["records"] / one["seconds"] for one in found)
        wanted = min(most // TOPICS, int(SHARE * rate * scale.seconds))
        batch = BATCH_ROWS[SMALL] if self._writer == BATCHES else 1
        return max(1, wanted // batch) * batch

    def _filled(self, stack: ExitStack) -> tuple[str, int]:
        """A topic for the sweep of readers, where W2 has not made it."""
        scale = self._bench.scale
        records = min(scale.bytes_max // SMALL, scale.rows_max) // TOPICS
        return fill(self._bench, stack, self._system, self._writer, SMALL, records)
