"""Items put and got one by one, as with a queue: each awaited, or all on their way at once. A part of W1.

Held against `ray.util.queue`, whose items are gone with its actor; rayqueue's go through the durable log. The queue can
also move many items in one call (`put_nowait_batch`): another call than ours, and shown beside.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.goals import GOALS, Goal
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load

ROLE = "one_by_one"
RAY = "ray.util.queue"
DEFAULT = "default"
PILOT = 20
SECONDS = 0.7  # of the scale's
# No more items than that, whatever the rate.
ITEMS_MAX = 200_000
METHODS = {"awaited": GOALS["items_awaited"], "pipelined": GOALS["items_pipelined"]}
# What the queue does in `METHODS`.
CALLS = {"awaited": "`put`, `get`", "pipelined": "`put_async`, one item a call"}


def run(bench: Bench, outcome: Outcome) -> None:
    """Adds the figures of all systems that can be used so."""
    with ExitStack() as stack:
        loads: dict[tuple[str, str], Load] = {}
        for system in bench.having(ROLE):
            # Where there are tunings they are other calls, which move many items each: they are pipelined only.
            for label, tuning in (system.tunings.get(ROLE) or {DEFAULT: {}}).items():
                topic = stack.enter_context(system.topic())
                load = stack.enter_context(bench.load(system, ROLE, topic=topic, **tuning))
                loads[system.name, label] = load
        for method, goal in METHODS.items():
            bench.say(f"w1: items one by one, {method}")
            some = {key: load for key, load in loads.items() if key[1] == DEFAULT or method == "pipelined"}
            _method(bench, outcome, some, method, goal)


def _method(bench: Bench, outcome: Outcome, loads: dict[tuple[str, str], Load], method: str, goal: Goal) -> None:
    seconds = SECONDS * bench.scale.seconds
    counts = {key: _count(load, method, seconds) for key, load in loads.items()}
    sides = {key: partial(_rate, load, method, counts[key]) for key, load in loads.items()}
    results = bench.alternate(sides)
    for (name, label), rates in results.items():
        what = f"items one by one, {method}" if label == DEFAULT else f"items, {label}"
        outcome.add(what, "items/s", rates, note=f"{counts[name, label]:,} items", side=name)
    ours = results["rayqueue", DEFAULT]
    for (name, label), rates in results.items():
        if name == RAY:
            call = CALLS[method] if label == DEFAULT else f"`put_nowait_batch`, {label}"
            held = goal if label == DEFAULT else None
            outcome.ratio(f"items one by one, {method}: to {RAY} ({call})", ours, rates, held)


def _rate(load: Load, method: str, count: int) -> float:
    return count / float(load.call(method, count=count)["seconds"])


def _count(load: Load, method: str, seconds: float) -> int:
    """How many items take about so long: a few tell the order, and so many then tell it well."""
    count = PILOT
    for _ in range(2):
        count = int(max(PILOT, min(ITEMS_MAX, seconds * _rate(load, method, count))))
    return count
