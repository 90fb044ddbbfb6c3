"""Latency end to end, open loop: from the moment a record should have been sent to the moment `poll()` returned it.

Sender and receiver are processes of their own. Each record carries the moment at which it should have been sent, so
that a sender or a log that falls behind makes the figure worse, not better (no coordinated omission). The linger is
swept at each rate on each side; what may be the best for p50 or for p99 runs in alternating rounds, and the best of
both sides by these rounds are compared, for each percentile its own; the defaults, and rayqueue over the stream, are
shown beside them. All processes stay open from the first round to the last, and a round of warming, and the sweep, come
before anything that counts: Kafka's JVM needs it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from benchmarks.goals import GOALS, Goal
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.latency import pooled_ms
from benchmarks.harness.loads import Load, LoadFailed
from benchmarks.harness.system import System

TITLE = "latency end to end, open loop, 100 B"
ROLES = ("sender", "receiver")
VALUE_BYTES = 100
COMPARED = ("rayqueue", "kafka")
DEFAULT = "default"
STREAMED = "rayqueue streamed"
BEST = " (best)"

KEYS = ("p50", "p99")
# Of one measured round, in units of `Scale.seconds`: where a goal hangs on it, and elsewhere; its first part fills the
# path and is not counted.
ROUND, SHORT_ROUND = 2.5, 1.5
SKIPPED = 0.2
WARMING = 3.0
WARMING_RATE = 10_000
COUNT_MIN = 10
SWEEP_ROUNDS = 3
# A round of a sweep, in units of `Scale.sweep_seconds`, and how many of it are measured at full length for each
# percentile, both where a goal hangs on it.
SWEEP = 2
CARRIED = 2
SHOWN_ROUNDS = 2
# From the call to the first record, so that both processes are ready for it.
LEAD_NS = 50_000_000
RESULT_TIMEOUT_S = 90.0
# A round of rayqueue's without a result counts as if every record of it had taken so long; one of a peer's is void.
LOST_MS = 30_000.0
BEHIND_MS = 10.0

Round: TypeAlias = dict[str, Any]
Rounds: TypeAlias = dict[str, list[Round]]


@dataclass(frozen=True)
class Rate:
    """A rate of sending.

    Attributes:
        per_s: records a second.
        goals: of the ratios to Kafka's, by percentile; without any it is shown, in fewer and shorter rounds.
    """

    per_s: int
    goals: dict[str, Goal] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.per_s:,}/s"

    def repeats(self, repeats: int) -> int:
        """Measured rounds."""
        return repeats if self.goals else math.ceil(repeats / 2)


RATES = (
    Rate(100),
    Rate(1_000, {key: GOALS[f"{key}_1000"] for key in KEYS}),
    Rate(10_000, {key: GOALS[f"{key}_10000"] for key in KEYS}),
    Rate(50_000),
)
OTHERS_RATE = 1_000  # at which peers other than Kafka are shown


@dataclass
class Lane:
    """A system's topic with a receiver, and a sender for each tuning that is asked for, open until the stack closes."""

    bench: Bench
    system: System
    stack: contextlib.ExitStack
    receiver_tuning: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._topic = self.stack.enter_context(self.system.topic())
        self._receiver = self._load("receiver", self.receiver_tuning)
        self._senders: dict[str, Load] = {}

    def _load(self, role: str, tuning: dict[str, Any]) -> Load:
        return self.stack.enter_context(self.bench.load(self.system, role, topic=self._topic, **tuning))

    @property
    def tunings(self) -> dict[str, dict[str, Any]]:
        """Of the sender, by label; the default is among them."""
        return {DEFAULT: {}, **self.system.tunings.get("sender", {})}

    def open(self, label: str) -> Load:
        """The sender with this tuning."""
        if label not in self._senders:
            self._senders[label] = self._load("sender", self.tunings[label])
        return self._senders[label]

    def round(self, label: str, per_s: int, seconds: float) -> Round:
        """Sends and receives for so long.

        Returns:
            What `latency.summary` says of the records after the first part, `late_ms` of the sender, and `lost`:
            "", or why there is no result.
        """
        sender = self.open(label)
        count = max(COUNT_MIN, int(per_s * seconds))
        skip_ns = int(SKIPPED * count / per_s * 1e9)
        begin_ns = time.monotonic_ns() + LEAD_NS
        receiving = self._receiver.begin("run", begin_ns=begin_ns, count=count, skip_ns=skip_ns)
        sending = sender.begin("run", begin_ns=begin_ns, count=count, rate=per_s, value_bytes=VALUE_BYTES)
        # Both are waited for whatever becomes of the other: a load does one thing at a time.
        late, sender_trouble = _outcome(sending)
        found, receiver_trouble = _outcome(receiving)
        lost = sender_trouble or receiver_trouble
        if lost:
            found = dict.fromkeys(("p50", "p90", "p99", "p999", "max"), LOST_MS)
        return {**found, **(late or {"late_ms": LOST_MS}), "lost": lost}


