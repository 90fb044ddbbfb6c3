"""Consumers: from 1 to 100 of them, several in a process, which read a topic together or wait at its end.

Each is given its share of the topic's partitions, as a group would. They live in a few processes, because a hundred
interpreters would measure the machine's memory: so a consumer's own memory is what it adds to its process.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.bench import GB, MB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.workloads.w10_clusters import all_pids, rounds, steps, wait
from rayqueue.perf.payload import SUM_BELOW, touch, values_table

KIB = 1024
VALUE_BYTES = 100
BATCH_ROWS = 2500
# Processes that the consumers are spread over.
PROCESSES = 4
BYTES_MAX = 200 << 20
ROUNDS_MAX = 3
ROUNDS_S = 2.0
READ_TIMEOUT_S = 60.0
POLL_MAX_S = 0.5


class Consumers:
    """Some consumers in one process, each read by a thread of its own."""

    def __init__(self, client: dict[str, Any], topic: str, mapped: bool) -> None:
        self._settings = {**client, "mapped_reads": mapped, "auto_offset_reset": "earliest"}
        self._topic = topic
        self._consumers: list[rayqueue.Consumer] = []
        self._waiting = threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self._polls: list[Any] = []

    def open(self, shares: list[list[int]]) -> None:
        """Makes a consumer for each share of the partitions, in place of those that are there."""
        self._leave()
        self._threads = ThreadPoolExecutor(max(1, len(shares)))
        for share in shares:
            consumer = rayqueue.Consumer(**self._settings)
            consumer.assign([rayqueue.TopicPartition(self._topic, partition) for partition in share])
            self._consumers.append(consumer)

    def run(self, records: list[int]) -> dict[str, Any]:
        """All consumers read so many records each from the beginning of their partitions, at the same time.

        Returns:
            the seconds that took, and the sum of every byte that was read.
        """
        began = time.perf_counter()
        sums = list(self._threads.map(_read, self._consumers, records))
        return {"seconds": time.perf_counter() - began, "sum": sum(sums) % SUM_BELOW}

    def wait_at_end(self, poll_s: float) -> None:
        """All consumers wait in `poll`, so long each time, from now on until `awake`."""
        self._waiting.set()
        for consumer in self._consumers:
            consumer.seek_to_end()
        self._polls = [self._threads.submit(self._poll, consumer, poll_s) for consumer in self._consumers]

    def _poll(self, consumer: rayqueue.Consumer, poll_s: float) -> int:
        seen = 0
        while self._waiting.is_set():
            seen += consumer.poll(poll_s) is not None
        return seen

    def awake(self) -> int:
        """Ends the waiting; the records that came meanwhile."""
        self._waiting.clear()
        seen = sum(poll.result(READ_TIMEOUT_S) for poll in self._polls)
        self._polls = []
        return seen

    def _leave(self) -> None:
        self._waiting.clear()
        self._threads.shutdown()
        for consumer in self._consumers:
            consumer.close()
        self._consumers.clear()

    def close(self) -> None:
        """Closes all consumers."""
        self._leave()


def _read(consumer: rayqueue.Consumer, records: int) -> int:
    give_up = time.monotonic() + READ_TIMEOUT_S
    consumer.seek_to_beginning()
    seen = total = 0
    while seen < records:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{seen} of {records} records after {READ_TIMEOUT_S:g} s")
        table = consumer.consume_arrow(timeout=1.0)
        seen += table.num_rows
        total += touch(table["value"])
    return total


@dataclass(frozen=True)
class Together:
    """One reading of the topic by so many consumers; cpu_s_gb: of all processes."""

    mb_s: float
    cpu_s_gb: float
    sum: int


@dataclass(frozen=True)
class Waiting:
    """What consumers cost that wait: each adds so much to its process, and to the servers; CPU is that of all."""

    kib: float
    files: float
    server_kib: float
    server_files: float
    cpu_percent: float


def measure(bench: Bench, outcome: Outcome) -> None:
    """Fills a topic of as many partitions as there are consumers, and reads it with more and more of them."""
    system, scale = bench.rayqueue, bench.scale
    most = max(2, scale.partitions // 10)
    counts = steps(most, (1, 3))
    per_partition = max(1, min(BYTES_MAX, scale.bytes_max) // VALUE_BYTES // BATCH_ROWS // most)
    warm_up, repeats = min(1, scale.warm_up), min(ROUNDS_MAX, scale.repeats)
    found: dict[str, dict[int, list[Together]]] = {}
    idle: dict[str, Waiting] = {}
    with system.topic(most) as topic:
        held = _fill(system.client(), topic, most, per_partition)
        for side, mapped in (("mapped", True), ("streamed", False)):
            with ExitStack() as stack:
                kind = {"client": system.client(), "topic": topic, "mapped": mapped}
                starting = (bench.process(Consumers, f"{side}-consumers", **kind) for _ in range(min(PROCESSES, most)))
                loads = [stack.enter_context(load) for load in starting]
                idle[side] = _waiting(bench, loads, counts[-1], held)
                found[side] = {}
                for count in counts:
                    bench.say(f"w10: {count} consumers in {min(count, len(loads))} processes, {side}")
                    _open(loads, count, held)
                    for _ in range(warm_up):
                        _together(bench, loads, count, held)  # streams are opened
                    turns = rounds(repeats, ROUNDS_S)
                    found[side][count] = [_together(bench, loads, count, held) for _ in turns]
    sums = {one.sum for by_count in found.values() for rates in by_count.values() for one in rates}
    if len(sums) != 1:
        raise AssertionError(f"consumers saw different data: sums {sums}")
    _figures(outcome, found, idle, counts[-1])
    outcome.settings["consumers"] = {"processes": PROCESSES, "bytes": sum(held) * VALUE_BYTES, "partitions": most}
    outcome.notes.append(
        f"consumers live in {PROCESSES} processes, each with a thread of its own and its share of {most} partitions; "
        "they are stand-alone, without a group"
    )


def _fill(client: dict[str, Any], topic: str, partitions: int, batches: int) -> list[int]:
    """Writes batches to every partition in turn; how many records each holds then."""
    table = values_table(BATCH_ROWS, VALUE_BYTES)
    with rayqueue.Producer(**client) as producer:
        for future in [producer.produce_batch(topic, table) for _ in range(partitions * batches)]:
            future.result(READ_TIMEOUT_S)
    with rayqueue.AdminClient(**client) as admin:
        return [int(one.records or 0) for one in admin.describe_topic(topic).partitions]


def shares(count: int, partitions: int) -> list[list[int]]:
    """The partitions of each of so many consumers, at most one apart in number."""
    return [list(range(number, partitions, count)) for number in range(count)]


def _groups(loads: list[Load], count: int, held: list[int]) -> list[tuple[Load, list[list[int]]]]:
    """The consumers of each process."""
    of_all = shares(count, len(held))
    return [(load, of_all[number :: len(loads)]) for number, load in enumerate(loads)]


def _open(loads: list[Load], count: int, held: list[int]) -> None:
    for load, group in _groups(loads, count, held):
        load.call("open", shares=group)


def _together(bench: Bench, loads: list[Load], count: int, held: list[int]) -> Together:
    """All consumers read everything there is, each its share."""
    meter = bench.meter(bench.rayqueue, *loads)
    groups = [(load, group) for load, group in _groups(loads, count, held) if group]
    running = [load.begin("run", records=[sum(held[p] for p in one) for one in group]) for load, group in groups]
    results = [one.result(READ_TIMEOUT_S) for one in running]
    used = sum(meter.used().values())
    seconds = max(one["seconds"] for one in results)
    size = sum(held) * VALUE_BYTES
    return Together(size / MB / seconds, used / (size / GB), sum(one["sum"] for one in results) % SUM_BELOW)


def _waiting(bench: Bench, loads: list[Load], count: int, held: list[int]) -> Waiting:
    """Opens the most consumers and lets them wait; what that adds to processes that had a consumer each before."""
    _open(loads, len(loads), held)
    for load in loads:
        load.call("wait_at_end", poll_s=min(POLL_MAX_S, bench.scale.seconds))
    wait(bench.scale.seconds)
    for load in loads:
        load.call("awake")
        load.call("open", shares=[])
    clients = [load.pid for load in loads if load.pid is not None]
    servers = all_pids(bench.rayqueue)
    before = [(accounting.memory(pids).uss, accounting.open_files(pids)) for pids in (clients, servers)]
    _open(loads, count, held)
    for load in loads:
        load.call("wait_at_end", poll_s=min(POLL_MAX_S, bench.scale.seconds))
    wait(bench.scale.seconds)  # until streams are open
    used, began = accounting.cpu_s(clients + servers), time.perf_counter()
    wait(2 * bench.scale.seconds)
    percent = 100 * (accounting.cpu_s(clients + servers) - used) / (time.perf_counter() - began)
    after = [(accounting.memory(pids).uss, accounting.open_files(pids)) for pids in (clients, servers)]
    for load in loads:
        load.call("awake")
    (kib, files), (server_kib, server_files) = (
        ((now[0] - then[0]) / KIB / count, (now[1] - then[1]) / count) for now, then in zip(after, before, strict=True)
    )
    return Waiting(kib, files, server_kib, server_files, percent)


def _figures(
    outcome: Outcome, found: dict[str, dict[int, list[Together]]], idle: dict[str, Waiting], most: int
) -> None:
    for side, by_count in found.items():
        for count, rates in by_count.items():
            what = f"{count} consumer{'s' * (count > 1)}, {side}"
            outcome.add(f"Arrow out together, {what}", "MB/s", [one.mb_s for one in rates])
            samples = [one.cpu_s_gb for one in rates]
            outcome.add(f"CPU of all processes, {what}", "CPU-s/GB", samples, higher_is_better=False)
    for side, waiting in idle.items():
        more: dict[str, Any] = {"higher_is_better": False}
        what = f"{most} waiting consumers, {side}: each"
        outcome.add(f"{what}, memory in its process (USS)", "KiB", [waiting.kib], **more)
        if side == next(iter(idle)):  # later ones find the memory of the first
            outcome.add(f"{what}, memory in the actors (USS)", "KiB", [waiting.server_kib], **more)
        outcome.add(f"{what}, open files in its process", "files", [waiting.files], **more)
        outcome.add(f"{what}, open files in the actors", "files", [waiting.server_files], **more)
        what = f"{most} waiting consumers, {side}: CPU of all processes"
        outcome.add(what, "% of a core", [waiting.cpu_percent], **more)
    sides = {
        f"rayqueue {side}": [[count, median(one.mb_s for one in rates)] for count, rates in by_count.items()]
        for side, by_count in found.items()
    }
    curve = {"title": "Reading a topic together", "x": "consumers", "unit": "MB/s", "sides": sides}
    outcome.settings.setdefault("curves", []).append(curve)
