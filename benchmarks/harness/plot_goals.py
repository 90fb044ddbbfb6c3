"""All that is held against a goal, on one axis: how many times better than its must each figure is."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.plot_style import COLORS
from benchmarks.harness.table import number

DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000, 10_000)
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
WIDE = 40  # from so many times the smallest value up, decades only
MUST_COLOR, AIM_COLOR = "#444444", "#009E73"


def draw(figure: Any, results: dict[str, Any]) -> bool:
    """Draws a line a figure, from its lowest to its highest round; False when there is nothing to draw."""
    found = [(outcome["workload"], one) for outcome in results["outcomes"] for one in outcome["figures"] if one["must"]]
    if not found:
        return False
    figure.set_size_inches(12, 1.9 + 0.42 * len(found))
    axes = figure.subplots()
    axes.set_xscale("log")
    for row, (_, one) in enumerate(reversed(found)):
        missed = one["must_reached"] is False
        color = COLORS["kafka"] if missed else COLORS["rayqueue"]
        low, high = sorted((_times(one, one["low"]), _times(one, one["high"])))
        axes.plot([low, high], [row, row], color=color, linewidth=3, alpha=0.45, solid_capstyle="round")
        axes.plot(_times(one, one["value"]), row, "X" if missed else "o", color=color, markersize=11, zorder=3)
        unit = "" if one["unit"] == "ratio" else f" {one['unit']}"
        sign = ">=" if one["higher_is_better"] else "<="
        told = f"{number(one['value'])}{unit}  ({sign} {one['must']:g})"
        axes.annotate(told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=12)
        if one["aim"]:
            axes.plot(_times(one, one["aim"]), row, "|", color=AIM_COLOR, markersize=18, markeredgewidth=3)
    axes.axvline(1, color=MUST_COLOR, linewidth=1.5)
    axes.set_yticks(range(len(found)), [f"{workload}  {one['name']}" for workload, one in reversed(found)], fontsize=12)
    axes.set_ylim(-0.7, len(found) - 0.3)
    low, high = axes.get_xlim()
    ticks = [tick for tick in (DECADES if high > WIDE * low else TICKS) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x")
    axes.set_xlabel("times better than its must (the line); green bar: its aim")
    figure.suptitle("Held against the goals: median and range of the rounds", fontweight="bold")
    return True


def _times(one: dict[str, Any], value: float) -> float:
    """How many times better than the must a value is."""
    tiny = 1e-9  # a cost may be nothing
    must, value = max(one["must"], tiny), max(value, tiny)
    return float(value / must if one["higher_is_better"] else must / value)
