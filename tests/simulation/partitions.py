"""Simulated replicated partitions: three brokers, two partitions under faults, then left in peace, when they must
converge.

safety    faults, producers, consumers; every invariant after every event
liveness  all faults healed: every replica in sync and equal, everything committed, every batch answered, in time

`python -m tests.simulation.partitions SEED [--count N] [--jobs N] [-v]` runs schedules; the same seed is the same run.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import msgspec

from rayqueue.testing.simulation.nemesis import Nemesis
from tests.simulation.mutants_partitions import MUTANTS, planted
from tests.simulation.partitions_faults import Faults
from tests.simulation.partitions_world import World

OPERATIONS = 200
FAULTS = 5
KINDS = 7
SAFETY_US_MAX = 200_000_000
LIVENESS_US_MAX = 30_000_000


class Result(msgspec.Struct):
    """How a run went.

    Attributes:
        problem: "": nothing was wrong.
        faults: a line for each that took effect.
    """

    seed: int
    problem: str
    operations: int
    unknown: int
    faults: list[str]
    acked: int
    epochs: int
    truncations: int
    events: int
    virtual_s: float
    trace: list[str]

    def describe(self) -> str:
        """In a line."""
        verdict = f"FAILED at commit {commit()}: {self.problem}" if self.problem else "ok"
        return (
            f"seed {self.seed}: {self.operations} operations known, {self.unknown} unknown, {len(self.faults)} faults, "
            f"{self.acked} acks, {self.epochs} leader epochs, {self.truncations} truncations, {self.events} events, "
            f"{self.virtual_s:.1f} virtual s: {verdict}"
        )


class Simulation:
    """One run.

    Args:
        kinds: of faults; by default some are drawn: a few kinds meet more often than all of them would.
    """

    def __init__(self, seed: int, trace: bool = False, kinds: Sequence[str] = ()) -> None:
        self.seed = seed
        self.world = world = World(seed, trace)
        faults = Faults(world).all()
        drawn = kinds or world.random.sample(sorted(faults), KINDS)
        self.nemesis = Nemesis(
            world.scheduler, world.random, world.trace, {name: faults[name] for name in drawn}, 250_000, 1_500_000
        )

    def run(self) -> Result:
        """Both phases; never raises for what the simulated code does wrong."""
        problem, world = "", self.world
        try:
            self._safety()
            self._liveness()
        except Exception as error:  # whatever a planted bug breaks
            frame = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {error or frame.line}"
            world.trace.add("FAILED", problem)
        return Result(
            self.seed,
            problem,
            self._operations() - sum(client.unknown for client in world.clients),
            sum(client.unknown for client in world.clients),
            self.nemesis.in_effect,
            world.checker.acked,
            sum(state.leader_epoch for state in world.coordinator.partitions),
            world.checker.truncations,
            world.scheduler.steps,
            world.scheduler.now_us / 1e6,
            world.trace.lines,
        )

    def _safety(self) -> None:
        world = self.world
        for broker in world.brokers.values():
            broker.start(world.config)
        for client in world.clients:
            client.start()
        self.nemesis.start()
        enough = world.scheduler.run(SAFETY_US_MAX, self._enough)
        assert enough, f"{self._operations()} operations and {len(self.nemesis.in_effect)} faults in all that time"

    def _operations(self) -> int:
        return sum(client.done + client.unknown for client in self.world.clients)

    def _enough(self) -> bool:
        return len(self.nemesis.in_effect) >= FAULTS and self._operations() >= OPERATIONS

    def _liveness(self) -> None:
        world = self.world
        world.trace.add("peace", "all faults are healed")
        self.nemesis.heal()
        for broker in world.brokers.values():
            if not broker.alive:
                broker.start(world.config)
        for producer in world.producers:
            producer.over = True
        done = world.scheduler.run(world.scheduler.now_us + LIVENESS_US_MAX, self._converged)
        assert done, f"not converged: {self._lacking()}"

    def _converged(self) -> bool:
        return not self._lacking()

    def _lacking(self) -> str:
        world = self.world
        for producer in world.producers:
            if producer.waiting:
                return f"{producer.name} waits"
        for consumer in world.consumers:
            if consumer.offset < world.checker.committed[consumer.partition].end:
                return f"{consumer.name} has read to {consumer.offset}"
        return world.checker.converged()


def commit() -> str:
    """The commit of this checkout, for failures to be had again."""
    root = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _run(seed: int, trace: bool, kinds: Sequence[str]) -> Result:
    return Simulation(seed, trace, kinds).run()


def results(seeds: Iterable[int], jobs: int = 1, trace: bool = False, kinds: Sequence[str] = ()) -> Iterator[Result]:
    """Of each seed, in order; by so many processes at once, 0: one a core."""
    run = partial(_run, trace=trace, kinds=kinds)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with get_context("fork").Pool(jobs or os.cpu_count()) as pool:
        yield from pool.imap(run, seeds, chunksize=4)


def main() -> int:
    """Returns the number of failed runs, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.partitions", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="any seed by default")
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from SEED on")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes at once, 0: one a core")
    parser.add_argument("--mutant", choices=MUTANTS, help="plant this bug")
    parser.add_argument("--faults", default="", help="only these kinds, with commas between")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happened, event by event")
    args = parser.parse_args()
    gc.set_threshold(200_000, 20, 20)  # a run makes many small objects and few cycles
    seed = Random().randrange(10**9) if args.seed is None else args.seed
    failed, started = 0, time.monotonic()
    kinds = [kind for kind in args.faults.split(",") if kind]
    with planted(args.mutant):
        for result in results(range(seed, seed + args.count), args.jobs, args.verbose, kinds):
            if args.verbose:
                print("\n".join(result.trace))
            if args.count == 1:
                print("\n".join(f"fault: {line}" for line in result.faults))
            if result.problem or args.count == 1:
                print(result.describe(), flush=True)
            failed += bool(result.problem)
    if args.count > 1:
        rate = args.count / (time.monotonic() - started) * 60
        print(f"{args.count} schedules, {failed} failed, {rate:.0f} a minute")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
