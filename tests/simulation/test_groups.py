"""Simulated consumer groups under faults: no two owners, no offset goes back, all settles; planted bugs are caught."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.groups import COMMITS, FAULTS, Simulation
from tests.simulation.mutants_groups import MUTANTS, RARE, planted

SOAK = int(os.environ.get("RAYQUEUE_SOAK", "1"))
SEEDS_A_TEST = 6
SEEDS_A_MUTANT = 40


@pytest.mark.parametrize("first", range(0, 18 * SOAK, SEEDS_A_TEST))
def test_whatever_happens_nobody_shares_a_partition_and_all_settles(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        result = Simulation(seed).run()
        assert not result.problem, f"{result.describe()}\nreplay: python -m tests.simulation.groups {seed} -v"
        assert len(result.faults) >= FAULTS and result.commits >= COMMITS


def test_schedules_reach_everything() -> None:
    seen: Counter[str] = Counter()
    for seed, kinds in enumerate((["failing appends", "cut", "stall"], ["zombie owner", "pause owner", "kill owner"])):
        seen += Simulation(seed, kinds=kinds).run().seen
    events = {"Lead", "Replay", "Loaded", "Resign", "Topics", "Opened", "Closed", "Request", "Appended", "AppendFailed"}
    effects = {"Append", "Reply", "Refuse", "Push", "TakeOverAnew"}
    assert events | effects | {"Tick", "compared"} <= seen.keys(), seen


def test_the_same_seed_is_the_same_run() -> None:
    first, second, other = (Simulation(seed, trace=True).run() for seed in (144, 144, 27))
    assert first == second and len(first.trace) > 100
    assert first.trace != other.trace


# The faults that bring a bug to light soonest; the usual mix finds it too, in more seeds.
KINDS = {
    "offsets committed out of order": ["slow network", "bad network"],
    "a zombie owner answers": ["zombie owner", "kill member"],
    "no epoch check on a commit": ["slow network", "bad network", "more members", "kill member", "leave"],
    "state kept after a failed append": ["failing appends"],
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in RARE])
def test_planted_bugs_are_caught(name: str) -> None:
    kinds = KINDS.get(name, [])
    with planted(name):
        caught = next((seed for seed in range(SEEDS_A_MUTANT) if Simulation(seed, kinds=kinds).run().problem), None)
    assert caught is not None, f"nothing catches: {name}"
    assert not Simulation(caught, kinds=kinds).run().problem, "without the bug that seed passes"