def _outcome(future: concurrent.futures.Future[Any]) -> tuple[Any, str]:
    """A load's result, or why there is none: it gave up waiting. Any other failure is raised, silence too."""
    try:
        return future.result(RESULT_TIMEOUT_S), ""
    except (LoadFailed, TimeoutError, concurrent.futures.TimeoutError) as error:
        last = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
        if "Timeout" not in last or not future.done():
            raise
        return None, last


def run(bench: Bench) -> Outcome:
    """Measures all rates."""
    outcome = Outcome("w4", settings={"value_bytes": VALUE_BYTES, "acks": "all", "partitions": 1})
    measure(bench, outcome, RATES)
    return outcome


def measure(bench: Bench, outcome: Outcome, rates: Sequence[Rate]) -> None:
    """Measures these rates."""
    outcome.settings |= {"best": {}, "sweeps": {}, "rounds": {}, "also_measured": {}}
    with contextlib.ExitStack() as stack:
        compared = [system for name in COMPARED if (system := bench.find(name, *ROLES))]
        lanes = {system.name: Lane(bench, system, stack) for system in compared}
        lanes[STREAMED] = Lane(bench, bench.rayqueue, stack, {"mapped_reads": False})
        for name, lane in lanes.items():
            bench.say(f"{outcome.workload}: warming {name} with {WARMING_RATE:,} records/s")
            lane.round(DEFAULT, WARMING_RATE, WARMING * bench.scale.seconds)
        for rate in rates:
            found = _measure(bench, outcome, lanes, rate)
            if rate.per_s == OTHERS_RATE:
                found.shown |= _others(bench, rate)
            _figures(outcome, rate, found)
    outcome.notes.append(
        "from the moment a record should have been sent to the moment poll() returned it; rayqueue's receiver reads "
        "mapped unless it says streamed; each side at its best linger, which may be one for p50 and another for p99; "
        "a p99 is that of all its rounds together"
    )
    if "kafka" not in lanes:
        outcome.notes.append("no ratios: Kafka was not started")
    outcome.notes += _troubles(outcome.settings["rounds"])


@dataclass
class Found:
    """The rounds of a rate.

    Attributes:
        tried: system → label of the sender's tuning → rounds: those that the best are chosen from.
        shown: what is shown beside them: side → (system, label, rounds).
    """

    tried: dict[str, dict[str, list[Round]]]
    shown: dict[str, tuple[str, str, list[Round]]] = field(default_factory=dict)

    def best(self, name: str, key: str) -> str:
        """The label with which the system's percentile is the lowest."""
        tried = self.tried[name]
        return min(tried, key=lambda label: percentile(tried[label], key))


def percentile(rounds: list[Round], key: str) -> float:
    """Of a side in ms: the median of its rounds' p50; of p99, which few records of a round tell, that of all together.

    A round without an end counts as `LOST_MS`, and all of them together then, too.
    """
    if key == "p50" or any(one["lost"] for one in rounds):
        return statistics.median(one[key] for one in rounds) if key == "p50" else max(one[key] for one in rounds)
    return pooled_ms([one["histogram"] for one in rounds], float(key[1:]))


