"""Scale: partitions from 1 to 10,000, consumers from 1 to 100, brokers from 1 to 3, and leader and coordinator killed.

Each part is a file: `w10_idle`, `w10_partitions`, `w10_consumers`, `w10_kill` (one replica), `w10_failover` (three),
`w10_node_lost`, `w10_brokers` (with the model of more brokers, `w10_model`); docs/scale.md tells how they are made and
how to read them.
"""

from __future__ import annotations

import time

from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.workloads import (
    w10_brokers,
    w10_consumers,
    w10_failover,
    w10_idle,
    w10_kill,
    w10_node_lost,
    w10_partitions,
)

TITLE = "scale: 1 to 10,000 partitions, 1 to 100 consumers, 1 to 3 brokers; kill -9"

PARTS = {
    "idle partitions": w10_idle.measure,
    "partitions": w10_partitions.measure,
    "consumers": w10_consumers.measure,
    "kills": w10_kill.measure,
    "failover": w10_failover.measure,
    "node lost": w10_node_lost.measure,
    "brokers": w10_brokers.measure,
}


def run(bench: Bench) -> Outcome:
    """Runs the parts one after the other."""
    outcome = Outcome("w10")
    seconds = outcome.settings.setdefault("seconds", {})
    for name, measure in PARTS.items():
        began = time.monotonic()
        measure(bench, outcome)
        seconds[name] = time.monotonic() - began
    return outcome
