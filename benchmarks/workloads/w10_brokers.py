"""Brokers: 1, 2, 3 of them on this one machine, each with a producer and a reader of its own, and the model of more.

Weak scaling: n brokers get n times the load. They share the machine's cores with each other and with the clients, so
what all of them do together is bound by the cores as soon as one pair nearly fills them. That is what the model
(w10_model, docs/scale.md) says, from costs measured with one broker; how near it comes for more is shown beside it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import rayqueue
from benchmarks.harness.accounting import CpuMeter
from benchmarks.harness.bench import GB, MB, Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System
from benchmarks.workloads import w10_model
from benchmarks.workloads.w10_clusters import COORDINATOR, elsewhere, has_processes, own_cluster, rounds
from benchmarks.workloads.w10_model import Cost, Costs
from benchmarks.workloads.w10_partitions import SpreadReader

BROKERS = (1, 2, 3)
VALUE_BYTES = 100
BATCH_ROWS = 2500
# Each producer writes so much at a time, and a reader reads it.
BYTES_MAX = 96 << 20
ROUNDS_MAX = 3
ROUNDS_S = 30.0
WAIT_S = 120.0
PRODUCE, READ, BOTH = "produce", "read", "produce and read"
LOADS = {
    PRODUCE: w10_model.Load(produced=1),
    READ: w10_model.Load(produced=0, read=1),
    BOTH: w10_model.Load(produced=1, tailed=1),
}
CORES = "cores"
SPIN_S = 0.5
# Spins for some seconds; what it was given of a core, in CPU seconds.
SPIN = """
import time
used, end = time.process_time(), time.monotonic() + {seconds}
while time.monotonic() < end:
    pass
