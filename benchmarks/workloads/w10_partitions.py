"""Partitions: how creation, start and throughput bend from 1 to 10,000 of them.

On a cluster of its own, which keeps a topic of each size, is stopped with all of it, started again, and at last killed.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.bench import MB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.workloads.w10_clusters import (
    REPLICA,
    OwnCluster,
    OwnSystem,
    all_pids,
    elsewhere,
    own_cluster,
    rounds,
    steps,
)
from rayqueue.perf.consume import ArrowOut, ArrowOutStreamed

KIB = 1024
ROUNDS_MAX = 2
ROUNDS_S = 20.0
VALUE_BYTES = 100
BATCH_ROWS = 200
BATCHES_MIN = 2000
PRODUCE_TIMEOUT_S = 120.0
# An active partition has its data file and its index open.
FILES_A_PARTITION = 2
FILES_SPARE = 2000


class SpreadReader:
    """A reader of any topic, in a process of its own."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._client = client

    def run(self, topic: str, records: int, mapped: bool) -> dict[str, float]:
        """Reads all of a topic with a new consumer; see `ArrowOut.run`."""
        reader = (ArrowOut if mapped else ArrowOutStreamed)(self._client, topic)
        try:
            return reader.run(records=records)
        finally:
            reader.close()

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Size:
    """The topic of so many partitions, and what it came to.

    Attributes:
        batches: produced at a time, at least one for each partition. records: it holds.
        created_s, kib, files: as it was created, the latter two for each partition.
        first: MB/s of the first batches, for which files are made. produced, mapped, streamed: MB/s, a sample a round.
        sums: of all that was read, by how much that was.
    """

    partitions: int
    topic: str
    batches: int
    records: int = 0
    created_s: float = 0.0
    kib: float = 0.0
    files: float = 0.0
    first: float = 0.0
    produced: list[float] = field(default_factory=list)
    mapped: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    sums: dict[int, set[float]] = field(default_factory=dict)


@dataclass
class Found:
    """Of the whole cluster: start-up in s by the number of partitions, and the last one after kill -9."""

    sizes: list[Size] = field(default_factory=list)
    started_s: dict[int, float] = field(default_factory=dict)
    stopped_s: dict[int, float] = field(default_factory=dict)
    recovered_s: float | None = None
    written_files: float = 0.0
    written_kib: float = 0.0


