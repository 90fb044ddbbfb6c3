"""Simulated schedules of the metadata quorum: a few hundred here, thousands by `make soak`; and planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from rayqueue.coordination.quorum.events import Effect
from rayqueue.coordination.quorum.messages import AnyMessage
from tests.simulation.__main__ import describe
from tests.simulation.mutants_quorum import MUTANTS, RARE, planted
from tests.simulation.quorum import FAULTS, OPERATIONS, Simulation

ROOT = Path(__file__).resolve().parent.parent.parent
BATCHES = 8
SEEDS = 25 * int(os.environ.get("RAYQUEUE_SOAK", "1"))
# Schedules that must be enough to find a planted bug; most are found by the first dozen.
SEEDS_FOR_A_MUTANT = 150


@pytest.mark.parametrize("batch", range(BATCHES))
def test_schedules(batch: int) -> None:
    for seed in range(batch * SEEDS, (batch + 1) * SEEDS):
        result = Simulation(seed).run()
        assert not result.problem, f"{describe(result)}\nreplay: python -m tests.simulation {seed} -v"
        assert result.nodes >= 3 and result.operations + result.unknown >= OPERATIONS
        assert len(result.faults) >= FAULTS


def test_schedules_reach_everything() -> None:
    seen: Counter[type] = Counter()
    faults: Counter[str] = Counter()
    for seed in range(25):
        result = Simulation(seed).run()
        seen += result.seen
        faults.update(line.split()[0] for line in result.faults)
    assert set(seen) == {*get_args(Effect), *get_args(AnyMessage)}
    assert min(seen.values()) >= 5, seen
    assert len(faults) >= 10, faults


def is_caught(mutant: str, schedules: int) -> bool:
    with planted(mutant):
        return any(Simulation(seed).run().problem for seed in range(1, schedules + 1))


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name not in RARE])
def test_planted_bugs_are_caught(mutant: str) -> None:
    assert is_caught(mutant, SEEDS_FOR_A_MUTANT), f"not found by {SEEDS_FOR_A_MUTANT} schedules"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", RARE)
def test_planted_bugs_that_seldom_show_are_caught(mutant: str) -> None:
    assert is_caught(mutant, 1_000)


def test_a_seed_is_one_schedule() -> None:
    first, second, other = (Simulation(seed, trace=True).run() for seed in (7, 7, 8))
    assert first == second and len(first.trace) > 1_000
    assert first.trace != other.trace


def test_a_seed_is_one_schedule_in_any_process() -> None:
    """Sets and hashes must not decide anything."""
    printed = set()
    for hash_seed in ("1", "2"):
        environment = dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=str(ROOT))
        command = [sys.executable, "-m", "tests.simulation", "7", "-v"]
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=50, capture_output=True, check=True)
        printed.add(done.stdout)
    assert len(printed) == 1 and len(printed.pop()) > 100_000


def test_a_failure_says_how_to_have_it_again() -> None:
    with planted("ack-before-appended"):
        text = describe(Simulation(3).run())
    assert "seed 3" in text and "FAILED at commit" in text and "acknowledges" in text
