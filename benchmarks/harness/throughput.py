"""Producers at full speed, of any system: what the workloads of throughput share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from benchmarks.harness.bench import GB, MB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.system import System

ROWS, BATCHES = "rows_in", "batches_in"
DEFAULT = "default"
WAIT_S = 180.0
FILL_S = 60.0
# Runs of each tuning in a sweep, of which the best counts: a stall of the machine must not choose.
TRIES = 2
# Systems that everything is measured of; the others are slower by an order, and shown where it matters.
COMPARED = ("rayqueue", "kafka")
# Rows of a batch, by the size of its values: 250 KB each. The steelman's, and rayqueue's where they are compared.
BATCH_ROWS = {100: 2_500, 1000: 250}


Filled: TypeAlias = Callable[[], tuple[str, int]]


@dataclass(frozen=True)
class Rate:
    """What one measurement came to.

    Attributes:
        records, seconds: of all loads together.
        value_bytes: of one record.
        cpu_s: CPU seconds by group: the servers', and "clients".
    """

    records: float
    seconds: float
    value_bytes: int
    cpu_s: dict[str, float]

    @property
    def records_s(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    @property
    def mb_s(self) -> float:
        """10^6 bytes of values a second."""
        return self.records_s * self.value_bytes / MB

    def cpu_s_gb(self, *groups: str) -> float:
        """CPU seconds for 10^9 bytes of values, of these groups; without any, of all."""
        used = sum(self.cpu_s[group] for group in groups or self.cpu_s)
        return used / (self.records * self.value_bytes / GB)


class Tuning(NamedTuple):
    """One of a system's tunings: its label, its arguments, and whether it is the best that was found."""

    label: str
    arguments: dict[str, Any]
    best: bool

    def __str__(self) -> str:
        """As the table has it."""
        return f"{self.label} (best)" if self.best and self.label != DEFAULT else self.label


class Side(NamedTuple):
    """What takes its turn in a round: the key of `alternate`."""

    system: str
    what: str
    tuning: str
    best: bool


class Producers:
    """Some producer processes of one system, all in one role and with one tuning.

    Args:
        stack: ends them.
        count: how many; by default they write into a topic of as many partitions.
    """

    def __init__(
        self, bench: Bench, stack: ExitStack, system: System, role: str, tuning: dict[str, Any], count: int = 1
    ) -> None:
        self._bench = bench
        self._system = system
        self._role = role
        self._loads = [stack.enter_context(bench.load(system, role, **tuning)) for _ in range(count)]

    @property
    def pids(self) -> list[int]:
        """Their process ids, where they have processes of their own."""
        return [load.pid for load in self._loads if load.pid is not None]

    def measure(self, value_bytes: int, seconds: float | None = None, rows: int | None = None, **config: Any) -> Rate:
        """Produces into a fresh topic; `config` is the topic's, for the rest see `into`."""
        with self._system.topic(len(self._loads), **config) as topic:
            return self.into(topic, value_bytes, seconds, rows)

    def into(
        self,
        topic: str,
        value_bytes: int,
        seconds: float | None = None,
        rows: int | None = None,
        records: int | None = None,
    ) -> Rate:
        """Produces into this topic until the time or the records are used up.

        Args:
            seconds: None: the scale's.
            rows: of a batch; None: `BATCH_ROWS`.
            records: of each producer, rounded up to whole batches; None: what the scale allows.
        """
        scale = self._bench.scale
        arguments: dict[str, Any] = {"topic": topic, "value_bytes": value_bytes, "seconds": seconds or scale.seconds}
        if self._role == BATCHES:
            size = scale.bytes_max if records is None else records * value_bytes
            arguments |= {"rows": rows or BATCH_ROWS[value_bytes], "bytes_max": size}
        else:
            arguments["records_max"] = scale.rows_max if records is None else records
        meter = self._bench.meter(self._system, *self._loads)
        running = [load.begin("run", **arguments) for load in self._loads]
        results = [one.result(WAIT_S) for one in running]
        used = meter.used()
        check(self._system, self._role, self._loads)
        produced, took = sum(one["records"] for one in results), max(one["seconds"] for one in results)
        return Rate(produced, took, value_bytes, used)


