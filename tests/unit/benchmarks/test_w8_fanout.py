"""W8: what readers get together, and readers that see different data fail it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.figures import RATIO
from benchmarks.workloads import w8_fanout
from tests.unit.benchmarks.inline import RolesSystem, bench_of

# Seconds of a pass and the sum found, by the system's name; who ran.
TAKES: dict[str, tuple[float, int]] = {}
RAN: list[str] = []


class Producer:
    """Takes whatever it is given."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._name = client["name"]

    def run(self, topic: str, rows: int, value_bytes: int, seconds: float, bytes_max: int) -> dict[str, float]:
        return {"records": bytes_max // value_bytes, "seconds": 1.0}

    def close(self) -> None:
        """Nothing is open."""


class Reader(Producer):
    """Finds the sum and takes the time that the test says."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        super().__init__(client)

    def run(self, records: int) -> dict[str, float]:  # type: ignore[override]
        RAN.append(self._name)
        seconds, total = TAKES[self._name]
        return {"records": records, "seconds": seconds, "sum": total}


ROLES = {"batches_in": Producer, "arrow_out": Reader, "arrow_out_streamed": Reader}
RAYQUEUE, KAFKA = RolesSystem("rayqueue", ROLES), RolesSystem("kafka", ROLES)


def test_readers_together(tmp_path: Path) -> None:
    TAKES.update(rayqueue=(0.5, 42), kafka=(1.0, 42))
    RAN.clear()
    bench = bench_of(tmp_path, RAYQUEUE, KAFKA)
    outcome = w8_fanout.run(bench)

    figures = {(one.side, one.name): one.samples for one in outcome.figures}
    assert RAN.count("kafka") == bench.scale.repeats * (1 + 3 + 10)
    for readers, many in ((1, "1 reader"), (3, "3 readers"), (10, "10 readers")):
        expected = readers * outcome.settings["records"][readers] * 100 / 1e9
        assert figures["kafka", f"{many}: all together"] == pytest.approx([expected] * 2)
        assert figures["rayqueue", f"{many}, mapped: all together"] == pytest.approx([expected / 0.5] * 2)
        for how in ("mapped", "streamed"):
            assert figures[RATIO, f"{many}, {how}: to Kafka with Arrow"] == pytest.approx([2.0, 2.0])


def test_readers_that_see_different_data(tmp_path: Path) -> None:
    TAKES.update(rayqueue=(0.5, 42), kafka=(1.0, 41))
    with pytest.raises(AssertionError, match="readers saw different data"):
        w8_fanout.run(bench_of(tmp_path, RAYQUEUE, KAFKA))


def test_without_kafka_there_are_no_ratios(tmp_path: Path) -> None:
    TAKES.update(rayqueue=(0.5, 42))
    outcome = w8_fanout.run(bench_of(tmp_path, RAYQUEUE))
    assert not [one for one in outcome.figures if one.side == RATIO]
    assert "no ratios: Kafka was not started" in outcome.notes
