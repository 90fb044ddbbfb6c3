"""Every workload of the benchmarks runs, tiny, against a cluster in this process and without peers, so that none rots.

No timings. `tests/integration/test_benchmarks_interrupted.py` starts the real command.
"""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import cli
from benchmarks.harness import plot_throughput, rayqueue_system
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.plot_latency import panels_of, percentiles
from benchmarks.harness.table import markdown, show
from benchmarks.workloads import TITLES, WORKLOADS
from tests.unit.benchmarks.inline import InlineLoad

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Outcome]]:
    """Runs a workload, once for all tests."""
    directory: Path = tmp_path_factory.mktemp("benchmarks")
    with rayqueue_system.in_process(directory / "data") as system:
        bench = Bench([system], directory, cli.SMOKE, InlineLoad, Console(quiet=True))
        yield functools.cache(lambda name: WORKLOADS[name](bench))


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_runs(outcome_of: Callable[[str], Outcome], name: str) -> None:
    outcome = outcome_of(name)

    assert outcome.workload == name
    assert outcome.figures and all(figure.samples for figure in outcome.figures)
    json.dumps(outcome.to_dict())
    console = Console(record=True, file=io.StringIO(), width=200, markup=False)
    show(outcome, TITLES[name], console)
    assert outcome.figures[0].name in console.export_text()
    assert outcome.figures[0].name in markdown(outcome, TITLES[name])


BARS = [(bar, panel.unit) for panel in plot_throughput.PANELS for bar in panel.bars]


@pytest.mark.parametrize(("bar", "unit"), BARS, ids=[f"{bar.workload}-{bar.pattern}" for bar, _ in BARS])
def test_bars_of_the_plot_find_their_figures(
    outcome_of: Callable[[str], Outcome], bar: plot_throughput.Bar, unit: str
) -> None:
    found = plot_throughput.sides_of({"outcomes": [outcome_of(bar.workload).to_dict()]}, bar, unit)
    assert any(side.startswith("rayqueue") for side in found)


def test_the_plot_of_latencies_finds_its_histograms(outcome_of: Callable[[str], Outcome]) -> None:
    panels = panels_of({"outcomes": [outcome_of(name).to_dict() for name in ("w4", "w6")]})
    assert "1,000 records/s" in panels and "1,000 records/s, three replicas" in panels
    for sides in panels.values():
        assert percentiles([one["histogram"] for one in sides["rayqueue"]])


def test_the_plot_of_scale_finds_its_curves(outcome_of: Callable[[str], Outcome]) -> None:
    for curve in outcome_of("w10").settings["curves"]:
        assert curve["title"] and curve["x"] and curve["unit"]
        assert all(x > 0 and y == y for points in curve["sides"].values() for x, y in points)
        assert any(side.startswith("rayqueue") for side in curve["sides"])