def check(system: System, role: str, producers: Sequence[Load]) -> None:
    """Has producers verify what they wrote, where that is left to do; when time and CPU have been taken."""
    if hasattr(system.roles[role], "check"):
        for load in producers:
            load.call("check")


def tunings(
    bench: Bench, system: System, role: str, value_bytes: int, also: Sequence[int] = (), **config: Any
) -> list[Tuning]:
    """The system's default and its best for producers of this role, swept with one producer; one if they are the same.

    Args:
        also: other sizes of values that will be asked for: measured by the same processes, which are slow to start.
        config: of the topics; another sweep each.
    """

    sizes = (value_bytes, *also)

    def measure(tuning: dict[str, Any]) -> float:
        wanted = [json.dumps([system.name, role, tuning, config, size]) for size in sizes]
        if wanted[0] not in bench.sweeps.on_the_way:
            with ExitStack() as stack:
                producers = Producers(bench, stack, system, role, tuning)
                seconds = bench.scale.sweep_seconds / TRIES
                for name, size in zip(wanted, sizes, strict=True):
                    rates = [producers.measure(size, seconds, **config) for _ in range(TRIES)]
                    bench.sweeps.on_the_way[name] = max(rate.records_s for rate in rates)
        return bench.sweeps.on_the_way[wanted[0]]

    key = " ".join([f"{value_bytes} B", *(f"{name}={value}" for name, value in config.items())])
    return _default_and_best(system, role, *bench.sweep(system, role, measure, key=key))


def reader_tunings(bench: Bench, system: System, role: str, value_bytes: int, filled: Filled) -> list[Tuning]:
    """The same for readers of this role.

    Args:
        filled: gives a topic to read and the number of records in it; called once, if the sweep is still to be made.
    """
    once = cache(filled)

    def measure(tuning: dict[str, Any]) -> float:
        topic, records = once()
        some = max(1, records // 2)
        with bench.load(system, role, topic=topic, **tuning) as load:
            # The first connects.
            seconds = [float(load.call("run", records=some)["seconds"]) for _ in range(1 + TRIES)]
        return some / min(seconds[1:])

    return _default_and_best(system, role, *bench.sweep(system, role, measure, key=f"{value_bytes} B"))


def _default_and_best(system: System, role: str, label: str, arguments: dict[str, Any]) -> list[Tuning]:
    best = Tuning(label, arguments, True)
    default = system.tunings.get(role, {}).get(DEFAULT, {})
    return [best] if label == DEFAULT else [Tuning(DEFAULT, dict(default), False), best]


def fill(
    bench: Bench, stack: ExitStack, system: System, role: str, value_bytes: int, records: int, seconds: float = FILL_S
) -> tuple[str, int]:
    """A topic of one partition with about so many records in it, or as many as go in within so long.

    Returns:
        its name, and how many records.
    """
    topic = stack.enter_context(system.topic())
    best = tunings(bench, system, role, value_bytes)[-1]
    with ExitStack() as filling:
        producers = Producers(bench, filling, system, role, best.arguments)
        return topic, int(producers.into(topic, value_bytes, seconds, records=records).records)


def best_of(results: Mapping[Side, list[Rate]], system: str, what: str) -> list[Rate] | None:
    """The rounds of a system with its best tuning; None when it took no part."""
    of_system = {side: rates for side, rates in results.items() if side.system == system and side.what == what}
    return next((rates for side, rates in of_system.items() if side.best), None)


def mb_s(rates: Sequence[Rate]) -> list[float]:
    """10^6 bytes of values a second in each round."""
    return [rate.mb_s for rate in rates]


def add_rates(outcome: Outcome, side: Side, rates: Sequence[Rate], unit: str) -> None:
    """A figure of a side, in "records/s" or "MB/s"."""
    samples = [rate.records_s for rate in rates] if unit == "records/s" else mb_s(rates)
    outcome.add(f"{side.what}, {side.tuning}", unit, samples, side=side.system)


def add_cpu(outcome: Outcome, side: Side, rates: Sequence[Rate]) -> None:
    """CPU of all processes, of the servers and of the loads."""
    samples = [rate.cpu_s_gb() for rate in rates]
    name = f"CPU: {side.what}, {side.tuning}"
    outcome.add(name, "CPU-s/GB", samples, higher_is_better=False, side=side.system)
