"""The tables a run prints, and the same for a document.

A value is the median of the rounds, or, of a p99, that of all of them together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.goals import Goal
from benchmarks.harness.figures import Figure, Outcome

AIM, MUST, MISSED, UNDECIDED, NOT_MEASURED = "aim", "must", "MISSED", "UNDECIDED", "NOT MEASURED"
NOT_ASKED_FOR = "not asked for"
WIDE = 140
NUMBERS = ("value", "low", "high", "must", "aim")
NOTE = " "  # the heading of the one column that may be broken into lines
STYLES = {AIM: "green", MUST: "green", MISSED: "bold red", UNDECIDED: "bold red", NOT_MEASURED: "bold red"}


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
    """The best goal that the value and its rounds reach: "aim" or "must"; "" without a goal.

    "MISSED" when its value is on the wrong side of its must; "UNDECIDED" when too many of its rounds are.
    """
    if figure.must_reached is False:
        return UNDECIDED if figure.undecided else MISSED
    if figure.aim_reached:
        return AIM
    return MUST if figure.must_reached else ""


def goal(figure: Figure | Goal, value: float | None) -> str:
    """One of the figure's goals, with the side that is good; "" for None."""
    return "" if value is None else f"{'≥' if figure.higher_is_better else '≤'} {number(value)}"


def by_goal(outcomes: Iterable[Outcome]) -> dict[str, Figure]:
    """Key of a goal → the figure that is held against it."""
    return {figure.goal.key: figure for outcome in outcomes for figure in outcome.figures if figure.goal is not None}


def goal_rows(outcomes: Sequence[Outcome], goals: Iterable[Goal], expected: Collection[str]) -> list[tuple[str, ...]]:
    """A row for each goal, whether it was measured or not; the last cell is the verdict.

    Args:
        expected: keys of the goals that this run was to measure.
    """
    found, rows = by_goal(outcomes), []
    for one in goals:
        figure = found.get(one.key)
        if figure is not None:
            told = number(figure.value), number(figure.low), number(figure.high)
            result = verdict(figure)
        else:
            told = "", "", ""
            result = NOT_MEASURED if one.key in expected else NOT_ASKED_FOR
            if one.comes_with:
                result = f"comes with {one.comes_with}"
        rows.append((one.workload, one.what, one.unit, *told, goal(one, one.must), goal(one, one.aim), result))
    return rows


def show(outcome: Outcome, title: str, console: Console) -> None:
    """Prints a workload's figures and notes."""
    table = _table(console, title, ("", "side", "unit", "value", "low", "high", "must", "aim", "", NOTE))
    for figure in outcome.figures:
        table.add_row(
            figure.name, figure.side, figure.unit, number(figure.value), number(figure.low), number(figure.high),
            goal(figure, figure.must), goal(figure, figure.aim), verdict(figure), figure.note,
            style=STYLES.get(verdict(figure), ""),
        )  # fmt: skip
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", markup=False)
    console.print()


def show_goals(rows: Iterable[tuple[str, ...]], heading: str, console: Console) -> None:
    """Prints the one table of a run: all goals; see `goal_rows`."""
    table = _table(console, heading, ("", "", "unit", "value", "low", "high", "must", "aim", ""))
    for row in rows:
        table.add_row(*row, style=STYLES.get(row[-1], ""))
    console.print(table)
    console.print()


def _table(console: Console, title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    wide = console.width >= WIDE  # on a narrow terminal names are broken into lines, too, rather than cut
    for name in columns:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=wide and name != NOTE)
    return table


def markdown_goals(rows: Iterable[tuple[str, ...]]) -> str:
    """The one table for a document."""
    cells = []
    for workload, what, unit, value, low, high, must, aim, result in rows:
        measured = (f"**{value}**", f"{low} to {high}") if value else ("", "")
        loud = f"**{result}**" if result in (MISSED, UNDECIDED, NOT_MEASURED) else result
        cells.append((workload, what, unit, *measured, must, aim, loud))
    return _markdown(("", "what", "unit", "value", "low to high", "must", "aim", "result"), cells)


def markdown(outcome: Outcome, title: str) -> str:
    """A workload's table for a document."""
    rows = [
        (figure.name, figure.side, figure.unit, _bold(figure), _spread(figure), *_goals(figure),
         _verdict(figure), figure.note)
        for figure in outcome.figures
    ]  # fmt: skip
    columns = ("what", "side", "unit", "value", "low to high", "must", "aim", "result", "")
    notes = "".join(f"* {note}\n" for note in outcome.notes)
    return f"### {title}\n\n{_markdown(columns, rows)}\n{notes}"


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # A bar inside a cell would end it.
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _bold(figure: Figure) -> str:
    return f"**{number(figure.value)}**"


def _spread(figure: Figure) -> str:
    return f"{number(figure.low)} to {number(figure.high)}"


def _goals(figure: Figure) -> tuple[str, str]:
    return goal(figure, figure.must), goal(figure, figure.aim)


def _verdict(figure: Figure) -> str:
    found = verdict(figure)
    return f"**{found}**" if found in (MISSED, UNDECIDED) else found
