"""The tables: goals, verdicts, short numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.goals import Goal
from benchmarks.harness.figures import Figure, Outcome
from benchmarks.harness.table import goal, goal_rows, markdown, markdown_goals, number, show, show_goals, verdict

GOAL = Goal("rows_in", "rows in", "w1", 3, 4)


def printed(console: Console) -> list[str]:
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def console() -> Console:
    return Console(record=True, file=io.StringIO(), width=200, markup=False)


@pytest.mark.parametrize(
    ("sample", "must", "aim", "higher_is_better", "expected"),
    [
        (2.0, 1.5, 3.0, True, "must"),
        (3.0, 1.5, 3.0, True, "aim"),
        (1.4, 1.5, 3.0, True, "MISSED"),
        (0.4, 0.5, 0.3, False, "must"),
        (0.3, 0.5, 0.3, False, "aim"),
        (0.6, 0.5, 0.3, False, "MISSED"),
        (1.5, 1.5, None, True, "must"),
        (0.7, None, None, True, ""),
    ],
)
def test_the_verdict_is_the_best_goal_that_is_reached(
    sample: float, must: float | None, aim: float | None, higher_is_better: bool, expected: str
) -> None:
    goal = None if must is None else Goal("x", "x", "w1", must, aim, higher_is_better=higher_is_better)
    assert verdict(Figure("x", "ratio", [sample], goal, higher_is_better)) == expected


@pytest.mark.parametrize(
    ("samples", "pooled", "expected"),
    [
        ([2, 2, 2, 2, 1], None, "must"),
        ([2, 2, 2, 1, 1], None, "UNDECIDED"),
        ([3, 3, 3, 2, 2], None, "must"),
        ([2, 2, 1, 1, 1], None, "MISSED"),
        ([2, 2, 2, 2, 1], 1.4, "MISSED"),
        ([1, 1, 1, 2, 2], 1.6, "UNDECIDED"),
        ([2, 2, 2, 2, 1], 3.0, "must"),
        ([2, 2, 1], None, "UNDECIDED"),
    ],
)
def test_a_verdict_does_not_hang_on_a_few_rounds(samples: list[float], pooled: float | None, expected: str) -> None:
    figure = Figure("x", "ratio", samples, Goal("x", "x", "w1", 1.5, 3.0), pooled=pooled)
    assert verdict(figure) == expected and figure.must_reached is (expected == "must")


def test_a_goal_names_its_good_side() -> None:
    assert goal(Figure("x", "s", [1.0]), 1) == "≥ 1.00"
    assert goal(Figure("x", "s", [1.0], higher_is_better=False), 0.3) == "≤ 0.30"
    assert goal(Figure("x", "s", [1.0]), None) == ""


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0, 0.0123, 0.5, 12.34, 123.4, 1234567.8, -0.5)] == [
        "0.00", "0.0123", "0.50", "12.3", "123", "1,234,568", "-0.50",
    ]  # fmt: skip


@pytest.fixture
def outcome() -> Outcome:
    outcome = Outcome("w1", notes=["a [note] with brackets"])
    outcome.add("rows in, default", "records/s", [1e6, 1.2e6, 1.1e6], note="a|b")
    outcome.ratio("rows in: to Kafka", [1.0, 3.0], [1.0, 1.0], GOAL)
    return outcome


def test_a_workload_is_shown_with_all_its_figures(outcome: Outcome, console: Console) -> None:
    show(outcome, "w1: producing", console)
    heading, columns, first, second, note, *_ = printed(console)
    assert heading.startswith("w1: producing")
    assert columns.split() == ["side", "unit", "value", "low", "high", "must", "aim"]
    assert first.split("  ")[0] == "rows in, default" and "1,100,000" in first and "1,200,000" in first
    assert second.split()[-5:] == ["≥", "3.00", "≥", "4.00", "MISSED"]
    assert note == "  a [note] with brackets"


def test_the_one_table_has_all_goals_and_nothing_else(outcome: Outcome, console: Console) -> None:
    goals = [GOAL, Goal("asked", "b", "w2", 1), Goal("x", "c", "w3", 1), Goal("later", "d", "w6", 1, comes_with="W6")]
    outcome.add("x", "s", [1.0])
    rows = goal_rows([outcome], goals, {"rows_in", "asked"})
    assert [(row[1], row[-1]) for row in rows] == [
        ("rows in", "MISSED"), ("b", "NOT MEASURED"), ("c", "not asked for"), ("d", "comes with W6"),
    ]  # fmt: skip
    show_goals(rows, "All", console)
    assert [line.split()[0] for line in printed(console) if line.startswith("w")] == ["w1", "w2", "w3", "w6"]


def test_documents_get_the_same(outcome: Outcome) -> None:
    text = markdown(outcome, "w1: producing")
    assert text.startswith("### w1: producing\n\n| what | side |")
    assert "| 1,000,000 to 1,200,000 |" in text and "a\\|b" in text and "* a [note]" in text
    (row,) = [line for line in markdown_goals(goal_rows([outcome], [GOAL], {})).splitlines() if "rows in" in line]
    assert row == "| w1 | rows in | ratio | **2.00** | 1.00 to 3.00 | ≥ 3.00 | ≥ 4.00 | **MISSED** |"
