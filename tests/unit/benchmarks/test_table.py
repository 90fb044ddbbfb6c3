"""The tables: goals, verdicts, short numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.harness.figures import Figure, Outcome
from benchmarks.harness.table import goal, markdown, markdown_goals, number, show, show_goals, verdict, with_goals


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
        (0.6, None, 0.7, True, "below aim"),
        (0.7, None, 0.7, True, "aim"),
        (0.7, None, None, True, ""),
    ],
)
def test_the_verdict_is_the_best_goal_that_is_reached(
    sample: float, must: float | None, aim: float | None, higher_is_better: bool, expected: str
) -> None:
    assert verdict(Figure("x", "ratio", [sample], must, aim, higher_is_better)) == expected


def test_a_goal_names_its_good_side() -> None:
    assert goal(Figure("x", "s", [1.0], must=1), 1) == "≥ 1.00"
    assert goal(Figure("x", "s", [1.0], must=0.3, higher_is_better=False), 0.3) == "≤ 0.30"
    assert goal(Figure("x", "s", [1.0]), None) == ""


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0, 0.0123, 0.5, 12.34, 123.4, 1234567.8, -0.5)] == [
        "0.00", "0.0123", "0.50", "12.3", "123", "1,234,568", "-0.50",
    ]  # fmt: skip


@pytest.fixture
def outcome() -> Outcome:
    outcome = Outcome("w1", notes=["a [note] with brackets"])
    outcome.add("rows in, default", "records/s", [1e6, 1.2e6, 1.1e6], note="a|b")
    outcome.ratio("rows in: to Kafka", [1.0, 3.0], [1.0, 1.0], must=3, aim=4)
    return outcome


def test_a_workload_is_shown_with_all_its_figures(outcome: Outcome, console: Console) -> None:
    show(outcome, "w1: producing", console)
    heading, columns, first, second, note, *_ = printed(console)
    assert heading.startswith("w1: producing")
    assert columns.split() == ["side", "unit", "median", "low", "high", "must", "aim"]
    assert first.split("  ")[0] == "rows in, default" and "1,100,000" in first and "1,200,000" in first
    assert second.split()[-5:] == ["≥", "3.00", "≥", "4.00", "MISSED"]
    assert note == "  a [note] with brackets"


def test_the_one_table_has_only_what_has_a_goal(outcome: Outcome, console: Console) -> None:
    quiet = Outcome("w2")
    quiet.add("x", "s", [1.0])
    assert [(workload, figure.name) for workload, figure in with_goals([quiet, outcome])] == [
        ("w1", "rows in: to Kafka")
    ]
    show_goals([quiet, outcome], "All", console)
    assert sum("w1" in line for line in printed(console)) == 1
    assert not any("w2" in line for line in printed(console))


def test_documents_get_the_same(outcome: Outcome) -> None:
    text = markdown(outcome, "w1: producing")
    assert text.startswith("### w1: producing\n\n| what | side |")
    assert "| 1,000,000 to 1,200,000 |" in text and "a\\|b" in text and "* a [note]" in text
    (row,) = [line for line in markdown_goals([outcome]).splitlines() if "rows in" in line]
    assert row == "| w1 | rows in: to Kafka | ratio | **2.00** | 1.00 to 3.00 | ≥ 3.00 | ≥ 4.00 | **MISSED** |"
