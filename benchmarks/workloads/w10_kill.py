"""The process of a leader, and that of the coordinator, killed with kill -9 while records come and go.

A producer sends a record each few milliseconds, whatever happens (open loop), and notes when each ack came; a consumer
in `poll` notes when each record came. What is measured is the longest without one, from each kill until the
process is back and a while longer, beside the longest of as long a time before it. Here with one replica: a leader's
death lasts until Ray has started its process again; nobody else could take over (`w10_failover` has three). The
coordinator is not on the way of records, so its death must not be seen in either.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import rayqueue
from benchmarks.goals import GOALS
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.loads import Load
from benchmarks.workloads.w10_clusters import (
    COORDINATOR,
    REPLICA,
    TITLES,
    OwnCluster,
    elsewhere,
    has_processes,
    own_cluster,
    rounds,
    wait,
)

KILLS_MAX = 3
ROUNDS_S = 15.0
RATE = 200
QUIET_S = 1.5
# No process is back sooner.
AWAY_S = 1.0
# After the process is back: until acks that waited for it have come.
AFTER_S = 1.0
ACK_TIMEOUT_S = 60.0
POLL_S = 0.2


class SteadyProducer:
    """Sends single records at a fixed rate and notes when each was acked."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        self._producer = rayqueue.Producer(**client)
        self._topic = topic
        self._stop = threading.Event()
        self._sent: SimpleQueue[Any] = SimpleQueue()
        self._acks: list[int] = []
        self._errors: list[str] = []
        self._threads: list[threading.Thread] = []
        self._producer.produce(topic, b"0").result(ACK_TIMEOUT_S)

    def start(self, rate: int) -> None:
        """Sends from now on."""
        self._threads = [
            threading.Thread(target=self._send, args=(rate,), daemon=True),
            threading.Thread(target=self._wait, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, rate: int) -> None:
        begin = time.monotonic_ns()
        number = 0
        while not self._stop.is_set():
            number += 1
            self._sent.put(self._producer.produce(self._topic, b"%d" % number))
            pause = begin + number * 1_000_000_000 // rate - time.monotonic_ns()
            if pause > 0:
                self._stop.wait(pause / 1e9)
        self._sent.put(None)

    def _wait(self) -> None:
        """Acks of one partition come in order, so they can be waited for in order."""
        while (future := self._sent.get()) is not None:
            try:
                future.result(ACK_TIMEOUT_S)
                self._acks.append(time.monotonic_ns())
            except rayqueue.RayQueueError as error:
                self._errors.append(str(error))

    def stop(self) -> dict[str, Any]:
        """Stops; the moments of all acks (CLOCK_MONOTONIC, ns), and what failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(ACK_TIMEOUT_S)
        return {"times": self._acks, "errors": self._errors}

    def close(self) -> None:
        """Closes the producer."""
        self._stop.set()
        self._producer.close()


class SteadyConsumer:
    """Polls record by record and notes when each came, and that none is missing or out of order."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        self._consumer = rayqueue.Consumer(topic, auto_offset_reset="earliest", **client)
        self._stop = threading.Event()
        self._times: list[int] = []
        self._values: list[int] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def start(self) -> None:
        """Receives from now on."""
        self._thread.start()

    def _receive(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(POLL_S)
            if message is not None:
                self._times.append(time.monotonic_ns())
                self._values.append(int(message.value))

    def stop(self, records: int) -> dict[str, Any]:
        """Stops once there are so many records; the moments they came, and whether they are 0, 1, 2, ..."""
        give_up = time.monotonic() + ACK_TIMEOUT_S
        pause = threading.Event()
        while len(self._values) < records and time.monotonic() < give_up:
            pause.wait(POLL_S)
        self._stop.set()
        self._thread.join(ACK_TIMEOUT_S)
        return {"times": self._times, "whole": self._values == list(range(records)), "records": len(self._values)}

    def close(self) -> None:
        """Closes the consumer."""
        self._stop.set()
        self._consumer.close()


@dataclass(frozen=True)
class Kill:
    """One kill, in ns: it was watched from `quiet` on, happened at `at`, and was over at `over`."""

    role: str
    quiet: int
    at: int
    over: int
    back_s: float


def longest_gap_ms(times: Sequence[int], begin: int, end: int) -> float:
    """The longest without an event from `begin` to `end` (times ascending, ns); the edges count as events."""
    inside = times[bisect_left(times, begin) : bisect_right(times, end)]
    moments = [begin, *inside, end]
    return max(later - earlier for earlier, later in zip(moments, moments[1:], strict=False)) / 1e6


def steady_loads(bench: Bench, stack: ExitStack, client: dict[str, Any], topic: str) -> tuple[Load, Load]:
    """A producer and a consumer of a topic, at work; they end with `stack`."""
    settings = {"client": client, "topic": topic}
    producer = stack.enter_context(bench.process(SteadyProducer, "steady-producer", **settings))
    consumer = stack.enter_context(bench.process(SteadyConsumer, "steady-consumer", **settings))
    consumer.call("start")
    producer.call("start", rate=RATE)
    return producer, consumer


def measure(bench: Bench, outcome: Outcome) -> None:
    """Kills leader and coordinator, each some times, of a cluster with one replica actor, which leads everything."""
    if elsewhere(bench, outcome, "leader and coordinator killed"):
        return
    if not has_processes(bench):
        outcome.notes.append("leader and coordinator are not killed: this cluster runs inside the benchmark's process")
        return
    times = min(KILLS_MAX, bench.scale.repeats)
    config = {"num.replica.actors": 1}
    with ExitStack() as stack:
        cluster, system = stack.enter_context(own_cluster(bench, "w10-kill", config=config))
        topic = stack.enter_context(system.topic())
        producer, consumer = steady_loads(bench, stack, system.client(), topic)
        kills = [kill(bench, cluster, role) for role in (REPLICA, COORDINATOR) for _ in rounds(times, ROUNDS_S)]
        acks, received = stop(producer, consumer)
    for one in kills:
        check_alive_before(acks, one)
    add_figures(outcome, kills, acks, received)


def kill(bench: Bench, cluster: OwnCluster, role: str, only: int | None = None) -> Kill:
    """A quiet while, then the kill, until the process is back.

    Args:
        only: the process to kill; None: all of the role.
    """
    bench.say(f"w10: killing the {role} actor")
    victims = cluster.pids()[role] if only is None else [only]
    quiet = time.monotonic_ns()
    wait(QUIET_S)
    for pid in victims:
        # By id, and looked at once more: a process id may have been given to somebody else meanwhile.
        if not accounting.title(pid).startswith(TITLES[role]):
            raise AssertionError(f"process {pid} is not the {role} of {cluster.name} any more")
        os.kill(pid, signal.SIGKILL)
    at = time.monotonic_ns()
    wait(AWAY_S)  # nobody asks for it meanwhile: that would take the time of its start
    back = AWAY_S + cluster.wait_back(role, victims)
    wait(AFTER_S)
    return Kill(role, quiet, at, time.monotonic_ns(), back)


def stop(producer: Load, consumer: Load) -> tuple[list[int], list[int]]:
    """Ends both; when acks and records came. Every record must have been acked, and have come once and in order."""
    sent = producer.call("stop")
    if sent["errors"]:
        raise AssertionError(f"{len(sent['errors'])} records were not acked, the first because {sent['errors'][0]}")
    got = consumer.call("stop", records=len(sent["times"]) + 1)
    if not got["whole"]:
        raise AssertionError(f"{len(sent['times']) + 1} records were acked, {got['records']} came, or out of order")
    return sent["times"], got["times"]


def check_alive_before(acks: Sequence[int], kill: Kill) -> None:
    """A kill says nothing when there were no acks before it anyway."""
    if not any(kill.quiet <= ack <= kill.at for ack in acks):
        raise AssertionError(f"no record was acked in the {QUIET_S:g} s before the {kill.role} was killed")


def add_figures(outcome: Outcome, kills: list[Kill], acks: list[int], received: list[int]) -> None:
    more: dict[str, Any] = {"higher_is_better": False}
    for role, name in ((REPLICA, "leader"), (COORDINATOR, "coordinator")):
        of_role = [one for one in kills if one.role == role]
        for what, times, how in (("acks", acks, "produce"), ("records", received, "consume")):
            quiet = [longest_gap_ms(times, one.quiet, one.at) for one in of_role]
            gaps = [longest_gap_ms(times, one.at, one.over) for one in of_role]
            if role == REPLICA:
                note = "no replica to take over"
                outcome.add(f"{name} killed, RF 1, longest without {what}", "ms", gaps, note=note, **more)
                continue
            outcome.add(f"before: longest without {what}", "ms", quiet, **more)
            outcome.add(f"{name} killed, longest without {what}", "ms", gaps, **more)
            beyond = [max(0.0, gap - before) for gap, before in zip(gaps, quiet, strict=True)]
            key = f"coordinator_killed_{how}"
            outcome.add(f"{name} killed, longer than before: {what}", "ms", beyond, GOALS[key], **more)
    outcome.settings["kills"] = [vars(one) for one in kills]
    outcome.notes.append(
        f"kills: a record each {1000 // RATE} ms; a leader with one replica comes back with its process, of three "
        "another one takes over"
    )
