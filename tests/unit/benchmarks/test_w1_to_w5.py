"""W1, W2, W3, W5: which figures they make of what the loads tell, and that readers of other bytes fail them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.accounting import CpuMeter
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import RATIO, Outcome
from benchmarks.workloads import w1_produce, w2_consume, w3_both, w5_fsync
from tests.unit.benchmarks.inline import RolesSystem, bench_of

# Records a second, by system and role.
SPEED: dict[tuple[str, str], float] = {}
SUMS: dict[str, int] = {}
CONFIGS: list[dict[str, Any]] = []


class Rows:
    """Produces as fast as the test says."""

    role = "rows_in"

    def __init__(self, client: dict[str, Any]) -> None:
        self._name = client["name"]

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        speed = SPEED[self._name, self.role]
        records = min(records_max, speed)
        return {"records": records, "seconds": records / speed}

    def close(self) -> None:
        """Nothing is open."""


class Batches(Rows):
    """The same by batches; those of more than 2,500 rows twice as fast."""

    role = "batches_in"

    def run(self, topic: str, rows: int, value_bytes: int, seconds: float, bytes_max: int) -> dict[str, float]:  # type: ignore[override]
        found = super().run(topic, value_bytes, seconds, bytes_max // value_bytes)
        return {**found, "seconds": found["seconds"] / (2 if rows > 2500 else 1)}


class Lists(Rows):
    role = "rows_in_batches"


class Reader(Rows):
    """Reads as fast as the test says, and finds the sum that it says."""

    role = "rows_out"

    def __init__(self, client: dict[str, Any], topic: str, num_messages: int = 500, check_crcs: bool = False) -> None:
        super().__init__(client)
        self._slower = 4 if num_messages == 1 else 2 if check_crcs else 1

    def run(self, records: int) -> dict[str, float]:  # type: ignore[override]
        seconds = records / SPEED[self._name, self.role] * self._slower
        return {"records": records, "seconds": seconds, "sum": SUMS[self._name]}


class Mapped(Reader):
    role = "arrow_out"


class Streamed(Reader):
    role = "arrow_out_streamed"


class Items(Rows):
    """Puts and gets items."""

    role = "awaited"

    def __init__(self, client: dict[str, Any], topic: str, batch: int = 1) -> None:
        super().__init__(client)
        self._faster = 100 if batch > 1 else 1

    def awaited(self, count: int) -> dict[str, float]:
        return {"seconds": count / SPEED[self._name, "awaited"]}

    def pipelined(self, count: int) -> dict[str, float]:
        return {"seconds": count / SPEED[self._name, "pipelined"] / self._faster}


class System(RolesSystem):
    """Notes how its topics are made."""

    def topic(self, partitions: int = 1, **config: Any) -> Any:
        CONFIGS.append({"system": self.name, "partitions": partitions, **config})
        return super().topic(partitions, **config)


OUT = {"rows_out": Reader, "arrow_out": Mapped}
ROLES = {"rows_in": Rows, "batches_in": Batches, **OUT, "arrow_out_streamed": Streamed, "one_by_one": Items}
TUNINGS = {"rows_out": {"default": {}, "poll()": {"num_messages": 1}}}
RAYQUEUE, KAFKA = System("rayqueue", ROLES, TUNINGS), System("kafka", {**ROLES, "rows_in_batches": Lists})
QUEUE = System(
    "ray.util.queue", {"one_by_one": Items}, {"one_by_one": {"default": {}, "1,000 in a call": {"batch": 1000}}}
)
NATS = System("nats", {"rows_in": Rows, "rows_out": Reader})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Loads in this process have no CPU of their own.
    monkeypatch.setattr(CpuMeter, "used", lambda meter: {"clients": 1.0})
    SPEED.update({(name, role): 1000.0 for name in ("rayqueue", "kafka", "nats") for role in ROLES})
    SPEED["kafka", "rows_in_batches"] = 2000.0
    for name, awaited, pipelined in (("rayqueue", 6000.0, 50_000.0), ("kafka", 1.0, 1.0), ("ray.util.queue", 1e3, 2e3)):
        SPEED[name, "awaited"], SPEED[name, "pipelined"] = awaited, pipelined
    SUMS.update(rayqueue=7, kafka=7, nats=9)
    CONFIGS.clear()
    return bench_of(tmp_path, RAYQUEUE, KAFKA, NATS, QUEUE)


def ratio(outcome: Outcome, name: str) -> tuple[list[float], float | None, float | None]:
    """Samples, must and aim of a ratio."""
    (found,) = [one for one in outcome.figures if one.side == RATIO and one.name == name]
    return [round(sample, 6) for sample in found.samples], found.must, found.aim


def test_producing_is_held_against_rows_and_batches_of_kafka(bench: Bench) -> None:
    SPEED.update({("rayqueue", "rows_in"): 3e3, ("rayqueue", "batches_in"): 8e3, ("kafka", "batches_in"): 2e3})
    outcome = w1_produce.run(bench)
    assert ratio(outcome, "rows in, 100 B: to Kafka's produce()") == ([3, 3], 1.2, 2)
    assert ratio(outcome, "rows in, 100 B: to Kafka's produce_batch()") == ([1.5, 1.5], None, None)
    assert ratio(outcome, "batches in, 2,500 rows a batch, 100 B: to Kafka's best rows") == ([4, 4], 6, 12)
    assert ratio(outcome, "batches in, 2,500 rows a batch, 100 B: to Kafka with Arrow") == ([4, 4], 2, 4)
    big = "batches in, 10,000 rows a batch, 100 B: to Kafka with Arrow"
    assert ratio(outcome, f"{big}, 2,500 rows a batch") == ([8, 8], None, None)
    assert ratio(outcome, f"{big}, as many") == ([4, 4], None, None)
    assert ratio(outcome, "rows in, 1000 B, 4 producers: to Kafka") == ([3, 3], None, None)
    assert ratio(outcome, "batches of 250 KB in, 100 B, 4 producers: to Kafka with Arrow") == ([4, 4], None, None)
    assert ratio(outcome, "items one by one, awaited: to ray.util.queue (`put`, `get`)") == ([6, 6], 5, 10)
    one_a_call = "items one by one, pipelined: to ray.util.queue (`put_async`, one item a call)"
    assert ratio(outcome, one_a_call) == ([25, 25], 100, 1000)
    many = "items one by one, pipelined: to ray.util.queue (`put_nowait_batch`, 1,000 in a call)"
    assert ratio(outcome, many) == ([0.25, 0.25], None, None)
    missed = ["batches in, 2,500 rows a batch, 100 B: to Kafka's best rows", one_a_call]
    assert [one.name for one in outcome.missed] == missed
    assert {one["partitions"] for one in CONFIGS} == {1, 4}
    assert not [one for one in CONFIGS if "flush_messages" in one]


def test_consuming_is_held_against_the_best_of_kafka(bench: Bench) -> None:
    speeds = {"rows_out": 4e3, "arrow_out": 5e3, "arrow_out_streamed": 9e2}
    SPEED.update({("rayqueue", role): speed for role, speed in speeds.items()})
    outcome = w2_consume.run(bench)
    assert ratio(outcome, "Arrow out, mapped: to Kafka with Arrow") == ([5, 5], 3, 10)
    assert ratio(outcome, "Arrow out, streamed: to Kafka with Arrow") == ([0.9, 0.9], 0.8, 1.2)
    assert ratio(outcome, "rows out, consume(500): to Kafka") == ([4, 4], 2, 4)
    assert ratio(outcome, "rows out, poll(): to Kafka") == ([1, 1], None, None)
    assert ratio(outcome, "rows out, consume(500): to Kafka, CRCs checked") == ([8, 8], None, None)
    assert ratio(outcome, "Arrow out, mapped: to Kafka with Arrow, CRCs checked") == ([10, 10], None, None)
    assert [one.side for one in outcome.figures if one.name == "rows out, default"] == ["rayqueue", "kafka", "nats"]


def test_readers_of_other_bytes_fail_the_workload(bench: Bench) -> None:
    SUMS["kafka"] = 8
    with pytest.raises(AssertionError, match="the sums of .* records differ: {'rayqueue': 7, 'kafka': 8}"):
        w2_consume.run(bench)


def test_both_at_once_counts_what_was_read(bench: Bench) -> None:
    SPEED["rayqueue", "arrow_out"], SPEED["rayqueue", "rows_out"] = 3e3, 2e3
    outcome = w3_both.run(bench)
    assert ratio(outcome, "batches through, mapped: to Kafka with Arrow") == ([3, 3], None, None)
    assert ratio(outcome, "batches through, streamed: to Kafka with Arrow") == ([1, 1], None, None)
    assert ratio(outcome, "rows through: to Kafka") == ([2, 2], None, None)
    assert {one.side for one in outcome.figures} == {"rayqueue", "kafka", RATIO}
    assert CONFIGS and {one["partitions"] for one in CONFIGS if one["system"] == "kafka"} == {8}


def test_with_fsync_every_topic_asks_for_it(bench: Bench) -> None:
    SPEED["rayqueue", "rows_in"] = 5e3
    outcome = w5_fsync.run(bench)
    assert ratio(outcome, "rows in, fsync: to Kafka") == ([5, 5], None, None)
    assert ratio(outcome, "batches in, fsync: to Kafka with Arrow") == ([1, 1], None, None)
    assert CONFIGS and all(one["flush_messages"] == 1 for one in CONFIGS)
    assert "nats" not in {one.side for one in outcome.figures}


@pytest.mark.parametrize("workload", [w1_produce, w2_consume, w3_both, w5_fsync])
def test_without_kafka_nothing_is_held_against_it(tmp_path: Path, bench: Bench, workload: Any) -> None:
    outcome = workload.run(bench_of(tmp_path, RAYQUEUE))
    assert outcome.figures and not outcome.missed
    assert not [one for one in outcome.figures if "Kafka" in one.name]
