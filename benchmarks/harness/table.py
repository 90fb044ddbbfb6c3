"""The table a run prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.harness.figures import Figure, Outcome


def number(value: float) -> str:
    """Three significant digits or so, thousands apart."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.3g}"


def goal(figure: Figure) -> str:
    """The goal and whether it was reached, or ""."""
    if figure.goal is None:
        return ""
    sign = "≥" if figure.higher_is_better else "≤"
    return f"{sign} {number(figure.goal)}: {'reached' if figure.reached else 'NOT REACHED'}"


def show(outcome: Outcome, console: Console) -> None:
    """Prints a workload's figures and notes."""
    table = Table(title=outcome.workload, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("", "unit", "median", "low", "high", "goal", ""):
        table.add_column(name, justify="right" if name in ("median", "low", "high") else "left")
    for figure in outcome.figures:
        table.add_row(
            figure.name, figure.unit, number(figure.median), number(figure.low), number(figure.high),
            goal(figure), figure.note,
        )  # fmt: skip
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", highlight=False, markup=False)
    console.print()


def markdown(outcome: Outcome) -> str:
    """The same for a document."""
    lines = [f"### {outcome.workload}", "", "| | unit | median | low to high | goal |", "|---|---|---|---|---|"]
    for figure in outcome.figures:
        spread = f"{number(figure.low)} to {number(figure.high)}"
        lines.append(f"| {figure.name} | {figure.unit} | {number(figure.median)} | {spread} | {goal(figure)} |")
    return "\n".join([*lines, "", *outcome.notes, ""])
