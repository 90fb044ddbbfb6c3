"""What partitions cost that nobody uses: memory, CPU, open files, and the time to create them."""

from __future__ import annotations

import threading
import time

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome

GOAL_KIB = 64.0
ROUNDS = 3


def run(bench: Bench) -> Outcome:
    """Creates topics of many partitions, one after the other, and watches the actors' processes."""
    count = bench.scale.partitions
    rounds = min(ROUNDS, bench.scale.repeats)
    outcome = Outcome("idle_partitions", settings={"partitions_each_round": count, "rounds": rounds})
    actors = bench.target.processes()["actors"]
    replicas = bench.target.actors("PartitionReplica")
    bench.say(f"idle_partitions: {rounds} x {count}")
    cpu_before = _cpu_percent(actors, bench.scale.seconds)
    files_before = accounting.open_files(actors)
    created: list[float] = []
    all_uss: list[float] = []
    replica_uss: list[float] = []
    names = [f"idle-{number}" for number in range(rounds)]
    with rayqueue.AdminClient(**bench.target.client()) as admin:
        admin.create_topic("idle-warm-up", 10)
        for name in names:
            before, before_replicas = accounting.memory(actors), accounting.memory(replicas)
            began = time.perf_counter()
            admin.create_topic(name, count)
            created.append(time.perf_counter() - began)
            after, after_replicas = accounting.memory(actors), accounting.memory(replicas)
            all_uss.append((after.uss - before.uss) / 1024 / count)
            replica_uss.append((after_replicas.uss - before_replicas.uss) / 1024 / count)
        cpu_after = _cpu_percent(actors, bench.scale.seconds)
        files_after = accounting.open_files(actors)
        memory = accounting.memory(actors)
        for name in [*names, "idle-warm-up"]:
            admin.delete_topic(name)
    outcome.add("memory a partition, all actors (USS)", "KiB", all_uss, goal=GOAL_KIB, higher_is_better=False)
    outcome.add("of it in the replica actors", "KiB", replica_uss, higher_is_better=False)
    outcome.add(f"creating {count} partitions", "s", created, higher_is_better=False)
    more = (files_after - files_before) / (rounds * count)
    outcome.add("open files a partition", "files", [more], higher_is_better=False)
    outcome.add("CPU of all actors, no partitions", "% of a core", [cpu_before], higher_is_better=False)
    outcome.add(f"CPU of all actors, {rounds * count} partitions", "% of a core", [cpu_after], higher_is_better=False)
    outcome.add(f"PSS of all {len(actors)} actor processes", "MiB", [memory.pss / 2**20], higher_is_better=False)
    return outcome


def _cpu_percent(pids: list[int], seconds: float) -> float:
    before, began = accounting.cpu_s(pids), time.perf_counter()
    threading.Event().wait(seconds)
    return 100 * (accounting.cpu_s(pids) - before) / (time.perf_counter() - began)
