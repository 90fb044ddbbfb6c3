"""Producers of any system: what their rates are, and which tuning is found to be the best."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.accounting import CpuMeter
from benchmarks.harness.bench import Bench
from benchmarks.harness.throughput import (
    BATCHES,
    ROWS,
    Producers,
    Rate,
    Side,
    Tuning,
    best_of,
    candidates,
    decide,
    reader_tunings,
    settle,
    tunings,
)
from tests.unit.benchmarks.inline import RolesSystem, bench_of

# Of each run: the tuning, the topic, the size of values.
RUNS: list[tuple[str, str, int]] = []
MADE: list[str] = []
# By the tuning: records a second, of one size of values.
SPEED = {("", 100): 10.0, ("a", 100): 30.0, ("b", 100): 20.0, ("", 1000): 5.0, ("a", 1000): 1.0, ("b", 1000): 2.0}


class Rows:
    """Takes a second, or two; its speed is that of its tuning."""

    def __init__(self, client: dict[str, Any], name: str = "") -> None:
        self._name = name
        MADE.append(name)

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        RUNS.append((self._name, topic, value_bytes))
        took = 2.0 if topic == "slow" else 1.0
        return {"records": SPEED[self._name, value_bytes] * took, "seconds": took}

    def close(self) -> None:
        """Nothing is open."""


class Reader(Rows):
    """Reads as fast."""

    def __init__(self, client: dict[str, Any], topic: str, name: str = "") -> None:
        super().__init__(client, name)

    def run(self, records: int) -> dict[str, float]:  # type: ignore[override]
        return {"seconds": records / SPEED[self._name, 100], "sum": 0}


class Batches:
    """Tells the arguments it got."""

    def __init__(self, client: dict[str, Any]) -> None:
        """It needs nothing."""

    def run(self, topic: str, rows: int, value_bytes: int, seconds: float, bytes_max: int) -> dict[str, float]:
        return {"records": bytes_max / value_bytes, "seconds": rows}

    def close(self) -> None:
        """Nothing is open."""


NAMES = {"default": {}, "A": {"name": "a"}, "B": {"name": "b"}}
SYSTEM = RolesSystem("kafka", {ROWS: Rows, BATCHES: Batches, "rows_out": Reader}, {ROWS: NAMES, "rows_out": NAMES})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    RUNS.clear()
    MADE.clear()
    return bench_of(tmp_path, SYSTEM)


def test_a_rate_is_of_all_producers_together(bench: Bench) -> None:
    with ExitStack() as stack:
        producers = Producers(bench, stack, SYSTEM, ROWS, {"name": "a"}, count=4)
        rate = producers.into("t", 100)
        assert (rate.records, rate.seconds, rate.records_s) == (120, 1, 120)
        assert producers.pids == []
    assert len(RUNS) == 4 and {topic for _, topic, _ in RUNS} == {"t"}


def test_what_was_written_is_checked_when_its_cpu_has_been_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Checked(Rows):
        def run(self, *arguments: Any, **more: Any) -> dict[str, float]:
            order.append("run")
            return super().run(*arguments, **more)

        def check(self) -> None:
            order.append("check")

    monkeypatch.setattr(CpuMeter, "used", lambda meter: order.append("used") or {"clients": 1.0})
    system = RolesSystem("rayqueue", {ROWS: Checked})
    with ExitStack() as stack:
        Producers(bench, stack, system, ROWS, {}).into("t", 100)
    assert order == ["run", "used", "check"]


def test_costs_are_a_gigabyte_of_values() -> None:
    rate = Rate(10_000_000, 2.0, 100, {"clients": 1.5, "broker": 0.5})
    assert (rate.mb_s, rate.cpu_s_gb(), rate.cpu_s_gb("broker")) == (500, 2.0, 0.5)


def test_batches_are_bounded_by_bytes(bench: Bench) -> None:
    with ExitStack() as stack:
        producers = Producers(bench, stack, SYSTEM, BATCHES, {})
        assert producers.into("t", 1000).records == bench.scale.bytes_max / 1000
        bounded = producers.into("t", 100, rows=7, records=50)
        assert (bounded.records, bounded.seconds) == (50, 7)
        assert producers.into("t", 100).seconds == 2500


def test_default_and_best_are_found_once(bench: Bench) -> None:
    expected = [Tuning("A", {"name": "a"}), Tuning("B", {"name": "b"}), Tuning("default", {})]
    assert tunings(bench, SYSTEM, ROWS, 100) == expected == tunings(bench, SYSTEM, ROWS, 100)
    assert [name for name, _, _ in RUNS] == ["", "a", "b", "a", "b", ""]  # in turns
    assert MADE == ["", "a", "b"]
    assert bench.sweeps.found == {"kafka rows_in 100 B": {"default": 10, "A": 30, "B": 20}}
    assert candidates(expected) == expected and [one.label for one in candidates(expected, 1)] == ["A", "default"]


def test_the_default_may_be_the_best(bench: Bench) -> None:
    assert [one.label for one in tunings(bench, SYSTEM, ROWS, 1000)] == ["default", "B", "A"]
    assert tunings(bench, SYSTEM, BATCHES, 1000) == [Tuning("default", {})]  # the only one: nothing is run


def test_other_sizes_are_swept_by_the_same_processes(bench: Bench) -> None:
    assert tunings(bench, SYSTEM, ROWS, 100, also=(1000,))[0].label == "A"
    assert tunings(bench, SYSTEM, ROWS, 1000)[0].label == "default"
    assert MADE == ["", "a", "b"]


def test_another_configuration_is_another_sweep(bench: Bench) -> None:
    tunings(bench, SYSTEM, ROWS, 100)
    tunings(bench, SYSTEM, ROWS, 100, flush_messages=1)
    assert len(MADE) == 6 and "kafka rows_in 100 B flush_messages=1" in bench.sweeps.found


def test_a_topic_is_filled_only_for_a_sweep_that_is_still_to_be_made(bench: Bench) -> None:
    filled = []

    def fill() -> tuple[str, int]:
        filled.append(1)
        return "t", 1000

    for _ in range(2):
        assert reader_tunings(bench, SYSTEM, "rows_out", 100, fill)[0].label == "A"
    assert len(filled) == 1


def rounds(*records_s: float) -> list[Rate]:
    return [Rate(one, 1.0, 100, {}) for one in records_s]


def test_the_best_is_what_the_full_rounds_say(bench: Bench) -> None:
    results = {
        Side("kafka", "rows in", "A"): rounds(10, 30, 12),
        Side("kafka", "rows in", "default"): rounds(14, 13, 1),
        Side("rayqueue", "rows in", "default"): rounds(5),
        Side("flight", "rows in", "bare", True): rounds(1),
        Side("flight", "rows in", "checked"): rounds(2),
    }
    decided = decide(results)
    assert [side.name for side in decided] == [
        "rows in, A", "rows in, default (best)", "rows in, default", "rows in, bare", "rows in, checked",
    ]  # fmt: skip
    assert [side.name for side in decide(results, "")][:2] == ["rows in, A", "rows in, default"]
    assert best_of(decided, "kafka", "rows in") == rounds(14, 13, 1)
    assert best_of(decided, "rayqueue", "rows in") == rounds(5) and best_of(decided, "flight", "rows in") == rounds(1)
    # No default, nor anything else, beats a side that is called best.
    for side in decided:
        if side.mark:
            of = [rates for other, rates in decided.items() if other[:2] == side[:2]]
            medians = [sorted(rate.records_s for rate in rates)[1] for rates in of]
            assert sorted(rate.records_s for rate in decided[side])[1] == max(medians)
    assert tunings(bench, SYSTEM, ROWS, 100)[0].label == "A"
    settle(bench, decided, "rows in", ROWS, 100)
    assert [one.label for one in tunings(bench, SYSTEM, ROWS, 100)] == ["default", "A", "B"]