def _measure(bench: Bench, outcome: Outcome, lanes: dict[str, Lane], rate: Rate) -> Found:
    """The rounds of a rate: all that may be the best of rayqueue and Kafka in turn; then what is shown beside them."""
    scale = bench.scale
    compared = [name for name in COMPARED if name in lanes]
    bench.say(f"latency: {rate.name}, sweeping the linger")
    tried = [(name, label) for name in compared for label in _sweep(bench, outcome, lanes[name], rate)]
    seconds = scale.seconds * (ROUND if rate.goals else SHORT_ROUND)

    def calls(these: list[tuple[str, str]]) -> dict[tuple[str, str], Callable[[], Round]]:
        # Processes start before the rounds, not between them.
        for lane, label in these:
            lanes[lane].open(label)
        return {(lane, label): partial(lanes[lane].round, label, rate.per_s, seconds) for lane, label in these}

    bench.say(f"latency: {rate.name}, " + ", ".join(f"{name} {label}" for name, label in tried))
    # The sweep has warmed everything at this very rate.
    rounds = bench.alternate(calls(tried), rate.repeats(scale.repeats), 0)
    found = Found({name: {label: rounds[name, label] for of, label in tried if of == name} for name in compared})
    best = {name: {key: found.best(name, key) for key in KEYS} for name in compared}
    outcome.settings["best"][rate.name] = best
    shown = {f"{name} default": (name, DEFAULT) for name in compared if DEFAULT not in found.tried[name]}
    shown[STREAMED] = (STREAMED, best["rayqueue"]["p50"])
    more = bench.alternate(calls(list(shown.values())), min(SHOWN_ROUNDS, rate.repeats(scale.repeats)), 0)
    found.shown = {side: (*key, more[key]) for side, key in shown.items()}
    return found


def _others(bench: Bench, rate: Rate) -> dict[str, tuple[str, str, list[Round]]]:
    """Rounds of the other peers with their defaults, one after the other."""
    shown = {}
    for system in bench.having(*ROLES):
        if system.name not in COMPARED:
            bench.say(f"latency: {rate.name}, {system.name}")
            with contextlib.ExitStack() as stack:
                lane = Lane(bench, system, stack)
                lane.round(DEFAULT, RATES[0].per_s, bench.scale.seconds)
                turn = partial(lane.round, DEFAULT, rate.per_s, SHORT_ROUND * bench.scale.seconds)
                rounds = [turn() for _ in range(min(SHOWN_ROUNDS, bench.scale.repeats))]
            shown[system.name] = (system.name, DEFAULT, rounds)
    return shown


def _sweep(bench: Bench, outcome: Outcome, lane: Lane, rate: Rate) -> list[str]:
    """The labels of the tunings that may be the best at this rate: of short rounds in turn, the best of each counts.

    A disturbance makes a p99 many times as high: the least of some rounds is what the tuning can do.
    """
    if len(lane.tunings) == 1:
        return [DEFAULT]
    for label in lane.tunings:
        lane.open(label)
    seconds = bench.scale.sweep_seconds * (SWEEP if rate.goals else 1)
    calls = {label: partial(lane.round, label, rate.per_s, seconds) for label in lane.tunings}
    rounds = bench.alternate(calls, min(SWEEP_ROUNDS, bench.scale.repeats), 0)
    found = {key: {label: min(one[key] for one in of) for label, of in rounds.items()} for key in KEYS}
    for key, least in found.items():
        outcome.settings["sweeps"][f"{lane.system.name} {rate.name} {key}"] = least
    carried = CARRIED if rate.goals else 1
    best = [label for least in found.values() for label in sorted(least, key=lambda label: least[label])[:carried]]
    return list(dict.fromkeys(best))


