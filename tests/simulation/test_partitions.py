"""Simulated replicated partitions under faults: nothing is lost, everything converges; and planted bugs are caught."""

from __future__ import annotations

import os

import pytest

from tests.simulation.mutants_partitions import MUTANTS, planted
from tests.simulation.partitions import FAULTS, OPERATIONS, Simulation

SOAK = int(os.environ.get("RAYQUEUE_SOAK", "1"))
SEEDS_A_TEST = 10
SEEDS_A_MUTANT = 120


def check(seed: int) -> None:
    result = Simulation(seed).run()
    assert not result.problem, result.describe()
    assert len(result.faults) >= FAULTS and result.operations + result.unknown >= OPERATIONS


@pytest.mark.parametrize("first", range(0, 40 * SOAK, SEEDS_A_TEST))
def test_whatever_happens_nothing_acked_is_lost_and_all_converges(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        check(seed)


@pytest.mark.parametrize("seed", [400147])
def test_what_failed_once(seed: int) -> None:
    """400147: the consumer asked a follower whose log had just been emptied to begin inside of a batch."""
    check(seed)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = Simulation(7, trace=True).run(), Simulation(7, trace=True).run()
    assert first.trace == second.trace and first.faults == second.faults


# The faults that bring a bug to light soonest; each is found by the usual mix of faults too, in more seeds.
KINDS = {
    "no epoch check on a follower": ["zombie leader", "pause", "late metadata"],
    "skipped flush": ["power loss"],
    "join without the epoch start": ["kill all", "slow follower", "kill", "cut"],
    "ack of a stale incarnation": ["late acks"],
    "refused addition forgotten": ["lost answers", "late metadata", "quick restart"],
    "member by its number": ["late acks", "delay"],
    "logs not compared": ["power loss"],
    "replaced process goes on": ["delay", "late acks"],
    "cut inside of a batch": ["zombie leader", "pause", "cut", "cut off from the coordinator"],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bugs_are_caught(name: str) -> None:
    kinds = KINDS.get(name, [])
    with planted(name):
        caught = next((seed for seed in range(SEEDS_A_MUTANT) if Simulation(seed, kinds=kinds).run().problem), None)
    assert caught is not None, f"nothing catches: {name}"
    assert not Simulation(caught, kinds=kinds).run().problem, "without the bug that seed passes"
