"""Simulated consumer groups: three brokers, one shard, members under faults, then left in peace, when they must settle.

safety    faults, members that come and go, read and commit; every invariant after every event
liveness  all faults healed: one owner serves, every member holds what it is to have, every partition is read, and
          commits go on, in time; then nothing moves any more

`python -m tests.simulation.groups SEED [--count N] [-v]` runs schedules; the same seed is the same run.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from rayqueue.groups.state import GroupState
from rayqueue.protocol.group_messages import GroupPartition
from rayqueue.testing.simulation.nemesis import Nemesis
from tests.simulation.groups_faults import Faults, come_back, restart
from tests.simulation.groups_member import SimulatedMember
from tests.simulation.groups_world import World
from tests.simulation.mutants_groups import MUTANTS, planted
from tests.simulation.partitions import commit

COMMITS = 60
FAULTS = 8
KINDS = 9
SAFETY_US_MAX = 300_000_000
LIVENESS_US_MAX = 40_000_000
CALM_US = 3_000_000


class Result(msgspec.Struct):
    """How a run went.

    Attributes:
        problem: "": nothing was wrong.
        faults: a line for each that took effect. seen: events and effects of the owners.
    """

    seed: int
    problem: str
    commits: int
    takes: int
    records: int
    owners: int
    faults: list[str]
    events: int
    virtual_s: float
    seen: Counter[str]
    trace: list[str]

    def describe(self) -> str:
        """In a line."""
        verdict = f"FAILED at commit {commit()}: {self.problem}" if self.problem else "ok"
        return (
            f"seed {self.seed}: {self.commits} commits, {self.takes} partitions taken, {self.records} records, "
            f"{self.owners} owners, {len(self.faults)} faults, {self.events} events, {self.virtual_s:.1f} virtual s: "
            f"{verdict}"
        )


class Simulation:
    """One run.

    Args:
        kinds: of faults; by default some are drawn: a few kinds meet more often than all of them would.
    """

    def __init__(self, seed: int, trace: bool = False, kinds: Sequence[str] = ()) -> None:
        self.seed = seed
        world = self.world = World(seed, trace)
        faults = Faults(world).all()
        chosen = list(kinds) or world.random.sample(list(faults), KINDS)
        self.nemesis = Nemesis(
            world.scheduler, world.random, world.trace, {name: faults[name] for name in chosen}, 1_500_000, 5_000_000
        )

    def run(self) -> Result:
        """Both phases; never raises for what the simulated code does wrong."""
        problem = ""
        world = self.world
        try:
            self._safety()
            self._liveness()
        except Exception as error:  # whatever a planted bug breaks
            frame = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {error or frame.line}"
            world.trace.add("FAILED", problem)
        owner = world.checker.state.owner
        return Result(
            self.seed,
            problem,
            world.checker.commits,
            world.checker.takes,
            world.checker.records,
            owner.number if owner is not None else 0,
            self.nemesis.in_effect,
            world.scheduler.steps,
            world.scheduler.now_us / 1e6,
            world.checker.seen,
            world.trace.lines,
        )

    def _safety(self) -> None:
        self.nemesis.start()
        enough = self.world.scheduler.run(SAFETY_US_MAX, self._enough)
        assert enough, f"{self.world.checker.commits} commits, {len(self.nemesis.in_effect)} faults in all that time"

    def _enough(self) -> bool:
        return len(self.nemesis.in_effect) >= FAULTS and self.world.checker.commits >= COMMITS

    def _liveness(self) -> None:
        world = self.world
        world.trace.add("peace", "all faults are healed")
        self.nemesis.heal()
        for owner in world.owners.values():
            restart(owner)
        for member in world.members.values():
            come_back(member)
        world.lead(world.log.leader)
        until_us = world.scheduler.now_us + LIVENESS_US_MAX
        epochs: dict[str, int] = {}
        while self._unsettled() or self._epochs() != epochs:  # what began before (a session that runs out) may show yet
            assert world.scheduler.run(until_us, self._is_settled), f"not settled: {self._unsettled()}"
            epochs = self._epochs()
            world.scheduler.run(world.scheduler.now_us + CALM_US)
        for group in world.checker.state.groups.values():
            self._check_balance(group)
        commits = world.checker.commits
        assert world.scheduler.run(until_us, lambda: world.checker.commits > commits + 10), "commits do not go on"

    def _is_settled(self) -> bool:
        return not self._unsettled()

    def _unsettled(self) -> str:
        """What is still missing."""
        world = self.world
        if not world.owners[world.log.leader].machine.is_serving:
            return "nobody serves"
        there: dict[str, set[str]] = {}
        for member in world.members.values():
            if member.machine.error is None:
                there.setdefault(member.group_id, set()).add(member.member_id)
        for group_id, members in there.items():
            group = world.checker.state.groups.get(group_id)
            if group is None or group.members.keys() != members:
                return f"members of {group_id} are {group and sorted(group.members)}, not {sorted(members)}"
            if group.is_assigning or group.name_of_state != "Stable":
                return f"{group_id} is {group.name_of_state}"
            if group.wanted.keys() != self._partitions(group):
                return f"partitions of {group_id} lie idle"
        return next((f"{m.name} is behind" for m in world.members.values() if not self._holds_its(m)), "")

    def _partitions(self, group: GroupState) -> set[GroupPartition]:
        topics = self.world.topics
        names = {name for member in group.members.values() for name in member.topics if name in topics}
        return {GroupPartition(topics[name].topic_id, n) for name in names for n in range(len(topics[name].replicas))}

    def _holds_its(self, member: SimulatedMember) -> bool:
        """Whether it reads just what the log says it holds, and knows where."""
        machine = member.machine
        if machine.error is not None:
            return True  # another has its instance id
        group = self.world.checker.state.groups[member.group_id]
        holding, held = group.current[member.member_id], machine.held.keys()
        return (
            machine.epoch == holding.member_epoch
            and machine.topics == set(group.members[member.member_id].topics)
            and held == holding.assigned.keys() == member.positions.keys()
            and None not in member.positions.values()
        )

    def _epochs(self) -> dict[str, int]:
        return {group_id: group.record.epoch for group_id, group in self.world.checker.state.groups.items()}

    def _check_balance(self, group: GroupState) -> None:
        """With equal subscriptions, counts differ by one at most."""
        if len({tuple(member.topics) for member in group.members.values()}) == 1:
            counts = [len(target) for target in group.target.values()]
            assert max(counts) - min(counts) <= 1, f"{group.group_id} is not balanced: {counts}"


def main() -> int:
    """Returns the number of failed runs, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.groups", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="any seed by default")
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from SEED on")
    parser.add_argument("--mutant", choices=MUTANTS, help="plant this bug")
    parser.add_argument("--faults", default="", help="only these kinds, with commas between")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what happened, event by event")
    args = parser.parse_args()
    gc.set_threshold(200_000, 20, 20)  # a run makes many small objects and few cycles
    seed = Random().randrange(10**9) if args.seed is None else args.seed
    failed, started = 0, time.monotonic()
    with planted(args.mutant):
        for one in range(seed, seed + args.count):
            result = Simulation(one, args.verbose, [kind for kind in args.faults.split(",") if kind]).run()
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
