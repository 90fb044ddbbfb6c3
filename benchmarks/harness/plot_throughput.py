"""Throughput in and out: a bar a system with its best tuning, other tunings as dots on it, ceilings as lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.plot_style import color, outcome_of
from benchmarks.harness.table import number

CEILING_COLOR = "#444444"
# A ceiling this many times beyond the longest bar is named at the edge instead of squeezing the bars.
BEYOND = 1.5
GAP = 0.7  # between groups of bars, in bars
TITLE = "Each system's best tuning; dots: other tunings; lines: range of the rounds; dashed: ceilings"


@dataclass(frozen=True)
class Bar:
    """A group of bars, one a side.

    Attributes:
        label: beside them.
        workload: whose figures.
        pattern: matches the beginning of their names; the rest is a tuning. A group "variant" in it makes a side of
            its own, such as "rayqueue mapped".
    """

    label: str
    workload: str
    pattern: str


@dataclass(frozen=True)
class Panel:
    """Groups of bars on one axis.

    Attributes:
        unit: of the axis; figures in another are brought to it.
        ceilings: names of figures of the workload "ceilings" that bound these bars.
    """

    title: str
    unit: str
    bars: tuple[Bar, ...]
    ceilings: tuple[str, ...] = ()


TCP, PAGE_CACHE = "loopback TCP, 1 MiB a call", "page-cache write, 1 MiB a call"
PANELS = (
    Panel("Single records", "k records/s", (
        Bar("in, 100 B", "w1", r"rows in, (?!\d+ B)"),
        Bar("in, 1 KB", "w1", r"rows in, 1000 B, 1 producer,"),
        Bar("in, 100 B,\n4 producers", "w1", r"rows in, 100 B, 4 producers,"),
        Bar("in, 100 B,\n3 replicas", "w6", r"rows in,"),
        Bar("out, 100 B", "w2", r"rows out,"),
    )),
    Panel("Arrow batches in", "MB/s", (
        Bar("2,500 x 100 B", "w1", r"batches in, 2,500 rows a batch,"),
        Bar("10,000 x 100 B", "w1", r"batches in, 10,000 rows a batch,"),
        Bar("250 x 1 KB", "w1", r"batches of 250 KB in, 1000 B, 1 producer,"),
        Bar("2,500 x 100 B,\n4 producers", "w1", r"batches of 250 KB in, 100 B, 4 producers,"),
        Bar("2,500 x 100 B,\n3 replicas", "w6", r"batches in, 2,500 rows a batch,"),
    ), (PAGE_CACHE, TCP)),
    Panel("Arrow out, every byte touched", "GB/s", (
        Bar("100 B", "w2", r"Arrow out, (?:(?P<variant>mapped|streamed),)?"),
    ), ("memcpy", TCP)),
)  # fmt: skip
FACTORS = {"records/s": (1.0, "records"), "k records/s": (1e3, "records"), "MB/s": (1e6, "B"), "GB/s": (1e9, "B")}


def draw(figure: Any, results: dict[str, Any]) -> bool:
    """Draws a panel a unit; False when there is nothing to draw."""
    found = [(panel, [(bar, sides_of(results, bar, panel.unit)) for bar in panel.bars]) for panel in PANELS]
    found = [(panel, [(bar, sides) for bar, sides in bars if sides]) for panel, bars in found]
    found = [(panel, bars) for panel, bars in found if bars]
    if not found:
        return False
    figure.suptitle(TITLE, fontsize=13)
    counts = [sum(len(sides) + 1 for _, sides in bars) for _, bars in found]
    figure.set_size_inches(12, 1.0 + sum(0.9 + 0.36 * count for count in counts))
    panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=[2 + count for count in counts]).flat
    for axes, (panel, bars) in zip(panels, found, strict=True):
        _panel(axes, panel, bars, _ceilings(results, panel))
    return True


def sides_of(results: dict[str, Any], bar: Bar, unit: str) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Side → (median in `unit`, figure) of each of its tunings, the best first."""
    outcome = outcome_of(results, bar.workload)
    sides: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for one in outcome["figures"] if outcome else []:
        match = re.match(bar.pattern, one["name"])
        if match and FACTORS.get(one["unit"], (0, ""))[1] == FACTORS[unit][1]:
            side = f"{one['side']} {match.groupdict().get('variant') or ''}".strip()
            sides.setdefault(side, []).append((_converted(one["median"], one["unit"], unit), one))
    return {side: sorted(found, key=lambda pair: -pair[0]) for side, found in sides.items()}


def _ceilings(results: dict[str, Any], panel: Panel) -> list[tuple[str, float]]:
    outcome = outcome_of(results, "ceilings")
    return [
        (one["name"].partition(",")[0], _converted(one["median"], one["unit"], panel.unit))
        for one in (outcome["figures"] if outcome else [])
        if one["name"] in panel.ceilings
    ]


def _panel(axes: Any, panel: Panel, bars: list[tuple[Bar, dict[str, Any]]], ceilings: list[tuple[str, float]]) -> None:
    longest = max(found[0][0] for _, sides in bars for found in sides.values())
    row, ticks = 0.0, []
    for bar, sides in bars:
        first = row
        for side, found in sides.items():
            _bar(axes, row, side, found, panel.unit)
            row += 1
        ticks.append(((first + row - 1) / 2, bar.label))
        row += GAP
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(row - GAP - 0.4, -0.6)
    inside = [(name, value) for name, value in ceilings if value <= BEYOND * longest]
    axes.set_xlim(0, 1.25 * max([longest, *(value for _, value in inside)]))
    for name, value in inside:
        axes.axvline(value, color=CEILING_COLOR, linestyle="--", linewidth=1.5)
        axes.annotate(f" {name}", (value, 0), xycoords=("data", "axes fraction"), fontsize=11, va="bottom")
    beyond = [f"{name} {number(value)}" for name, value in ceilings if value > BEYOND * longest]
    told = f"   (ceilings beyond the axis: {', '.join(beyond)} {panel.unit})" if beyond else ""
    axes.set_title(panel.title)
    axes.set_xlabel(panel.unit + told, fontsize=12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="x")


def _bar(axes: Any, row: float, side: str, found: list[Any], unit: str) -> None:
    """The best tuning with the range of its rounds and its value, the others as dots."""
    median, best = found[0]
    low, high = (_converted(best[key], best["unit"], unit) for key in ("low", "high"))
    axes.barh(row, median, height=0.86, color=color(side))
    axes.plot([low, high], [row, row], color="black", linewidth=1.5)
    others = [value for value, _ in found[1:]]
    axes.plot(others, [row] * len(others), "o", color="white", markeredgecolor="black", markersize=8)
    text = f"{side} {number(median)}"
    axes.annotate(
        text, (max(high, median), row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=12,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _converted(value: float, unit: str, wanted: str) -> float:
    return value * FACTORS[unit][0] / FACTORS[wanted][0]
