"""Draws faults, injects them, two at a time at most, and keeps the proof that each took effect. Seeded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from tests.chaos import faults_links as links
from tests.chaos import faults_nodes as nodes
from tests.chaos import faults_processes as processes
from tests.chaos.faults_processes import Outcome
from tests.chaos.waiting import pause
from tests.chaos.world import NotPossible, World

Fault = Callable[[World], Outcome]

NO_FAULT = 0.25
GAP_S = 3.0
OVERLAPPING = 2

FAULTS: dict[str, Fault] = {
    "kill-leader": processes.kill_leader,
    "kill-follower": processes.kill_follower,
    "kill-broker": processes.kill_broker,
    "kill-coordinator": processes.kill_coordinator,
    "kill-everything": processes.kill_everything,
    "kill-leader-of-stopped": processes.kill_leader_of_stopped,
    "kill-client": processes.kill_client,
    "kill-group-coordinator": processes.kill_group_coordinator,
    "stop-group-coordinator": processes.stop_group_coordinator,
    "stop-member": processes.stop_member,
    "stop-leader-shortly": processes.stop_leader_shortly,
    "stop-leader": processes.stop_leader,
    "stop-follower": processes.stop_follower,
    "stop-broker-and-replicas": processes.stop_broker_and_replicas,
    "stop-broker": processes.stop_broker,
    "stop-node": processes.stop_node,
    "stop-coordinator": processes.stop_coordinator,
    "rolling-restart": processes.rolling_restart,
    "lose-node": nodes.lose_node,
    "lose-node-and-disk": nodes.lose_node_and_disk,
    "lose-ray": nodes.lose_ray,
    "fill-disk": nodes.fill_disk,
    "cut-leader-from-followers": links.cut_leader_from_followers,
    "cut-broker-from-coordinator": links.cut_broker_from_coordinator,
    "cut-clients-from-leader": links.cut_clients_from_leader,
    "cut-node-off": links.cut_node_off,
    "cut-and-kill-leader": links.cut_and_kill_leader,
}

# Not beside another fault: they wait for the cluster to be well in between, or take all that others act on.
ALONE = {"rolling-restart", "lose-node", "lose-node-and-disk", "lose-ray"}


@dataclass
class Injected:
    """A draw. fault "": none was injected. began_s, ended_s: since the run's first draw. proof "": without effect.

    skipped: why it was not possible. problem: what went wrong while it was injected or healed.
    """

    fault: str
    began_s: float
    began_ns: int
    ended_s: float = 0.0
    ended_ns: int = 0
    target: str = ""
    proof: str = ""
    skipped: str = ""
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = self.skipped and f"not possible: {self.skipped}" or self.proof or "WITHOUT EFFECT"
        problem = f"; PROBLEM: {self.problem}" if self.problem else ""
        return f"{self.began_s:6.1f} s  {self.fault or 'no fault'}" + (
            f": {self.target}: {what}{problem}" if self.fault else ""
        )


class Deck:
    """Deals every fault once before it deals any again; one draw in four is none, and comes on top.

    What it deals depends on its random numbers alone, so it has some that nobody else takes from.
    """

    def __init__(self, random: Random, names: Sequence[str]) -> None:
        self._random, self._names = random, list(names)
        self._left: list[str] = []

    def draw(self) -> str:
        """The name of a fault, or "" for none."""
        if self._random.random() < NO_FAULT:
            return ""
        if not self._left:
            self._left = list(self._names)
            self._random.shuffle(self._left)
        return self._left.pop()


def run(world: World, deck: Deck, seconds: float, rounds: int | None, say: Callable[[str], None]) -> list[Injected]:
    """Injects faults for so many seconds, or as many draws as `rounds` says; everything is healed when it returns."""
    started = time.monotonic()
    draws: list[Injected] = []
    there: list[tuple[Injected, threading.Thread]] = []

    def inject(draw: Injected) -> None:
        if draw.fault:
            _inject(world, draw)
        draw.ended_s, draw.ended_ns = time.monotonic() - started, time.monotonic_ns()
        say(str(draw))

    while len(draws) < rounds if rounds is not None else time.monotonic() - started < seconds:
        pause(world.random.uniform(0, GAP_S))
        fault = deck.draw()
        while there and not _may_overlap(fault, [one.fault for one, _ in there]):
            there.pop(0)[1].join()
        draw = Injected(fault, time.monotonic() - started, time.monotonic_ns())
        draws.append(draw)
        if fault in ALONE:
            inject(draw)  # on the main thread: Ray starts nodes on no other
            continue
        # Daemons: a run that is interrupted ends the processes that they would wait for.
        thread = threading.Thread(target=inject, args=(draw,), name=f"nemesis-{len(draws)}", daemon=True)
        thread.start()
        there = [*((one, other) for one, other in there if other.is_alive()), (draw, thread)]
    for _, thread in there:
        thread.join()
    return draws


def _may_overlap(fault: str, others: Sequence[str]) -> bool:
    """Two faults at a time, but none beside one that is meant to be survived alone."""
    faults = [one for one in (fault, *others) if one]
    return len(faults) < 2 or (len(faults) <= OVERLAPPING and not ALONE & set(faults))


def _inject(world: World, draw: Injected) -> None:
    try:
        draw.target, draw.proof = FAULTS[draw.fault](world)
    except NotPossible as error:
        draw.skipped = str(error)
    except Exception as error:  # of any kind: it belongs to the report, and the run goes on
        draw.problem = f"{type(error).__name__}: {error}"
