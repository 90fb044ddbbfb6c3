"""Latency by percentile, a panel a rate, from the HDR histograms of w4 and w6: all rounds of a side in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.latency import pooled
from benchmarks.harness.plot_style import color, line, outcome_of

PERCENTILES = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99)
TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
US_PER_MS = 1000
COLUMNS = 2


def draw(figure: Any, results: dict[str, Any]) -> bool:
    """Draws a line a side; False when there is nothing to draw."""
    rates = panels_of(results)
    if not rates:
        return False
    rows = -(-len(rates) // COLUMNS)
    figure.set_size_inches(12, 1.2 + 3.9 * rows)
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    handles: dict[str, Any] = {}
    last = 0.0
    for axes, (rate, sides) in zip(panels, rates.items(), strict=False):
        axes.set_yscale("log")
        for side, rounds in sides.items():
            curve = percentiles([one["histogram"] for one in rounds if "histogram" in one])
            if curve:
                xs, ys = [_nines(percentile) for percentile, _ in curve], [ms for _, ms in curve]
                last = max(last, xs[-1])
                (handles[side],) = axes.plot(xs, ys, line(side), color=color(side), linewidth=2.5, label=side)
        axes.set_title(rate)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(which="major")
    told = [tick for tick in TICKS if _nines(tick) <= last + 0.01]
    figure.axes[0].set_xticks([_nines(tick) for tick in told], [f"{tick:g}" for tick in told])
    for axes in list(figure.axes)[len(rates) :]:
        axes.set_visible(False)
    for axes in figure.axes[-COLUMNS:]:
        axes.set_xlabel("percentile")
    for axes in figure.axes[::COLUMNS]:
        axes.set_ylabel("ms, log scale")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(5, len(handles)))
    return True


def panels_of(results: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Title of a panel → side → its rounds."""
    panels = {}
    for workload, more in (("w4", ""), ("w6", ", three replicas")):
        outcome = outcome_of(results, workload)
        for rate, sides in (outcome["settings"].get("rounds") or {}).items() if outcome else ():
            panels[f"{rate.removesuffix('/s')} records/s{more}"] = sides
    return panels


def percentiles(histograms: Sequence[str]) -> list[tuple[float, float]]:
    """(percentile, ms) of all of them together, as far as there are records to tell a percentile from the longest."""
    if not histograms:
        return []
    whole = pooled(histograms)
    count = whole.get_total_count()
    told = [one for one in PERCENTILES if one <= 50 or count * (1 - one / 100) >= 1]
    return [(one, max(1, whole.get_value_at_percentile(one)) / US_PER_MS) for one in told]


def _nines(percentile: float) -> float:
    """Where a percentile stands on the axis: each nine takes as much room as the one before."""
    return -math.log10(1 - percentile / 100)
