"""Three brokers, three replicas, acks=all: producing (w1), consuming (w2) and latency (w4), by the same loads.

rayqueue's brokers are processes on the Ray of the run, Kafka's three are started for this workload, all on this
machine; two of three replicas have what is acked at least. Goals hang on batches in and on latency at 1,000 records/s.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from benchmarks.goals import GOALS
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.throughput import BATCHES, ROWS, add_cpu, add_rates, best_of, decide, mb_s, settle
from benchmarks.workloads import three_brokers, w1_produce, w2_consume, w4_latency
from benchmarks.workloads.w10_clusters import elsewhere

TITLE = "three brokers, three replicas, acks=all"
# Of the scale's bytes and rows, what is consumed.
SHARE = 4
RATES = (
    w4_latency.Rate(100),
    w4_latency.Rate(1_000, {key: GOALS[f"{key}_rf3"] for key in w4_latency.KEYS}),
    w4_latency.Rate(10_000),
)


def run(bench: Bench) -> Outcome:
    """Starts both clusters, then measures them as w1, w2 and w4 do."""
    outcome = Outcome("w6", settings={"brokers": three_brokers.NODES, "replicas": three_brokers.NODES, "acks": "all"})
    if elsewhere(bench, outcome, "three replicas"):
        return outcome
    with ExitStack() as stack:
        three = three_brokers.bench_of_three(bench, stack, "w6")
        outcome.settings["systems"] = {system.name: system.settings for system in three.systems}
        _produce(three, outcome)
        _consume(three, outcome)
        w4_latency.measure(three, outcome, RATES)
        outcome.settings["swept"] = three.sweeps.found
    outcome.notes.append("min.insync.replicas 2 on both sides; all servers, and the loads, share this machine's cores")
    return outcome


def _produce(bench: Bench, outcome: Outcome) -> None:
    """Rows and batches of 100 B, one producer, one partition."""
    with ExitStack() as stack:
        sides: w1_produce.Sides = {}
        for role in (ROWS, BATCHES):
            for system in bench.having(role):
                bench.say(f"w6: sweeping {w1_produce.WHAT[role]}, {system.name}")
                sides |= w1_produce.sides(bench, stack, system, role, w1_produce.LONG)
        bench.say(f"w6: producing, {len(sides)} sides")
        results = decide(bench.alternate(sides))
    for role in (ROWS, BATCHES):
        settle(bench, results, w1_produce.WHAT[role], role, w1_produce.SMALL)
    for side, rates in results.items():
        add_rates(outcome, side, rates, w1_produce.UNITS[ROWS if side.what == w1_produce.WHAT[ROWS] else BATCHES])
        if side.best:
            add_cpu(outcome, side, rates)
    for role, goal, to in ((ROWS, None, "Kafka's produce()"), (BATCHES, GOALS["batches_in_rf3"], "Kafka with Arrow")):
        ours, theirs = (best_of(results, name, w1_produce.WHAT[role]) for name in w4_latency.COMPARED)
        if ours and theirs:
            outcome.ratio(f"{w1_produce.WHAT[role]}: to {to}", mb_s(ours), mb_s(theirs), goal)


def _consume(bench: Bench, outcome: Outcome) -> None:
    """What w2 finds, with less to read and in fewer rounds: no goal of three replicas hangs on it."""
    scale = bench.scale
    less = {"bytes_max": scale.bytes_max // SHARE, "rows_max": scale.rows_max // SHARE, "repeats": bench.few}
    found = w2_consume.run(replace(bench, scale=replace(scale, **less)))
    outcome.figures += [replace(figure, goal=None) for figure in found.figures]
    outcome.settings["consuming"] = found.settings
