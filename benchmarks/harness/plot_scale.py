"""How figures bend as there is more of everything, from w10: a panel a curve.

`settings["curves"]` is a list of `{"title": str, "x": what is counted, such as "partitions", "unit": str,
"sides": {side: [[x, y], ...]}}`, with x > 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from benchmarks.harness.plot_style import color, marker, outcome_of, system_of
from benchmarks.harness.table import number

COLUMNS = 2
LINES = ("-", "--", ":", "-.")  # of one system's sides, in turn
# From so many times the smallest value up, an axis is logarithmic.
WIDE = 8
# Below so many times, decades alone would be too few marks.
DECADES = 200
# Of two values closer than that the smaller one is named.
APART = 1.4


def draw(figure: Any, results: dict[str, Any]) -> bool:
    """Draws a panel a curve; False when there is nothing to draw."""
    outcome = outcome_of(results, "w10")
    curves = outcome["settings"].get("curves") if outcome else None
    if not curves:
        return False
    rows = -(-len(curves) // COLUMNS)
    figure.set_size_inches(12, 1.0 + 3.9 * rows)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, curve in zip(panels, curves, strict=False):
        lines: dict[str, Iterator[str]] = {}
        for side, points in curve["sides"].items():
            line = next(lines.setdefault(system_of(side), itertools.cycle(LINES)))
            xs, ys = [x for x, _ in points], [y for _, y in points]
            style = {"color": color(side), "marker": marker(side), "linewidth": 2.5, "markersize": 9}
            axes.plot(xs, ys, line, label=_label(side, curve), **style)
        _scales(axes, curve)
        axes.set_title(curve["title"], pad=28 if len(curve["sides"]) > 1 else None)
        axes.set_xlabel(curve["x"])
        axes.set_ylabel(curve["unit"])
        axes.grid()
        if len(curve["sides"]) > 1:
            place = {"loc": "lower left", "bbox_to_anchor": (-0.03, 0.99), "ncols": len(curve["sides"])}
            axes.legend(fontsize=12, handlelength=2.2, columnspacing=1.2, borderaxespad=0, **place)
    for axes in list(figure.axes)[len(curves) :]:
        axes.set_visible(False)
    return True


def _label(side: str, curve: dict[str, Any]) -> str:
    """A side's name, without the system where it is the only one."""
    alone = len({system_of(other) for other in curve["sides"]}) == 1
    return side.partition(" ")[2] or side if alone else side


def _scales(axes: Any, curve: dict[str, Any]) -> None:
    """Logarithmic axes where values are far apart; linear ones begin at nothing."""
    points = [point for side in curve["sides"].values() for point in side]
    xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
    if xs[-1] >= WIDE * xs[0]:
        axes.set_xscale("log")
    told: list[float] = []
    for x in xs:
        if not told or x >= APART * told[-1]:
            told.append(x)
    axes.set_xticks(told, [number(x).replace(".00", "").replace(".0", "") for x in told])
    axes.minorticks_off()
    if min(ys) > 0 and max(ys) >= WIDE * min(ys):
        axes.set_yscale("log", subs=[])
        if max(ys) < DECADES * min(ys):
            axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    else:
        axes.set_ylim(min(0.0, *ys), 1.08 * max(ys) or 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
