"""The tables a run prints, and the same for a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.harness.figures import Figure, Outcome

AIM, MUST, MISSED, BELOW_AIM = "aim", "must", "MISSED", "below aim"
WIDE = 140
NUMBERS = ("median", "low", "high", "must", "aim")
NOTE = " "  # the heading of the one column that may be broken into lines
STYLES = {AIM: "green", MUST: "green", MISSED: "bold red", BELOW_AIM: "yellow"}


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


def verdict(figure: Figure) -> str:
    """The best goal that the median reaches: "aim" or "must"; "MISSED" when it is below its must; "" without goals."""
    if figure.must_reached is False:
        return MISSED
    if figure.aim_reached:
        return AIM
    if figure.must_reached:
        return MUST
    return "" if figure.aim is None else BELOW_AIM


def goal(figure: Figure, value: float | None) -> str:
    """One of the figure's goals, with the side that is good; "" for None."""
    return "" if value is None else f"{'≥' if figure.higher_is_better else '≤'} {number(value)}"


def with_goals(outcomes: Iterable[Outcome]) -> list[tuple[str, Figure]]:
    """All figures that have a must or an aim, with the names of their workloads."""
    return [
        (outcome.workload, figure)
        for outcome in outcomes
        for figure in outcome.figures
        if figure.must is not None or figure.aim is not None
    ]


def show(outcome: Outcome, title: str, console: Console) -> None:
    """Prints a workload's figures and notes."""
    table = _table(console, title, ("", "side", "unit", "median", "low", "high", "must", "aim", "", NOTE))
    for figure in outcome.figures:
        table.add_row(
            figure.name, figure.side, figure.unit, number(figure.median), number(figure.low), number(figure.high),
            goal(figure, figure.must), goal(figure, figure.aim), verdict(figure), figure.note,
            style=STYLES.get(verdict(figure), ""),
        )  # fmt: skip
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", markup=False)
    console.print()


def show_goals(outcomes: Sequence[Outcome], heading: str, console: Console) -> None:
    """Prints the one table of a run: every figure that is held against a goal."""
    table = _table(console, heading, ("", "", "unit", "median", "low", "high", "must", "aim", ""))
    for workload, figure in with_goals(outcomes):
        table.add_row(
            workload, figure.name, figure.unit, number(figure.median), number(figure.low), number(figure.high),
            goal(figure, figure.must), goal(figure, figure.aim), verdict(figure),
            style=STYLES.get(verdict(figure), ""),
        )  # fmt: skip
    console.print(table)
    console.print()


def _table(console: Console, title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    wide = console.width >= WIDE  # on a narrow terminal names are broken into lines, too, rather than cut
    for name in columns:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=wide and name != NOTE)
    return table


def markdown_goals(outcomes: Sequence[Outcome]) -> str:
    """The one table for a document."""
    rows = [
        (workload, figure.name, figure.unit, _bold(figure), _spread(figure), *_goals(figure), _verdict(figure))
        for workload, figure in with_goals(outcomes)
    ]
    return _markdown(("", "what", "unit", "median", "low to high", "must", "aim", "result"), rows)


def markdown(outcome: Outcome, title: str) -> str:
    """A workload's table for a document."""
    rows = [
        (figure.name, figure.side, figure.unit, _bold(figure), _spread(figure), *_goals(figure),
         _verdict(figure), figure.note)
        for figure in outcome.figures
    ]  # fmt: skip
    columns = ("what", "side", "unit", "median", "low to high", "must", "aim", "result", "")
    notes = "".join(f"* {note}\n" for note in outcome.notes)
    return f"### {title}\n\n{_markdown(columns, rows)}\n{notes}"


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # A bar inside a cell would end it.
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _bold(figure: Figure) -> str:
    return f"**{number(figure.median)}**"


def _spread(figure: Figure) -> str:
    return f"{number(figure.low)} to {number(figure.high)}"


def _goals(figure: Figure) -> tuple[str, str]:
    return goal(figure, figure.must), goal(figure, figure.aim)


def _verdict(figure: Figure) -> str:
    return f"**{MISSED}**" if verdict(figure) == MISSED else verdict(figure)
