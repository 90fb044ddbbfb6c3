"""The plots are drawn from a run's results, twice the same, and leave no older ones behind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goals import GOALS
from benchmarks.harness import plot_throughput, plots
from benchmarks.harness.figures import Outcome
from benchmarks.harness.latency import summary
from benchmarks.harness.plot_latency import percentiles

NAMES = [f"{name}.{kind}" for name in ("goals", "latency", "scale", "throughput") for kind in ("png", "svg")]
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib comes with the extra bench"
)


def results(*outcomes: Outcome) -> dict[str, Any]:
    return {
        "outcomes": [outcome.to_dict() for outcome in outcomes],
        "machine": {"cpu": "a processor", "cores": 2, "data_dir": {"file_system": "ext4"}},
        "began": "2026-11-22T10:00:00Z", "smoke": False, "interrupted": False, "incomplete": True,
    }  # fmt: skip


@pytest.fixture
def full() -> dict[str, Any]:
    ceilings, w1, w2, w4, w10 = (Outcome(name) for name in ("ceilings", "w1", "w2", "w4", "w10"))
    ceilings.add("memcpy", "GB/s", [16.0], side="machine")
    w1.add("rows in, default", "records/s", [9e5, 1e6])
    w1.add("rows in, linger 5, batch 1 MiB (best)", "records/s", [1.2e6, 1.3e6])
    w1.add("rows in, 1000 B, 1 producer, default", "records/s", [4e5])
    w1.add("rows in, default", "records/s", [5e5], side="kafka")
    w1.ratio("rows in: to Kafka", [2.0], [1.0], GOALS["rows_in"])
    w1.add("a cost of nothing", "s", [0.0], GOALS["created"])
    w2.add("Arrow out, mapped, default", "MB/s", [4000.0])
    w2.add("Arrow out, default", "MB/s", [1000.0], side="kafka")
    rounds = [summary([1_000_000 * n for n in range(1, 200)]), {"p50": 1.0, "lost": "no answer"}]
    w4.settings["rounds"] = {"100/s": {"rayqueue": rounds, "kafka": rounds}, "1,000/s": {"rayqueue": rounds}}
    curve = {"title": "Memory", "x": "partitions", "unit": "MiB", "sides": {"rayqueue": [[1, 10], [1000, 90]]}}
    w10.settings["curves"] = [curve]
    return results(ceilings, w1, w2, w4, w10)


def drawn(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "plots").iterdir())


@needs_matplotlib
def test_every_plot_is_drawn_and_is_the_same_again(full: dict[str, Any], tmp_path: Path) -> None:
    assert plots.draw(full, tmp_path / "one") == plots.draw(full, tmp_path / "two") == []
    assert drawn(tmp_path / "one") == drawn(tmp_path / "two") == NAMES
    for name in NAMES:
        one, two = (tmp_path / run / "plots" / name for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@needs_matplotlib
def test_what_has_no_data_is_not_drawn_and_not_left_from_before(full: dict[str, Any], tmp_path: Path) -> None:
    plots.draw(full, tmp_path)
    full["outcomes"] = [one for one in full["outcomes"] if one["workload"] == "w4"]
    plots.draw(full, tmp_path)
    assert drawn(tmp_path) == ["latency.png", "latency.svg"]
    plots.draw(results(Outcome("w4"), Outcome("w10")), tmp_path)
    assert drawn(tmp_path) == []


def test_without_matplotlib_there_is_a_line(
    full: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (line,) = plots.draw(full, tmp_path)
    assert "pip install" in line
    assert not (tmp_path / "plots").exists()


def test_a_bar_is_the_best_tuning_and_variants_are_sides(full: dict[str, Any]) -> None:
    bars = {bar.label: (bar, panel.unit) for panel in plot_throughput.PANELS for bar in panel.bars}
    rows = plot_throughput.sides_of(full, *bars["in, 100 B"])
    assert {side: [median for median, _ in found] for side, found in rows.items()} == {
        "rayqueue": [1250.0, 950.0], "kafka": [500.0],
    }  # fmt: skip
    assert list(plot_throughput.sides_of(full, *bars["in, 1 KB"])) == ["rayqueue"]
    arrow = plot_throughput.sides_of(full, *bars["100 B"])
    assert {side: found[0][0] for side, found in arrow.items()} == {"rayqueue mapped": 4.0, "kafka": 1.0}


def test_percentiles_are_those_of_all_rounds_together() -> None:
    fast, slow = (summary([ms * 1_000_000] * 50)["histogram"] for ms in (1, 10))
    found = dict(percentiles([fast, slow]))
    assert found[25.0] == pytest.approx(1.0, rel=1e-3) and found[90.0] == pytest.approx(10.0, rel=1e-3)
    assert 99.0 in found and 99.9 not in found  # of a hundred records no 99.9th percentile can be told
    assert percentiles([]) == []
