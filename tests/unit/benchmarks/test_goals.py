"""The goals: each has a place where it is measured, and a run knows which of them it is to measure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import cli, workloads
from benchmarks.goals import GOALS, KAFKA, QUEUE
from benchmarks.harness.report import judged_at_all

WORKLOADS = Path(workloads.__file__).parent


def test_every_goal_that_can_be_measured_is_named_by_its_workload_and_no_other_must_exists() -> None:
    assert all(goal.key == key for key, goal in GOALS.items())
    sources = {path.stem: path.read_text() for path in WORKLOADS.glob("w*.py")}
    for goal in judged_at_all():
        of_workload = "".join(text for name, text in sources.items() if name.startswith(goal.workload + "_"))
        stem = re.sub(r"^p\d+_|_(produce|consume)$", "_", goal.key)  # those that are named by a formatted string
        assert goal.key in of_workload or stem in of_workload, goal.key
    assert not [name for name, text in sources.items() if re.search(r"\b(must|aim)=", text)]


def test_better_is_on_the_side_of_the_aim() -> None:
    for goal in GOALS.values():
        if goal.aim is not None:
            assert (goal.aim > goal.must) is goal.higher_is_better, goal.key


def test_a_run_is_to_measure_the_goals_of_its_workloads_and_peers() -> None:
    everything = cli.expected(list(workloads.WORKLOADS), [KAFKA, QUEUE])
    assert everything == judged_at_all() and {goal.workload for goal in everything} == {"w1", "w2", "w4", "w6", "w10"}
    assert {goal.key for goal in cli.expected(["w1"], [QUEUE])} == {"items_awaited", "items_pipelined"}
    assert cli.expected(["w8"], [KAFKA]) == []
    assert {goal.peer for goal in cli.expected(["w10"], [])} == {""}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ""),
        (["--only", "w1,w2,w3,w4,w5,w6,w7,w8,w9,w10"], "without ceilings"),
        (["--peers", "kafka"], "nats, ray.util.queue, redis not asked for"),
        (["--repeats", "2"], "shorter than the default"),
        (["--repeats", "9"], ""),
        (["--address", "host:1"], "on the Ray cluster host:1"),
    ],
)
def test_a_run_that_is_less_than_a_full_one_knows_it(arguments: list[str], told: str) -> None:
    assert cli._plan(cli.parser().parse_args(arguments)).partial == told
