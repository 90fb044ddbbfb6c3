"""Plots of a run's results, as PNG and SVG: goals, throughput, latency, scale. Needs matplotlib, of the extra `bench`.

They are drawn from what `Report.to_dict()` holds, so that `python -m benchmarks.harness.plots RESULTS_JSON DIRECTORY`
draws them again. What they ask of workloads:

* throughput: figures in records/s, MB/s or GB/s whose names begin with one of `plot_throughput.BARS`; the rest of the
  name is a tuning. A bar is a side's best tuning, the others are dots on it.
* latency: w4's `settings["rounds"]`: rate → side → rounds as `latency.summary` gives them, with their histograms.
* scale: see `plot_scale`.
* goals: all figures with a must or an aim.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import plot_goals, plot_latency, plot_scale, plot_throughput

Results = dict[str, Any]

DIRECTORY = "plots"
DOTS_PER_INCH = 130
PLOTS: dict[str, Callable[[Any, Results], bool]] = {
    "goals": plot_goals.draw,
    "throughput": plot_throughput.draw,
    "latency": plot_latency.draw,
    "scale": plot_scale.draw,
}
# Large enough to be read where a page shows the plot at half its size; the same bytes for the same results.
STYLE: Any = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "rayqueue",
}


def draw(results: Results, out: Path) -> list[str]:
    """Draws what the results have data for into `plots/` there, and removes older plots; returns lines to say."""
    directory = out / DIRECTORY
    for name in PLOTS:
        for kind in ("png", "svg"):
            (directory / f"{name}.{kind}").unlink(missing_ok=True)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return ["No plots: matplotlib is not installed (pip install 'rayqueue[bench]', or make bench)."]
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        for name, draw_one in PLOTS.items():
            figure = Figure(layout="constrained")
            if draw_one(figure, results):
                _foot(figure, results)
                figure.savefig(directory / f"{name}.png", dpi=DOTS_PER_INCH)
                figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    return []


def _foot(figure: Any, results: Results) -> None:
    """Says below where the figures come from, and why they may mean less than they seem to."""
    found = results["machine"]
    marks = {"smoke": "SMOKE: no figure means anything", "interrupted": "INTERRUPTED", "incomplete": "INCOMPLETE"}
    warnings = [text for key, text in marks.items() if results[key]]
    where = f"{found['cpu']}, {found['cores']} cores, {found['data_dir']['file_system']}, {results['began'][:10]}"
    figure.supxlabel(" · ".join([where, *warnings]), fontsize=11, color="#666666", x=0.01, ha="left")


def main(arguments: list[str]) -> None:
    """Draws the plots of a results.json again."""
    results, out = arguments
    for line in draw(json.loads(Path(results).read_text()), Path(out)):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
