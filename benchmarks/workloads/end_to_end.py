"""Latency end to end at 1,000 records/s, open loop, swept over linger: producer and consumer in their own processes.

Each record carries the moment at which it should have been sent (CLOCK_MONOTONIC, which all processes of a machine
share), so a sender that falls behind makes the figure worse, not better (no coordinated omission). The consumer sits
in `poll()`.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from typing import Any

import rayqueue
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.latency import summary
from benchmarks.harness.payload import random_values

RATE = 1000
VALUE_BYTES = 100
LINGERS_MS = (0, 0.5, 1, 5)
SKIP_S = 0.5  # records of the first half second of each measurement are not counted
STAMP = 8
LEAD_NS = 200_000_000
GOAL_P50_MS = 0.8
GOAL_P99_MS = 2.5
TIMEOUT_S = 30.0
PR_SET_TIMERSLACK = 29


def wake_on_time() -> None:
    """Lets this thread's sleeps end when they should: Linux adds 50 us of slack by default (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class OpenLoopSender:
    """Sends at a fixed rate, whatever happens."""

    def __init__(self, settings: dict[str, Any], topic: str, linger_ms: float) -> None:
        self._producer = rayqueue.Producer(linger_ms=linger_ms, **settings)
        self._topic = topic
        self._padding = random_values(1, VALUE_BYTES - STAMP)[0]
        self._producer.produce(topic, bytes(VALUE_BYTES)).result(30)

    def run(self, begin_ns: int, count: int, rate: int) -> float:
        """Sends `count` records, the first at `begin_ns`; returns the worst lateness of a send, in ms."""
        wake_on_time()
        futures = []
        late = 0
        for number in range(count):
            intended = begin_ns + number * 1_000_000_000 // rate
            wait = intended - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            late = max(late, time.monotonic_ns() - intended)
            futures.append(self._producer.produce(self._topic, intended.to_bytes(STAMP, "little") + self._padding))
        self._producer.flush()
        for future in futures:
            future.result(30)
        return late / 1e6

    def close(self) -> None:
        """Closes the producer."""
        self._producer.close()


class PollingReceiver:
    """Polls record by record and takes the time."""

    def __init__(self, settings: dict[str, Any], topic: str, mapped: bool) -> None:
        self._consumer = rayqueue.Consumer(topic, auto_offset_reset="earliest", mapped_reads=mapped, **settings)

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        """Receives the records whose stamps are `begin_ns` or later until there are `count`; see `latency.summary`."""
        seen = 0
        latencies = []
        give_up = time.monotonic() + TIMEOUT_S
        while seen < count:
            message = self._consumer.poll(1.0)
            now = time.monotonic_ns()
            if message is None:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"{seen} of {count} records after {TIMEOUT_S} s")
                continue
            intended = int.from_bytes(message.value[:STAMP], "little")
            if intended < begin_ns:
                continue  # a sender's first record, or one of a round before
            seen += 1
            if intended >= begin_ns + skip_ns:
                latencies.append(now - intended)
        return summary(latencies)

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()


def run(bench: Bench) -> Outcome:
    """Measures each linger with a mapped consumer, then the best one with a streaming consumer."""
    outcome = Outcome("end_to_end", settings={"rate": RATE, "value_bytes": VALUE_BYTES, "acks": "all"})
    found = {}
    for linger in LINGERS_MS:
        bench.say(f"end_to_end: {RATE} records/s, linger {linger} ms, mapped")
        found[linger] = _measure(bench, linger, mapped=True)
    best = min(found, key=lambda linger: _distance(found[linger]))
    for linger, rounds in found.items():
        goals = (GOAL_P50_MS, GOAL_P99_MS) if linger == best else (None, None)
        _figures(outcome, f"linger {linger} ms", rounds, *goals)
    bench.say(f"end_to_end: {RATE} records/s, linger {best} ms, streamed")
    _figures(outcome, f"linger {best} ms, over the stream", _measure(bench, best, mapped=False), None, None)
    outcome.settings["histograms"] = {str(linger): [one["histogram"] for one in found[linger]] for linger in found}
    outcome.notes.append("from the moment a record should have been sent to the moment poll() returned it")
    return outcome


def _distance(rounds: list[dict[str, Any]]) -> float:
    """How far a linger is from the goals: the worse of the two, 1 is just reached."""
    p50, p99 = (statistics.median(one[key] for one in rounds) for key in ("p50", "p99"))
    return max(p50 / GOAL_P50_MS, p99 / GOAL_P99_MS)


def _measure(bench: Bench, linger_ms: float, mapped: bool) -> list[dict[str, Any]]:
    scale = bench.scale
    count = int(RATE * (SKIP_S + scale.seconds))
    settings = bench.target.client()
    rounds = []
    with (
        bench.topic() as topic,
        bench.load(PollingReceiver, "receiver", settings=settings, topic=topic, mapped=mapped) as receiver,
        bench.load(OpenLoopSender, "sender", settings=settings, topic=topic, linger_ms=linger_ms) as sender,
    ):
        for turn in range(scale.warm_up + scale.repeats):
            begin = time.monotonic_ns() + LEAD_NS
            receiving = receiver.begin("run", begin_ns=begin, count=count, skip_ns=int(SKIP_S * 1e9))
            late = sender.call("run", begin_ns=begin, count=count, rate=RATE)
            result = receiving.result(TIMEOUT_S)
            if turn >= scale.warm_up:
                rounds.append({**result, "late": late})
    return rounds


def _figures(
    outcome: Outcome, name: str, rounds: list[dict[str, Any]], goal_p50: float | None, goal_p99: float | None
) -> None:
    goals = {"p50": goal_p50, "p99": goal_p99}
    for key in ("p50", "p99", "p999", "max"):
        samples = [one[key] for one in rounds]
        outcome.add(f"{key}, {name}", "ms", samples, goal=goals.get(key), higher_is_better=False)
