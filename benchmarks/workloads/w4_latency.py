"""Latency end to end, open loop: from the moment a record should have been sent to the moment `poll()` returned it.

Sender and receiver are processes of their own. Each record carries the moment at which it should have been sent, so
that a sender or a log that falls behind makes the figure worse, not better (no coordinated omission). The linger is
swept at each rate on each side, and the best of both sides are compared, in alternating rounds; the defaults, and
rayqueue over the stream, are shown beside them. All processes stay open from the first round to the last, and a round
of warming comes before anything that counts: Kafka's JVM needs it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load, LoadFailed
from benchmarks.harness.system import System

TITLE = "latency end to end, open loop, 100 B"
ROLES = ("sender", "receiver")
VALUE_BYTES = 100
COMPARED = ("rayqueue", "kafka")
DEFAULT = "default"
STREAMED = "rayqueue streamed"
BEST = " (best)"

# Of one measured round, in units of `Scale.seconds`; its first quarter fills the path and is not counted.
ROUND = 2.0
SKIPPED = 0.25
WARMING = 3.0
WARMING_RATE = 10_000
COUNT_MIN = 10
SWEEP_ROUNDS = 3
SHOWN_ROUNDS = 2
# From the call to the first record, so that both processes are ready for it.
LEAD_NS = 50_000_000
RESULT_TIMEOUT_S = 90.0
# A round without a result counts as if every record of it had taken so long.
LOST_MS = 30_000.0
BEHIND_MS = 10.0

Round: TypeAlias = dict[str, Any]
Rounds: TypeAlias = dict[str, list[Round]]
# Side → lane, and label of the sender's tuning.
Sides: TypeAlias = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Rate:
    """A rate of sending.

    Attributes:
        per_s: records a second.
        must, aim: of the ratios of p50 and of p99 to Kafka's; None: shown without a goal, in fewer rounds.
    """

    per_s: int
    must: float | None = None
    aim: float | None = None

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.per_s:,}/s"

    def repeats(self, repeats: int) -> int:
        """Measured rounds."""
        return repeats if self.must is not None else math.ceil(repeats / 2)


RATES = (Rate(100), Rate(1_000, 1.0, 0.6), Rate(10_000, 0.5, 0.3), Rate(50_000))
OTHERS_RATE = RATES[1]  # at which peers other than Kafka are shown


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

    def label(self, tuning: dict[str, Any]) -> str:
        """What the tuning is called."""
        return next(label for label, one in self.tunings.items() if one == tuning)

    def open(self, label: str) -> Load:
        """The sender with this tuning."""
        if label not in self._senders:
            self._senders[label] = self._load("sender", self.tunings[label])
        return self._senders[label]

    def round(self, label: str, per_s: int, seconds: float) -> Round:
        """Sends and receives for so long.

        Returns:
            What `latency.summary` says of the records after the first quarter, `late_ms` of the sender, and `lost`:
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
    settings = {"value_bytes": VALUE_BYTES, "acks": "all", "partitions": 1, "round_s": ROUND * bench.scale.seconds}
    outcome = Outcome("w4", settings={**settings, "best": {}, "sweeps": {}, "rounds": {}})
    with contextlib.ExitStack() as stack:
        compared = [system for name in COMPARED if (system := bench.find(name, *ROLES))]
        lanes = {system.name: Lane(bench, system, stack) for system in compared}
        lanes[STREAMED] = Lane(bench, bench.rayqueue, stack, {"mapped_reads": False})
        for name, lane in lanes.items():
            bench.say(f"w4: warming {name} with {WARMING_RATE:,} records/s")
            lane.round(DEFAULT, WARMING_RATE, WARMING * bench.scale.seconds)
        for rate in RATES:
            sides, rounds = _measure(bench, outcome, lanes, rate)
            if rate == OTHERS_RATE:
                rounds |= _others(bench, rate, sides)
            outcome.settings["rounds"][rate.name] = rounds
            _figures(outcome, rate, rounds, sides)
    outcome.settings["sweeps"] = {k: v for k, v in bench.sweeps.found.items() if k.split()[1] == "sender"}
    outcome.notes.append(
        "from the moment a record should have been sent to the moment poll() returned it; rayqueue's receiver reads "
        "mapped unless it says streamed; each side at its best linger, found by the geometric mean of p50 and p99"
    )
    if "kafka" not in lanes:
        outcome.notes.append("no ratios: Kafka was not started")
    outcome.notes += _troubles(outcome.settings["rounds"])
    return outcome


