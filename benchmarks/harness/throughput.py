"""Producers at full speed, of any system: what the workloads of throughput share."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

from benchmarks.harness.bench import GB, MB, Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.harness.sweep import TRIES, Measure, sweep_name
from benchmarks.harness.system import System

ROWS, BATCHES = "rows_in", "batches_in"
DEFAULT = "default"
WAIT_S = 180.0
FILL_S = 60.0
# Of a sweep's tunings, those that are measured at full length beside the default.
CARRIED = 2
BEST = " (best)"
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
    """One of a system's tunings: its label and its arguments."""

    label: str
    arguments: dict[str, Any]


class Side(NamedTuple):
    """What takes its turn in a round: the key of `alternate`.

    Attributes:
        best: whether it is the one of its system that others are held against; see `decide`.
        mark: what the table says of that.
    """

    system: str
    what: str
    tuning: str
    best: bool = False
    mark: str = ""

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.what}, {self.tuning}{self.mark}"


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

    def measure(
        self,
        value_bytes: int,
        seconds: float | None = None,
        rows: int | None = None,
        bytes_max: int | None = None,
        **config: Any,
    ) -> Rate:
        """Produces into a fresh topic; `config` is the topic's, for the rest see `into`."""
        with self._system.topic(len(self._loads), **config) as topic:
            return self.into(topic, value_bytes, seconds, rows, bytes_max=bytes_max)

    def into(
        self,
        topic: str,
        value_bytes: int,
        seconds: float | None = None,
        rows: int | None = None,
        records: int | None = None,
        bytes_max: int | None = None,
    ) -> Rate:
        """Produces into this topic until the time or the records are used up.

        Args:
            seconds: None: the scale's.
            rows: of a batch; None: `BATCH_ROWS`.
            records: of each producer, rounded up to whole batches; None: what the scale allows.
            bytes_max: of batches, where no `records` are given; None: the scale's.
        """
        scale = self._bench.scale
        arguments: dict[str, Any] = {"topic": topic, "value_bytes": value_bytes, "seconds": seconds or scale.seconds}
        if self._role == BATCHES:
            size = bytes_max or scale.bytes_max if records is None else records * value_bytes
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
    """All tunings of the system for producers of this role, the best first, as swept with one producer.

    Args:
        also: other sizes of values that will be asked for: measured by the same processes, which are slow to start.
        config: of the topics; another sweep each.
    """
    seconds = bench.scale.sweep_seconds / TRIES

    def opened(stack: ExitStack, tuning: dict[str, Any]) -> dict[str, Measure]:
        producers = Producers(bench, stack, system, role, tuning)

        def measure(size: int) -> float:
            return producers.measure(size, seconds, **config).records_s

        return {_key(size, config): partial(measure, size) for size in (value_bytes, *also)}

    return _in_order(system, role, bench.sweep(system, role, opened, _key(value_bytes, config)))


def reader_tunings(bench: Bench, system: System, role: str, value_bytes: int, filled: Filled) -> list[Tuning]:
    """The same for readers of this role.

    Args:
        filled: gives a topic to read and the number of records in it; called once, if the sweep is still to be made.
    """
    once = cache(filled)

    def opened(stack: ExitStack, tuning: dict[str, Any]) -> dict[str, Measure]:
        topic, records = once()
        some = max(1, records // 2)
        load = stack.enter_context(bench.load(system, role, topic=topic, **tuning))
        load.call("run", records=some)  # connects
        return {_key(value_bytes, {}): lambda: some / float(load.call("run", records=some)["seconds"])}

    return _in_order(system, role, bench.sweep(system, role, opened, _key(value_bytes, {})))


def _key(value_bytes: int, config: Mapping[str, Any]) -> str:
    return " ".join([f"{value_bytes} B", *(f"{name}={value}" for name, value in config.items())])


def _in_order(system: System, role: str, labels: Sequence[str]) -> list[Tuning]:
    known = system.tunings.get(role) or {DEFAULT: {}}
    return [Tuning(label, dict(known[label])) for label in labels]


def candidates(found: Sequence[Tuning], carried: int = CARRIED) -> list[Tuning]:
    """Of tunings in order, what full rounds decide between: the first ones, and the default."""
    return [one for number, one in enumerate(found) if number < carried or one.label == DEFAULT]


def decide(results: Mapping[Side, list[Rate]], mark: str = BEST) -> dict[Side, list[Rate]]:
    """The results, in which the best side of each system and kind is known by the median of its full rounds.

    Where one is the best beforehand, because there is nothing to choose or another is no match for it, it stays so.
    """
    groups: dict[tuple[str, str], list[Side]] = {}
    for side in results:
        groups.setdefault((side.system, side.what), []).append(side)
    names = {side: side for side in results}
    for group in groups.values():
        if not any(side.best for side in group):
            best = max(group, key=lambda side: statistics.median(rate.records_s for rate in results[side]))
            names[best] = best._replace(best=True, mark=mark if len(group) > 1 else "")
    return {names[side]: rates for side, rates in results.items()}


def settle(bench: Bench, results: Iterable[Side], what: str, role: str, value_bytes: int, **config: Any) -> None:
    """From now on the best of these sides is what `tunings`, or `reader_tunings`, begin with."""
    for side in results:
        system = bench.find(side.system, role)
        if side.what == what and side.best and system is not None and side.tuning in system.tunings.get(role, {}):
            bench.sweeps.settled[sweep_name(system, role, _key(value_bytes, config))] = side.tuning


def fill(
    bench: Bench, stack: ExitStack, system: System, role: str, value_bytes: int, records: int, seconds: float = FILL_S
) -> tuple[str, int]:
    """A topic of one partition with about so many records in it, or as many as go in within so long.

    Returns:
        its name, and how many records.
    """
    topic = stack.enter_context(system.topic())
    best = tunings(bench, system, role, value_bytes)[0]
    with ExitStack() as filling:
        producers = Producers(bench, filling, system, role, best.arguments)
        return topic, int(producers.into(topic, value_bytes, seconds, records=records).records)


def best_of(results: Mapping[Side, list[Rate]], system: str, what: str) -> list[Rate] | None:
    """The rounds of a system's best side of a kind; None when it took no part."""
    of_system = {side: rates for side, rates in results.items() if side.system == system and side.what == what}
    return next((rates for side, rates in of_system.items() if side.best), None)


def mb_s(rates: Sequence[Rate]) -> list[float]:
    """10^6 bytes of values a second in each round."""
    return [rate.mb_s for rate in rates]


def add_rates(outcome: Outcome, side: Side, rates: Sequence[Rate], unit: str) -> None:
    """A figure of a side, in "records/s" or "MB/s"."""
    samples = [rate.records_s for rate in rates] if unit == "records/s" else mb_s(rates)
    outcome.add(side.name, unit, samples, side=side.system)


def add_cpu(outcome: Outcome, side: Side, rates: Sequence[Rate]) -> None:
    """CPU of all processes, of the servers and of the loads."""
    samples = [rate.cpu_s_gb() for rate in rates]
    outcome.add(f"CPU: {side.name}", "CPU-s/GB", samples, higher_is_better=False, side=side.system)