print(time.process_time() - used)
"""


@dataclass(frozen=True)
class Run:
    """One load on all brokers of a cluster at once.

    Attributes:
        gb: values produced, or read where nothing is produced. seconds: of the slowest client.
        cpu_s: CPU seconds of "actors", "coordinator" (one of them), "produce" and "read" (the clients).
    """

    gb: float
    seconds: float
    cpu_s: dict[str, float]

    @property
    def mb_s(self) -> float:
        """10^6 bytes a second."""
        return self.gb * GB / MB / self.seconds

    @property
    def cores(self) -> float:
        """Cores that actors and clients used together."""
        return sum(seconds for group, seconds in self.cpu_s.items() if group != COORDINATOR) / self.seconds

    def cpu_s_gb(self, group: str) -> float:
        """CPU seconds of a group for 10^9 bytes."""
        return self.cpu_s[group] / self.gb

    def clients_s_gb(self) -> float:
        """The same of the clients."""
        return self.cpu_s_gb(PRODUCE) + self.cpu_s_gb(READ)


class Pairs:
    """A cluster, and for each of its brokers a producer and a reader with a topic of their own.

    Args:
        stack: ends the cluster and the clients.
        records: of a topic.

    Attributes:
        disk_bytes: of the logs, for a byte of values.
    """

    def __init__(self, bench: Bench, stack: ExitStack, brokers: int, records: int) -> None:
        self._bench = bench
        self._brokers = brokers
        self._records = records
        self._system: System = bench.rayqueue
        if has_processes(bench):
            config = {"num.replica.actors": 1}
            _, self._system = stack.enter_context(own_cluster(bench, f"w10-brokers-{brokers}", brokers, config))
        self._producers = [stack.enter_context(bench.load(self._system, "batches_in")) for _ in range(brokers)]
        reading = (bench.process(SpreadReader, "reader", client=self._system.client()) for _ in range(brokers))
        self._readers = [stack.enter_context(reader) for reader in reading]
        self.disk_bytes = 0.0

    def run(self) -> dict[str, Run]:
        """Produces; reads what was produced; does both at once, in other topics."""
        with ExitStack() as stack:
            topics = self._topics(stack)
            produced = self._measure(topics, self._producers, [])
            self.disk_bytes = self._size_on_disk(topics[0]) / (self._records + BATCH_ROWS) / VALUE_BYTES
            read = self._measure(topics, [], self._readers)
        with ExitStack() as stack:
            both = self._measure(self._topics(stack), self._producers, self._readers)
        return {PRODUCE: produced, READ: read, BOTH: both}

    def _topics(self, stack: ExitStack) -> list[str]:
        """Of each a partition on every broker, so that every client has to do with all of them."""
        return [stack.enter_context(self._system.topic(self._brokers)) for _ in range(self._brokers)]

    def _size_on_disk(self, topic: str) -> int:
        with rayqueue.AdminClient(**self._system.client()) as admin:
            return int(admin.describe_topic(topic).size or 0)

    def _measure(self, topics: list[str], producers: list[Load], readers: list[Load]) -> Run:
        arguments = {"rows": BATCH_ROWS, "value_bytes": VALUE_BYTES, "seconds": WAIT_S, "records_max": self._records}
        servers = self._system.processes()
        meter = CpuMeter({**servers, PRODUCE: _pids(producers), READ: _pids(readers)})
        reading = {"records": self._records, "mapped": False}
        running = [one.begin("run", topic=topic, **reading) for one, topic in zip(readers, topics, strict=False)]
        running += [one.begin("run", topic=topic, **arguments) for one, topic in zip(producers, topics, strict=False)]
        results = [one.result(WAIT_S) for one in running]
        used = meter.used()
        actors = sum(used[group] for group in servers if group != "ray")
        cpu = {"actors": actors, COORDINATOR: used.get(COORDINATOR, 0.0), PRODUCE: used[PRODUCE], READ: used[READ]}
        gb = len(topics) * self._records * VALUE_BYTES / GB
        return Run(gb, max(one["seconds"] for one in results), cpu)


def _pids(loads: list[Load]) -> list[int]:
    return [load.pid for load in loads if load.pid is not None]


Rounds: TypeAlias = dict[int, list[dict[str, Run]]]


def measure(bench: Bench, outcome: Outcome) -> None:
    """Runs 1, 2, 3 brokers in turns, and holds the model against them."""
    if elsewhere(bench, outcome, "1 to 3 brokers"):
        return
    real = has_processes(bench)
    counts = BROKERS if real else (1,)
    records = max(1, min(BYTES_MAX, bench.scale.bytes_max) // VALUE_BYTES // BATCH_ROWS) * BATCH_ROWS
    with ExitStack() as stack:
        bench.say(f"w10: clusters of {', '.join(map(str, counts))} brokers")
        pairs = {count: Pairs(bench, stack, count, records) for count in counts}
        sides: dict[str, Callable[[], Any]] = {str(count): pair.run for count, pair in pairs.items()}
        if real:
            sides[CORES] = cores
        if bench.scale.warm_up:
            alternate(sides, 0, 1)
        found: dict[str, list[Any]] = {side: [] for side in sides}
        for _ in rounds(min(ROUNDS_MAX, bench.scale.repeats), ROUNDS_S):
            for side, samples in alternate(sides, 1, 0).items():
                found[side] += samples
        disk_bytes = pairs[1].disk_bytes
    by_count: Rounds = {count: found[str(count)] for count in counts}
    _figures(outcome, by_count)
    if real:
        model(outcome, by_count, costs_of(by_count[1], disk_bytes), statistics.median(found[CORES]))
    else:
        outcome.notes.append("no model of more brokers: this cluster runs inside the benchmark's process")


def _median(runs: list[dict[str, Run]], load: str, of: Callable[[Run], float]) -> float:
    return statistics.median(of(run[load]) for run in runs)


def costs_of(runs: list[dict[str, Run]], disk_bytes: float) -> Costs:
    """What one broker, one producer and one reader cost, by the median of the rounds."""

    def cost(load: str) -> Cost:
        return Cost(_median(runs, load, lambda run: run.cpu_s_gb("actors")), _median(runs, load, Run.clients_s_gb))

    produce, both = cost(PRODUCE), cost(BOTH)
    return Costs(
        produce=produce,
        tail=Cost(max(0.0, both.broker - produce.broker), max(0.0, both.client - produce.client)),
        read=cost(READ),
        stream_in=_median(runs, PRODUCE, lambda run: run.mb_s) * MB / GB,
        stream_tail=_median(runs, BOTH, lambda run: run.mb_s) * MB / GB,
        stream_out=_median(runs, READ, lambda run: run.mb_s) * MB / GB,
        disk_bytes=disk_bytes,
    )


def cores() -> float:
    """Cores that processes which compute all the time are given together, when there is one for each core."""
    command = [sys.executable, "-c", SPIN.format(seconds=SPIN_S)]
    spinning = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(os.cpu_count() or 1)]
    return sum(float(process.communicate()[0]) for process in spinning) / SPIN_S


def _figures(outcome: Outcome, by_count: Rounds) -> None:
    for load in LOADS:
        for count, runs in by_count.items():
            outcome.add(f"{load}, {_brokers(count)}", "MB/s", [run[load].mb_s for run in runs])
    for load in LOADS:
        for count, runs in by_count.items():
            samples = [run[load].cpu_s_gb("actors") for run in runs]
            outcome.add(f"CPU of the actors: {load}, {_brokers(count)}", "CPU-s/GB", samples, higher_is_better=False)
    for load in LOADS:
        for count, runs in by_count.items():
            samples = [run[load].cores for run in runs]
            outcome.add(f"cores in use: {load}, {_brokers(count)}", "cores", samples)
    most = max(by_count)
    samples = [run[BOTH].cpu_s_gb(COORDINATOR) for run in by_count[most]]
    name = f"of it the coordinator's: {BOTH}, {_brokers(most)}"
    outcome.add(name, "CPU-s/GB", samples, higher_is_better=False)


def _brokers(count: int) -> str:
    return f"{count} broker{'s' * (count > 1)}"


def model(outcome: Outcome, by_count: Rounds, costs: Costs, there: float) -> None:
    """Predicted beside measured on this machine, and what the model says of more machines."""
    checked: list[dict[str, Any]] = []
    for load, kind in LOADS.items():
        for count, runs in by_count.items():
            predicted = w10_model.one_machine(count, costs, there, replace(kind, streams=count))
            measured = _median(runs, load, lambda run: run.mb_s)
            mb_s = predicted.gb_s * GB / MB
            checked.append(
                {
                    "load": load,
                    "brokers": count,
                    "predicted_mb_s": mb_s,
                    "bound": predicted.bound,
                    "measured_mb_s": measured,
                }
            )
            name = f"measured / predicted: {load}, {_brokers(count)}"
            note = f"{mb_s:,.0f} MB/s: {predicted.bound}"
            outcome.add(name, "ratio", [run[load].mb_s / mb_s for run in runs], note=note)
    for load, kind in w10_model.LOADS.items():
        for count in (3, 10, 100):
            predicted = w10_model.cluster(count, costs, w10_model.NODE, kind)
            name = f"model, not measured: {load}, {count} machines"
            outcome.add(name, "GB/s", [predicted.gb_s], note=predicted.bound, side="model")
    outcome.settings["model"] = {
        "costs": asdict(costs), "cores": there, "node": asdict(w10_model.NODE), "checked": checked,
    }  # fmt: skip
    for load in LOADS:
        measured = [[one["brokers"], one["measured_mb_s"]] for one in checked if one["load"] == load]
        predicted_by = [[one["brokers"], one["predicted_mb_s"]] for one in checked if one["load"] == load]
        curve = {"title": f"Brokers on one machine: {load}", "x": "brokers", "unit": "MB/s"}
        sides = {"rayqueue": measured, "model": predicted_by}
        outcome.settings.setdefault("curves", []).append({**curve, "sides": sides})
