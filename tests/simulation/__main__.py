"""`python -m tests.simulation SEED [--count N] [-v]`: runs simulated schedules; the same seed is the same run."""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
from pathlib import Path

from tests.simulation.mutants_quorum import MUTANTS, planted
from tests.simulation.quorum import Result, Simulation


def commit() -> str:
    """The commit of this checkout, for failures to be had again."""
    root = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def describe(result: Result) -> str:
    """One run in a line."""
    verdict = f"FAILED at commit {commit()}: {result.problem}" if result.problem else "ok"
    return (
        f"seed {result.seed}: {result.nodes} nodes, {result.operations} operations known, {result.unknown} unknown, "
        f"{len(result.faults)} faults, {result.committed} entries, {result.epochs} epochs, {result.events} events, "
        f"{result.virtual_s:.1f} virtual s: {verdict}"
    )


def main() -> int:
    """Returns the number of failed runs, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from SEED on")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS], help="plant this bug (see mutants_quorum.py)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happened, event by event")
    args = parser.parse_args()
    gc.set_threshold(200_000, 20, 20)  # a run makes many small objects and few cycles
    failed = 0
    started = time.monotonic()
    for seed in range(args.seed, args.seed + args.count):
        with planted(args.mutant):
            result = Simulation(seed, args.verbose).run()
        if args.verbose:
            print("\n".join(result.trace))
        if args.count == 1:
            print("\n".join(f"fault: {line}" for line in result.faults))
        if result.problem or args.count == 1:
            print(describe(result), flush=True)
        failed += bool(result.problem)
    seconds = time.monotonic() - started
    if args.count > 1:
        print(f"{args.count} schedules, {failed} failed, {args.count / seconds * 60:.0f} a minute")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