def _figures(outcome: Outcome, rate: Rate, found: Found) -> None:
    best = outcome.settings["best"][rate.name]
    rounds: Rounds = {}
    for key in KEYS:
        if "kafka" in best:
            name = f"{rate.name} {key}, each at its best linger: to Kafka"
            sides = [found.tried[name][best[name][key]] for name in COMPARED]
            _ratio(outcome, name, key, *sides, goal=rate.goals.get(key))
        for name in best:
            label = best[name][key]
            _add(outcome, rate, key, name, f", {label}{BEST}", found.tried[name][label])
            side = name if label == best[name]["p50"] else f"{name} best p99"
            rounds[side] = found.tried[name][label]
    for side, (name, label, of) in found.shown.items():
        streamed = name == STREAMED
        for key in KEYS:
            how = f"{', streamed' * streamed}, {label}"
            _add(outcome, rate, key, "rayqueue" if streamed else name, how, of)
        rounds[side] = of
    # A default among what was tried is shown, too, where it is not the best.
    for name, tried in found.tried.items():
        if DEFAULT in tried and not any(tried[DEFAULT] is of for of in rounds.values()):
            rounds[f"{name} default"] = tried[DEFAULT]
            for key in KEYS:
                _add(outcome, rate, key, name, f", {DEFAULT}", tried[DEFAULT])
    outcome.settings["rounds"][rate.name] = rounds
    outcome.settings["also_measured"][rate.name] = {
        f"{name} {label}": of
        for name, tried in found.tried.items()
        for label, of in tried.items()
        if not any(of is shown for shown in rounds.values())
    }


def _ratio(outcome: Outcome, name: str, key: str, ours: list[Round], theirs: list[Round], goal: Goal | None) -> None:
    """Without the rounds that Kafka lost: nothing is won by them. Ours count, see `LOST_MS`."""
    kept = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if not other["lost"]]
    if not kept:
        return
    mine, others = [one for one, _ in kept], [other for _, other in kept]
    pooled = None if key == "p50" else percentile(mine, key) / percentile(others, key)
    note = f"{len(theirs) - len(kept)} rounds void" if len(kept) < len(theirs) else ""
    samples = ([one[key] for one in mine], [other[key] for other in others])
    outcome.ratio(name, *samples, goal, higher_is_better=False, note=note, pooled=pooled)


def _add(outcome: Outcome, rate: Rate, key: str, side: str, how: str, rounds: list[Round]) -> None:
    """A percentile of a side; of a peer, of the rounds that came to an end."""
    kept = rounds if side == "rayqueue" else [one for one in rounds if not one["lost"]]
    if not kept:
        return
    late = max(one["late_ms"] for one in kept)
    outcome.add(
        f"{rate.name} {key}{how}",
        "ms",
        [one[key] for one in kept],
        higher_is_better=False,
        side=side,
        note=f"sender late by at most {late:.1f} ms" if key == "p99" else "",
        pooled=None if key == "p50" else percentile(kept, key),
    )


def _troubles(rounds: dict[str, Rounds]) -> list[str]:
    """Lines about rounds that are not what they should be. Only rounds that a peer lost do not count."""
    lost, behind = [], []
    for rate, sides in rounds.items():
        for side, found in sides.items():
            why = [one["lost"] for one in found if one["lost"]]
            late = [one["late_ms"] for one in found if not one["lost"] and one["late_ms"] > BEHIND_MS]
            if why:
                count = "" if side.startswith("rayqueue") else ", void"
                lost.append(f"{side} at {rate} in {len(why)} of {len(found)}{count} ({why[0]})")
            if late:
                behind.append(f"{side} at {rate} in {len(late)} of {len(found)} rounds by at most {max(late):.0f} ms")
    lines = []
    if lost:
        lines.append(f"rounds that came to no end, of which rayqueue's count as {LOST_MS:,.0f} ms: {'; '.join(lost)}")
    if behind:
        lines.append(
            f"senders that fell behind by more than {BEHIND_MS:.0f} ms, which is in the latencies: {'; '.join(behind)}"
        )
    return lines
