"""Three brokers, whose topics have three replicas: rayqueue's and Kafka's, for the length of a block.

The run's own systems have one broker each and go on beside them, idle. What acks=all promises is the same on both
sides: two of three replicas have it at least (min.insync.replicas 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks.harness.bench import Bench
from benchmarks.harness.sweep import Sweeps
from benchmarks.workloads.w10_clusters import OwnCluster, OwnSystem, own_cluster

NODES = 3
WARM_S = 10.0
# On a small machine one replica actor for each broker is enough.
CONFIG = {"num.replica.actors": 1}
# Of the tunings of one broker those that are tried with three: a sweep of all would take minutes.
TUNINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rayqueue": {
        "rows_in": ("default", "linger 5, batch 1 MiB"),
        "batches_in": ("default", "requests of 4 MiB"),
        "sender": ("default", "linger 1"),
    },
    "kafka": {
        "rows_in": ("default", "linger 20", "linger 50, batch 4 MiB, poll each 100"),
        "batches_in": ("default", "linger 0", "linger 5, batch 4 MiB, queue 64 MiB"),
        "rows_out": ("default", "no rest"),
        "arrow_out": ("default", "no rest"),
        "sender": ("default", "linger 0", "linger 0.5", "linger 1"),
    },
}


def start(bench: Bench, stack: ExitStack, name: str) -> tuple[OwnCluster, OwnSystem]:
    """rayqueue's; it ends with the stack."""
    bench.say(f"{name}: starting {NODES} brokers of rayqueue")
    cluster, system = stack.enter_context(own_cluster(bench, name, NODES, CONFIG))
    system.replicas = NODES
    return cluster, system


def start_kafka(bench: Bench, stack: ExitStack, name: str, warm: bool = False) -> Any | None:
    """Kafka's, a `KafkaSystem`; None when Kafka takes no part in the run."""
    kafka = bench.find("kafka")
    if kafka is None or not hasattr(kafka, "replicated"):
        return None
    bench.say(f"{name}: starting {NODES} brokers of Kafka")
    directory = bench.directory / f"{name}-kafka"
    directory.mkdir()
    return stack.enter_context(
        kafka.replicated(directory, NODES, bench.say, WARM_S * bench.scale.seconds if warm else 0)
    )


def bench_of_three(bench: Bench, stack: ExitStack, name: str) -> Bench:
    """A bench of these systems alone, which remembers no sweep of those with one broker."""
    _, ours = start(bench, stack, name)
    theirs = start_kafka(bench, stack, name, warm=True)
    systems: list[Any] = [ours, *([] if theirs is None else [theirs])]
    for system in systems:
        tried = TUNINGS[system.name]
        system.tunings = {
            role: {label: given for label, given in known.items() if label in tried.get(role, known)}
            for role, known in system.tunings.items()
        }
    return replace(bench, systems=systems, sweeps=Sweeps())
