"""Items put and got one by one, as with a queue: each awaited, or all on their way at once. A part of W1.

Held against `ray.util.queue`, whose items are gone with its actor; rayqueue's go through the durable log.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load

ROLE = "one_by_one"
RAY = "ray.util.queue"
PILOT = 20
# Of the scale's seconds; and no more items than that, whatever the rate.
SHORT = 0.5
ITEMS_MAX = 50_000
GOALS = {"awaited": (5.0, 10.0), "pipelined": (100.0, 1000.0)}


def run(bench: Bench, outcome: Outcome) -> None:
    """Adds the figures of all systems that can be used so."""
    with ExitStack() as stack:
        loads: dict[str, Load] = {}
        for system in bench.having(ROLE):
            topic = stack.enter_context(system.topic())
            loads[system.name] = stack.enter_context(bench.load(system, ROLE, topic=topic))
        for method, (must, aim) in GOALS.items():
            bench.say(f"w1: items one by one, {method}")
            _method(bench, outcome, loads, method, must, aim)


def _method(bench: Bench, outcome: Outcome, loads: dict[str, Load], method: str, must: float, aim: float) -> None:
    seconds = SHORT * bench.scale.seconds
    counts = {name: _count(load, method, seconds) for name, load in loads.items()}
    sides = {name: partial(_rate, load, method, counts[name]) for name, load in loads.items()}
    results = alternate(sides, bench.scale.repeats, bench.scale.warm_up)
    for name, rates in results.items():
        outcome.add(f"items one by one, {method}", "items/s", rates, note=f"{counts[name]:,} items", side=name)
    if RAY in results:
        outcome.ratio(f"items one by one, {method}: to {RAY}", results["rayqueue"], results[RAY], must, aim)


def _rate(load: Load, method: str, count: int) -> float:
    return count / float(load.call(method, count=count)["seconds"])


def _count(load: Load, method: str, seconds: float) -> int:
    """How many items take about so long: a few tell the order, and so many then tell it well."""
    count = PILOT
    for _ in range(2):
        count = int(max(PILOT, min(ITEMS_MAX, seconds * _rate(load, method, count))))
    return count