def measure(bench: Bench, outcome: Outcome) -> None:
    """A topic of each size on one cluster: created, filled, started again with it, produced to and read in turns."""
    if elsewhere(bench, outcome, "1 to 10,000 partitions"):
        return
    found = Found()
    with own_cluster(bench, "w10-partitions") as (cluster, system):
        sizes = steps(top(bench, outcome, system))
        restarts = {sizes[0], *sizes[-2:]} if cluster.processes else {sizes[-1]}
        with bench.load(system, "batches_in") as producer, _admin(system) as admin:
            for count in sizes:
                bench.say(f"w10: a topic of {partitions(count)}")
                size = Size(count, f"p{count}", max(count, min(BATCHES_MIN, bench.scale.rows_max // BATCH_ROWS)))
                found.sizes.append(size)
                _create_size(admin, system, size)
                size.first = _produce(size, producer)
                if count == sizes[-1]:
                    _written(found, system)
                if count in restarts:
                    system = _restart(cluster, found)
                    check_all_led(admin, found.sizes)
            with bench.process(SpreadReader, "spread-reader", client=system.client()) as reader:
                _read(found.sizes[0], reader, mapped=True)  # its process imports, and connects
                found.sizes[0].mapped.clear()
                for _ in rounds(min(ROUNDS_MAX, bench.scale.repeats), ROUNDS_S):
                    bench.say(f"w10: produce to, and read, {', '.join(f'{count:,}' for count in sizes)} partitions")
                    for size in found.sizes:
                        size.produced.append(_produce(size, producer))
                        _read(size, reader, mapped=True)
                        _read(size, reader, mapped=False)
            if cluster.processes:
                found.recovered_s = _kill_and_wait(cluster, admin, found)
            for size in found.sizes:  # else they would be flushed, one by one, by a clean stop
                admin.delete_topic(size.topic)
    _size_figures(outcome, found)


def top(bench: Bench, outcome: Outcome, system: OwnSystem) -> int:
    """Ten times `Scale.partitions`, or what the limit of open files has room for, which is said."""
    wanted = 10 * bench.scale.partitions
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome.settings["open_files_limit"] = limit
    replicas = len(system.pids.get(REPLICA, [0]))
    # All the smaller topics together have a ninth as many.
    room = max(1, (limit - FILES_SPARE) // FILES_A_PARTITION * replicas * 9 // 10)
    if limit != resource.RLIM_INFINITY and room < wanted:
        outcome.notes.append(
            f"{room:,} partitions instead of {wanted:,}: a process may open {limit:,} files (ulimit -n)"
        )
        return room
    return wanted


def _admin(system: System) -> rayqueue.AdminClient:
    return rayqueue.AdminClient(**system.client())


def _create_size(admin: rayqueue.AdminClient, system: OwnSystem, size: Size) -> None:
    pids = all_pids(system)
    before, files = accounting.memory(pids), accounting.open_files(pids)
    began = time.perf_counter()
    admin.create_topic(size.topic, size.partitions, replication_factor=1)
    size.created_s = time.perf_counter() - began
    size.kib = (accounting.memory(pids).uss - before.uss) / KIB / size.partitions
    size.files = (accounting.open_files(pids) - files) / size.partitions


def _produce(size: Size, producer: Load) -> float:
    """Batches without keys, which go to the partitions in turn; MB/s."""
    arguments = {"rows": BATCH_ROWS, "value_bytes": VALUE_BYTES, "seconds": PRODUCE_TIMEOUT_S}
    result = producer.call("run", topic=size.topic, records_max=size.batches * BATCH_ROWS, **arguments)
    size.records += int(result["records"]) + BATCH_ROWS  # one batch before the time began
    return result["records"] * VALUE_BYTES / MB / result["seconds"]


def _read(size: Size, reader: Load, mapped: bool) -> None:
    result = reader.call("run", topic=size.topic, records=size.records, mapped=mapped)
    samples = size.mapped if mapped else size.streamed
    samples.append(size.records * VALUE_BYTES / MB / result["seconds"])
    sums = size.sums.setdefault(size.records, set())
    sums.add(result["sum"])
    if len(sums) > 1:
        raise AssertionError(f"readers of {size.topic} saw different data: sums {sums}")


def _written(found: Found, system: OwnSystem) -> None:
    """What all processes have open, and hold, right after every partition was written to."""
    pids = all_pids(system)
    total = sum(size.partitions for size in found.sizes)
    found.written_files = accounting.open_files(pids) / total
    found.written_kib = accounting.memory(pids).uss / KIB / total


def _restart(cluster: OwnCluster, found: Found) -> OwnSystem:
    total = sum(size.partitions for size in found.sizes)
    began = time.perf_counter()
    cluster.stop()
    found.stopped_s[total] = time.perf_counter() - began
    began = time.perf_counter()
    system = cluster.start()
    found.started_s[total] = time.perf_counter() - began
    return system


def check_all_led(admin: rayqueue.AdminClient, sizes: list[Size]) -> None:
    """Asks the leader of every partition what it holds: all of what was acked is there."""
    for topic in admin.describe_topics([size.topic for size in sizes]):
        size = next(one for one in sizes if one.topic == topic.name)
        if topic.records != size.records:
            silent = [one for one in topic.partitions if one.error]
            problem = f"; {len(silent)} leaders do not answer: {silent[0].error}" if silent else ""
            raise AssertionError(f"{topic.name}: {topic.records} records, not {size.records}{problem}")


def _kill_and_wait(cluster: OwnCluster, admin: rayqueue.AdminClient, found: Found) -> float:
    """Kills the replica actors' processes; how long until Ray has started them again and every partition is led."""
    killed = cluster.pids()[REPLICA]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    took = cluster.wait_back(REPLICA, killed)
    check_all_led(admin, found.sizes)
    return took


def _size_figures(outcome: Outcome, found: Found) -> None:
    sizes = found.sizes
    for size in sizes:
        outcome.add(_of("created", size), "s", [size.created_s], higher_is_better=False)
    last = sizes[-1]
    outcome.add(_of("memory each, idle", last), "KiB", [last.kib], higher_is_better=False, note="USS of all actors")
    outcome.add(_of("open files each, idle", last), "files", [last.files], higher_is_better=False)
    outcome.add(_of("open files each, just written to", last), "files", [found.written_files], higher_is_better=False)
    for total, seconds in found.started_s.items():
        outcome.add(f"start until all lead, {partitions(total)} with data", "s", [seconds], higher_is_better=False)
    for total, seconds in found.stopped_s.items():
        outcome.add(f"clean stop, {partitions(total)}", "s", [seconds], higher_is_better=False)
    if found.recovered_s is not None:
        total = sum(size.partitions for size in sizes)
        name = f"replica actors killed, until all of {total:,} partitions are led"
        outcome.add(name, "s", [found.recovered_s], higher_is_better=False)
    kilobytes = BATCH_ROWS * VALUE_BYTES // 1000
    outcome.add(_of(f"first batches of {kilobytes} KB in", last), "MB/s", [last.first], note="makes the files")
    kinds = {
        f"batches of {kilobytes} KB in": "produced",
        "Arrow out, mapped": "mapped",
        "Arrow out, streamed": "streamed",
    }
    for kind, attribute in kinds.items():
        for size in sizes:
            outcome.add(_of(kind, size), "MB/s", getattr(size, attribute))
    outcome.settings["sizes"] = [vars(size) | {"sums": None} for size in sizes]
    _curves(outcome, found, kinds)


def _of(what: str, size: Size) -> str:
    return f"{what}, {partitions(size.partitions)}"


def partitions(count: int) -> str:
    """So many of them, in words."""
    return f"{count:,} partition{'s' * (count != 1)}"


def _curves(outcome: Outcome, found: Found, kinds: dict[str, str]) -> None:
    """For the plots."""
    sides = {
        f"rayqueue {attribute}": [[size.partitions, median(getattr(size, attribute))] for size in found.sizes]
        for attribute in kinds.values()
    }
    curves = outcome.settings.setdefault("curves", [])
    curves.append({"title": "Throughput by partitions", "x": "partitions", "unit": "MB/s", "sides": sides})
    created = [[size.partitions, size.created_s] for size in found.sizes]
    started = [[total, seconds] for total, seconds in found.started_s.items()]
    times = {"rayqueue created": created, "rayqueue started": started}
    curves.append({"title": "Creation and start by partitions", "x": "partitions", "unit": "s", "sides": times})
