"""Three brokers, three replicas: the process of a leader killed with kill -9, and Kafka's beside it.

As in `w10_kill`: records at a steady pace, whatever happens, and the longest time without an ack, and without a record
at a consumer. Of rayqueue the replica actor that leads is killed; it is started again, and once every replica is in
sync the leader of that time is killed. Of Kafka the broker that leads is killed, once; it is not started again.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.goals import GOALS
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.workloads import three_brokers
from benchmarks.workloads.w10_clusters import REPLICA, elsewhere, has_processes, rounds, wait
from benchmarks.workloads.w10_kill import (
    ACK_TIMEOUT_S,
    AFTER_S,
    KILLS_MAX,
    QUIET_S,
    RATE,
    ROUNDS_S,
    Kill,
    check_alive_before,
    kill,
    longest_gap_ms,
    steady_loads,
    stop,
)

LOOK_S = 0.2
# Kafka's brokers notice after 9 s (broker.session.timeout.ms) that one is gone.
KAFKA_WAIT_S = 25.0
NAME = "leader killed, RF 3, longest without"


def measure(bench: Bench, outcome: Outcome) -> None:
    """Kills leaders of rayqueue, some times, and one of Kafka's."""
    if elsewhere(bench, outcome, "a leader of three replicas killed"):
        return
    if not has_processes(bench):
        outcome.notes.append("no leader of three replicas is killed: this cluster runs inside the benchmark's process")
        return
    _rayqueue(bench, outcome)
    _kafka(bench, outcome)


def _rayqueue(bench: Bench, outcome: Outcome) -> None:
    with ExitStack() as stack:
        cluster, system = three_brokers.start(bench, stack, "w10-failover")
        topic = stack.enter_context(system.topic())
        producer, consumer = steady_loads(bench, stack, system.client(), topic)
        kills = []
        for _ in rounds(min(KILLS_MAX, bench.scale.repeats), ROUNDS_S):
            cluster.wait_in_sync()
            kills.append(kill(bench, cluster, REPLICA, cluster.leader(topic)))
        acks, received = stop(producer, consumer)
    for one in kills:
        check_alive_before(acks, one)
    _add(outcome, kills, "acks", acks, "rayqueue")
    _add(outcome, kills, "records", received, "rayqueue")
    outcome.settings["failovers"] = [vars(one) for one in kills]


def _kafka(bench: Bench, outcome: Outcome) -> None:
    with ExitStack() as stack:
        system = three_brokers.start_kafka(bench, stack, "w10-failover")
        if system is None:
            return
        topic = stack.enter_context(system.topic())
        producer = stack.enter_context(bench.load(system, "steady_in", topic=topic))
        producer.call("start", rate=RATE)
        bench.say("w10: killing Kafka's leader")
        quiet = time.monotonic_ns()
        wait(QUIET_S)
        dead = system.leader(topic)
        dead.kill()
        at = time.monotonic_ns()
        while system.leader(topic) is dead and time.monotonic_ns() - at < KAFKA_WAIT_S * 1e9:
            wait(LOOK_S)
        wait(AFTER_S)
        over = time.monotonic_ns()
        acks = _acks(producer)
    found = Kill(REPLICA, quiet, at, over, 0.0)
    check_alive_before(acks, found)
    _add(outcome, [found], "acks", acks, "kafka")


def _acks(producer: Load) -> list[int]:
    sent = producer.begin("stop").result(ACK_TIMEOUT_S)
    if sent["errors"]:
        raise AssertionError(f"{len(sent['errors'])} records were not acked, the first because {sent['errors'][0]}")
    times: list[int] = sent["times"]
    return times


def _add(outcome: Outcome, kills: list[Kill], what: str, times: list[int], side: str) -> None:
    gaps = [longest_gap_ms(times, one.at, one.over) for one in kills]
    goal = GOALS["leader_killed"] if (what, side) == ("acks", "rayqueue") else None
    outcome.add(f"{NAME} {what}", "ms", gaps, goal, side=side, higher_is_better=False)