def _measure(bench: Bench, outcome: Outcome, lanes: dict[str, Lane], rate: Rate) -> tuple[Sides, Rounds]:
    """The rounds of a rate: rayqueue and Kafka in turn, each at its best; then what is shown beside them."""
    scale = bench.scale
    compared = [name for name in COMPARED if name in lanes]
    bench.say(f"w4: {rate.name}, sweeping the linger")
    best = {name: _sweep(bench, lanes[name], rate) for name in compared}
    outcome.settings["best"][rate.name] = best
    sides: Sides = {name: (name, best[name]) for name in compared}
    shown: Sides = {f"{name} default": (name, DEFAULT) for name in compared if best[name] != DEFAULT}
    shown[STREAMED] = (STREAMED, best["rayqueue"])
    lanes[STREAMED].open(best["rayqueue"])  # processes start before the rounds, not between them

    def calls(these: Sides) -> dict[str, Callable[[], Round]]:
        seconds = ROUND * scale.seconds
        return {side: partial(lanes[name].round, label, rate.per_s, seconds) for side, (name, label) in these.items()}

    bench.say(f"w4: {rate.name}, " + ", ".join(f"{name} {label}" for name, label in sides.values()))
    warm_up = scale.warm_up if rate.must is not None else 0
    rounds = alternate(calls(sides), rate.repeats(scale.repeats), warm_up)
    rounds |= alternate(calls(shown), min(SHOWN_ROUNDS, rate.repeats(scale.repeats)), 0)
    return sides | shown, rounds


def _others(bench: Bench, rate: Rate, sides: Sides) -> Rounds:
    """Rounds of the other peers with their defaults, one after the other; they are put among the sides."""
    rounds: Rounds = {}
    for system in bench.having(*ROLES):
        if system.name not in COMPARED:
            bench.say(f"w4: {rate.name}, {system.name}")
            with contextlib.ExitStack() as stack:
                lane = Lane(bench, system, stack)
                lane.round(DEFAULT, RATES[0].per_s, bench.scale.seconds)
                seconds = ROUND * bench.scale.seconds
                rounds[system.name] = [
                    lane.round(DEFAULT, rate.per_s, seconds) for _ in range(min(SHOWN_ROUNDS, bench.scale.repeats))
                ]
            sides[system.name] = (system.name, DEFAULT)
    return rounds


def _sweep(bench: Bench, lane: Lane, rate: Rate) -> str:
    """The label of the tuning with the lowest latencies at this rate: of short rounds in turn, the best of each.

    A disturbance makes a p99 many times as high: the least of some rounds is what the tuning can do.
    """
    for label in lane.tunings:
        lane.open(label)
    calls = {label: partial(lane.round, label, rate.per_s, bench.scale.sweep_seconds) for label in lane.tunings}
    rounds = alternate(calls, min(SWEEP_ROUNDS, bench.scale.repeats), 0)

    def latency(tuning: dict[str, Any]) -> float:
        found = rounds[lane.label(tuning)]
        return math.sqrt(min(one["p50"] for one in found) * min(one["p99"] for one in found))

    label, _ = bench.sweep(lane.system, "sender", latency, higher_is_better=False, key=rate.name)
    return label


def _figures(outcome: Outcome, rate: Rate, rounds: Rounds, sides: Sides) -> None:
    for key in ("p50", "p99"):
        if "kafka" in rounds:
            ours, theirs = ([one[key] for one in rounds[side]] for side in ("rayqueue", "kafka"))
            name = f"{rate.name} {key}, each at its best linger: to Kafka"
            outcome.ratio(name, ours, theirs, rate.must, rate.aim, higher_is_better=False)
    for side, found in rounds.items():
        lane, label = sides[side]
        system = "rayqueue" if lane == STREAMED else lane
        how = (", streamed" if lane == STREAMED else "") + f", {label}" + ("" if label == DEFAULT else BEST)
        late = max(one["late_ms"] for one in found)
        for key in ("p50", "p99"):
            note = f"sender late by at most {late:.1f} ms" if key == "p99" else ""
            samples = [one[key] for one in found]
            outcome.add(f"{rate.name} {key}{how}", "ms", samples, higher_is_better=False, side=system, note=note)


def _troubles(rounds: dict[str, Rounds]) -> list[str]:
    """Lines about rounds that are not what they should be. They count nevertheless."""
    lost, behind = [], []
    for rate, sides in rounds.items():
        for side, found in sides.items():
            why = [one["lost"] for one in found if one["lost"]]
            late = [one["late_ms"] for one in found if not one["lost"] and one["late_ms"] > BEHIND_MS]
            if why:
                lost.append(f"{side} at {rate} in {len(why)} of {len(found)} ({why[0]})")
            if late:
                behind.append(f"{side} at {rate} in {len(late)} of {len(found)} rounds by at most {max(late):.0f} ms")
    lines = []
    if lost:
        lines.append(f"rounds that came to no end, which count as {LOST_MS:,.0f} ms: {'; '.join(lost)}")
    if behind:
        lines.append(
            f"senders that fell behind by more than {BEHIND_MS:.0f} ms, which is in the latencies: {'; '.join(behind)}"
        )
    return lines
