"""Idle partitions: what it takes to create them, and what one costs that nobody uses; Kafka's beside ours.

As many at a time as `Scale.partitions`, some rounds in turns; all of them stay until the last CPU time was taken.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.system import System
from benchmarks.workloads.w10_clusters import all_pids, wait

KIB = 1024
ROUNDS_MAX = 3
# Settled is who has opened no more files for so long, and uses no more than this of a core.
SETTLED_CORES = 0.5
SETTLED_S = 0.3
LOOK_S = 0.05
SETTLE_MAX_S = 10.0
# In which CPU is counted, before and after.
WINDOWS = 5
# The goals are those of 1,000 partitions.
GOALS_AT = 1000


@dataclass
class Idle:
    """What a system's idle partitions came to; a sample a round.

    Attributes:
        created_s: of `Scale.partitions` partitions, until the client sees their leaders.
        settled_s: until the servers have opened no more files for it.
        kib, files: for each of them, all processes.
        cpu_before, cpu_after: % of a core of all processes, without them and with those of all rounds; a sample a
            window.
    """

    created_s: list[float] = field(default_factory=list)
    settled_s: list[float] = field(default_factory=list)
    kib: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    cpu_before: list[float] = field(default_factory=list)
    cpu_after: list[float] = field(default_factory=list)


def measure(bench: Bench, outcome: Outcome) -> None:
    """Creates topics in turns, one after the other, and watches the servers' processes."""
    scale = bench.scale
    count, rounds = scale.partitions, min(ROUNDS_MAX, scale.repeats)
    sides = [system for system in bench.systems if system.name in ("rayqueue", "kafka")]
    found = {system.name: Idle() for system in sides}
    bench.say(f"w10: {rounds} x {count:,} idle partitions")
    with ExitStack() as stack:
        for system in sides:
            stack.enter_context(system.topic(10))
            _settle(all_pids(system), 0)
        for name, percent in _idle_cpu(sides, scale.seconds).items():
            found[name].cpu_before = percent
        for _ in range(rounds):
            for system in sides:
                _create(stack, system, count, found[system.name])
        for name, percent in _idle_cpu(sides, scale.seconds).items():
            found[name].cpu_after = percent
    add_figures(outcome, found, count, rounds)


def _create(stack: ExitStack, system: System, count: int, idle: Idle) -> None:
    pids = all_pids(system)
    before, files = accounting.memory(pids), accounting.open_files(pids)
    began = time.perf_counter()
    stack.enter_context(system.topic(count))
    idle.created_s.append(time.perf_counter() - began)
    idle.settled_s.append(idle.created_s[-1] + _settle(pids, files))
    idle.kib.append((accounting.memory(pids).uss - before.uss) / KIB / count)
    idle.files.append((accounting.open_files(pids) - files) / count)


def _settle(pids: list[int], files: int) -> float:
    """Waits until the servers have done what they do after they answered: Kafka opens its logs then.

    Args:
        files: they had open before.

    Returns:
        The seconds until the last time that they had opened more.
    """
    began = time.perf_counter()
    opened_s, used, looked_s = 0.0, accounting.cpu_s(pids), 0.0
    while looked_s < SETTLE_MAX_S:
        wait(LOOK_S)
        since_s, looked_s = looked_s, time.perf_counter() - began
        seen, files = files, accounting.open_files(pids)
        if files > seen:
            opened_s = looked_s
        before, used = used, accounting.cpu_s(pids)
        busy = used - before > SETTLED_CORES * (looked_s - since_s)
        if not busy and looked_s - opened_s >= SETTLED_S:
            break
    return opened_s


def _idle_cpu(sides: list[System], seconds: float) -> dict[str, list[float]]:
    """% of a core that each system's processes use while nobody asks anything of them; some windows of so long."""
    pids = {system.name: all_pids(system) for system in sides}
    found: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(WINDOWS):
        before, began = {name: accounting.cpu_s(of) for name, of in pids.items()}, time.perf_counter()
        wait(seconds)
        took = time.perf_counter() - began
        for name, of in pids.items():
            found[name].append(100 * (accounting.cpu_s(of) - before[name]) / took)
    return found


def add_figures(outcome: Outcome, found: dict[str, Idle], count: int, rounds: int) -> None:
    goals = count == GOALS_AT
    for name, idle in found.items():
        ours = goals and name == "rayqueue"
        more: dict[str, Any] = {"higher_is_better": False, "side": name}
        goal = {key: GOALS[key] if ours else None for key in ("created", "idle_memory", "idle_cpu")}
        outcome.add(f"{count:,} partitions created", "s", idle.created_s, goal["created"], **more)
        outcome.add(f"{count:,} partitions created, and their logs open", "s", idle.settled_s, **more)
        outcome.add("memory an idle partition, all servers (USS)", "KiB", idle.kib, goal["idle_memory"], **more)
        outcome.add("open files an idle partition", "files", idle.files, **more)
        outcome.add("CPU of all servers, idle, 10 partitions", "% of a core", idle.cpu_before, **more)
        total = rounds * count
        outcome.add(f"CPU of all servers, idle, {total:,} partitions", "% of a core", idle.cpu_after, **more)
        # Less than nothing is noise, and shown as it is.
        quiet = statistics.median(idle.cpu_before)
        added = [(one - quiet) * GOALS_AT / total for one in idle.cpu_after]
        outcome.add("of it for 1,000 idle partitions", "% of a core", added, goal["idle_cpu"], **more)
    if "kafka" in found:
        ours, theirs = found["rayqueue"], found["kafka"]
        name = f"{count:,} partitions created, rayqueue / kafka"
        outcome.ratio(name, ours.created_s, theirs.created_s, higher_is_better=False)
        name = f"{count:,} partitions created, and their logs open, rayqueue / kafka"
        outcome.ratio(name, ours.settled_s, theirs.settled_s, higher_is_better=False)
