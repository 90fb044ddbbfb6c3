"""W4: the best linger of each side is compared, goals stand where they should, and no round is dropped in silence."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goals import GOALS
from benchmarks.harness.figures import RATIO, Outcome
from benchmarks.harness.latency import summary
from benchmarks.workloads import w4_latency
from tests.unit.benchmarks.inline import RolesSystem, bench_of

# What a record takes in ms, p50 and p99, by the system's name and the linger; and what else a round does, once.
TAKES: dict[tuple[str, Any], tuple[float, float]] = {}
MISHAPS: dict[str, dict[tuple[str, int], Any]] = {}
SENT: dict[str, queue.Queue[Any]] = {}


class Sender:
    """Tells the receiver of its topic which linger it has."""

    def __init__(self, client: dict[str, Any], topic: str, linger_ms: float | None = None) -> None:
        self._name, self._topic, self._linger_ms = client["name"], topic, linger_ms

    def run(self, begin_ns: int, count: int, rate: int, value_bytes: int) -> dict[str, float]:
        SENT[self._topic].put((self._linger_ms, rate))
        return {"late_ms": MISHAPS.get("late", {}).get((self._name, rate), 0.1)}

    def close(self) -> None:
        """Nothing is open."""


class Receiver:
    """Answers as `TAKES` says."""

    def __init__(self, client: dict[str, Any], topic: str, mapped_reads: bool = True) -> None:
        self._name, self._topic, self._streamed = client["name"], topic, not mapped_reads
        SENT[topic] = queue.Queue()

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        linger_ms, rate = SENT[self._topic].get(timeout=20)
        error = MISHAPS.get("error", {}).get((self._name, rate))
        if error is not None:
            raise error
        p50, p99 = TAKES[self._name, linger_ms]
        ms = [p50 + self._streamed] * 98 + [p99 + self._streamed] * 2
        return {**summary(int(one * 1e6) for one in ms), "count": count}

    def close(self) -> None:
        """Nothing is open."""


ROLES = {"sender": Sender, "receiver": Receiver}
RAYQUEUE = RolesSystem("rayqueue", ROLES, {"sender": {"default": {}, "linger 0.5": {"linger_ms": 0.5}}})
KAFKA = RolesSystem("kafka", ROLES, {"sender": {"default": {}, "linger 0": {"linger_ms": 0}}})
REDIS = RolesSystem("redis", ROLES)


@pytest.fixture(autouse=True)
def behavior() -> Iterator[None]:
    TAKES.update(
        {
            ("rayqueue", None): (1.0, 2.0),
            ("rayqueue", 0.5): (3.0, 4.0),
            ("kafka", None): (5.0, 9.0),
            ("kafka", 0): (2.0, 8.0),
            ("redis", None): (7.0, 7.0),
        }
    )
    yield
    for found in (TAKES, MISHAPS, SENT):
        found.clear()


def samples(outcome: Outcome, side: str, name: str) -> list[float]:
    (found,) = [one.samples for one in outcome.figures if one.side == side and one.name == name]
    return [round(one, 2) for one in found]


def test_the_best_linger_of_each_side_is_compared(tmp_path: Path) -> None:
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    assert outcome.settings["best"]["1,000/s"] == {
        "rayqueue": {"p50": "default", "p99": "default"},
        "kafka": {"p50": "linger 0", "p99": "linger 0"},
    }
    assert samples(outcome, RATIO, "1,000/s p50, each at its best linger: to Kafka") == [0.5, 0.5]
    assert samples(outcome, RATIO, "1,000/s p99, each at its best linger: to Kafka") == [0.25, 0.25]
    assert samples(outcome, "kafka", "1,000/s p50, linger 0 (best)") == [2.0, 2.0]
    assert samples(outcome, "kafka", "1,000/s p50, default") == [5.0, 5.0]
    assert samples(outcome, "rayqueue", "1,000/s p50, default (best)") == [1.0, 1.0]
    assert samples(outcome, "rayqueue", "1,000/s p50, streamed, default") == [2.0, 2.0]
    assert len(outcome.settings["rounds"]["1,000/s"]["kafka"][0]["histogram"]) > 50
    (p99,) = [one for one in outcome.figures if one.goal is GOALS["p99_1000"]]
    assert p99.pooled == pytest.approx(0.25, rel=0.01) and p99.must_reached


def test_each_percentile_has_its_own_best_linger(tmp_path: Path) -> None:
    TAKES["kafka", None] = (1.0, 20.0)
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    assert outcome.settings["best"]["1,000/s"]["kafka"] == {"p50": "default", "p99": "linger 0"}
    assert samples(outcome, RATIO, "1,000/s p50, each at its best linger: to Kafka") == [1.0, 1.0]
    assert samples(outcome, RATIO, "1,000/s p99, each at its best linger: to Kafka") == [0.25, 0.25]
    assert samples(outcome, "kafka", "1,000/s p99, linger 0 (best)") == [8.0, 8.0]


def test_goals_stand_at_two_of_the_rates(tmp_path: Path) -> None:
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    goals = {
        (rate, key): next(
            (one.must, one.aim) for one in outcome.figures if one.side == RATIO and one.name.startswith(f"{rate} {key}")
        )
        for rate in ("100/s", "1,000/s", "10,000/s", "50,000/s")
        for key in ("p50", "p99")
    }
    for key in ("p50", "p99"):
        assert goals["1,000/s", key] == (1.0, 0.6)
        assert goals["10,000/s", key] == (0.5, 0.3)
        assert goals["100/s", key] == goals["50,000/s", key] == (None, None)
    assert outcome.missed == []


def test_other_peers_are_shown_at_one_rate(tmp_path: Path) -> None:
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, REDIS))

    assert [one.name for one in outcome.figures if one.side == "redis"] == [
        "1,000/s p50, default",
        "1,000/s p99, default",
    ]
    assert not [one for one in outcome.figures if one.side == RATIO]
    assert "no ratios: Kafka was not started" in outcome.notes


def test_a_round_of_ours_without_an_end_counts_and_is_told(tmp_path: Path) -> None:
    MISHAPS["error"] = {("rayqueue", 1000): TimeoutError("7 of 20 records, then nothing for 30 s")}
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    assert samples(outcome, RATIO, "1,000/s p50, each at its best linger: to Kafka") == [15_000.0, 15_000.0]
    assert [one.name for one in outcome.missed] == [
        "1,000/s p50, each at its best linger: to Kafka",
        "1,000/s p99, each at its best linger: to Kafka",
    ]
    assert any("rayqueue at 1,000/s in 2 of 2 (TimeoutError: 7 of 20 records" in note for note in outcome.notes)
    assert samples(outcome, RATIO, "10,000/s p50, each at its best linger: to Kafka") == [0.5, 0.5]


def test_nothing_is_won_by_rounds_that_kafka_lost(tmp_path: Path) -> None:
    MISHAPS["error"] = {("kafka", 1000): TimeoutError("7 of 20 records, then nothing for 30 s")}
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    held = {one.goal.key for one in outcome.figures if one.goal is not None}
    assert held == {"p50_10000", "p99_10000"}  # the others are not measured, which is no success
    assert any("kafka at 1,000/s in 2 of 2, void (TimeoutError" in note for note in outcome.notes)


def test_a_round_that_kafka_lost_is_void_for_both() -> None:
    def round_of(ms: float, lost: str = "") -> dict[str, Any]:
        return {**summary([int(ms * 1e6)] * 100), "late_ms": 0.0, "lost": lost}

    outcome = Outcome("w4")
    ours, theirs = [round_of(1), round_of(9), round_of(2)], [round_of(2), round_of(30_000, "lost"), round_of(4)]
    w4_latency._ratio(outcome, "p99", "p99", ours, theirs, GOALS["p99_1000"])
    (found,) = outcome.figures
    assert found.samples == pytest.approx([0.5, 0.5], rel=0.01) and found.note == "1 rounds void"


def test_a_sender_that_fell_behind_is_told(tmp_path: Path) -> None:
    MISHAPS["late"] = {("kafka", 50_000): 25.0}
    outcome = w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))

    (note,) = [note for note in outcome.notes if "fell behind" in note]
    assert "kafka at 50,000/s in 1 of 1 rounds by at most 25 ms" in note
    assert "rayqueue" not in note


def test_any_other_failure_ends_the_workload(tmp_path: Path) -> None:
    MISHAPS["error"] = {("kafka", 10_000): ValueError("not a record")}
    with pytest.raises(ValueError, match="not a record"):
        w4_latency.run(bench_of(tmp_path, RAYQUEUE, KAFKA))
