"""A simulated metadata quorum: three to five voters under faults, then left in peace, when it must converge.

safety    faults, operations, changes of the membership; every invariant after every event
liveness  all faults healed: one active, everybody voting, all logs equal, a new proposal committed, in bounded time
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import Membership, Voter, first_entries
from rayqueue.testing.simulation.nemesis import Nemesis
from rayqueue.testing.simulation.network import Network
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.quorum_checker import Checker
from tests.simulation.quorum_clients import Administrator, Client, Requests
from tests.simulation.quorum_faults import Faults, restart
from tests.simulation.quorum_node import Answer, MachineClass, Node
from tests.simulation.quorum_store import QuorumStore

OPERATIONS = 200
FAULTS = 5
SAFETY_US_MAX = 120_000_000
LIVENESS_US_MAX = 20_000_000
# (share of reads, patience). Some must not hang on a leader that is none any more, to see what the next one does.
CLIENTS = ((0.0, 300_000), (0.1, 300_000), (0.4, 1_500_000), (0.4, 500_000), (0.5, 300_000), (1.0, 200_000))

# Small bounds, so that every one of them is reached.
CONFIG = QuorumConfig(
    append_entries_max=4,
    append_bytes_max=64,
    inflight_max=2,
    uncommitted_entries_max=3,
    reads_max=3,
    snapshot_after_entries=40,
    kept_entries=6,
    snapshot_chunk_bytes=16,
    promises_max=32,
)


@dataclass
class Result:
    """How a run went.

    Attributes:
        problem: "": nothing was wrong.
        faults: a line for each that took effect.
    """

    seed: int
    problem: str = ""
    nodes: int = 0
    operations: int = 0
    unknown: int = 0
    faults: list[str] = field(default_factory=list)
    committed: int = 0
    epochs: int = 0
    events: int = 0
    virtual_s: float = 0.0
    trace: list[str] = field(default_factory=list)


class Simulation:
    """One run."""

    def __init__(self, seed: int, trace: bool = False, machine_class: MachineClass = QuorumMachine) -> None:
        self.seed = seed
        random = self.random = Random(seed)
        scheduler = self.scheduler = Scheduler(random)
        self.trace = Trace(scheduler, trace)
        self.network = Network(scheduler, random)
        self.stores: dict[Voter, QuorumStore] = {}
        self.checker = Checker(self.stores)
        self.nodes: dict[int, Node] = {}
        size = random.choice((3, 3, 3, 4, 5))
        for broker_id in range(1, size + 1):
            self.nodes[broker_id] = Node(
                broker_id,
                scheduler,
                random,
                self.network,
                self.trace,
                self.checker,
                self.stores,
                CONFIG,
                machine_class,
                self._answered,
            )
        self.requests = Requests(scheduler, random, self.nodes)
        # The cluster was formatted with all its voters, or with one, and the others join.
        first = random.choice((1, size, size))
        entries = first_entries(Membership(tuple(Voter(b, "a") for b in range(1, first + 1))))
        for broker_id, node in self.nodes.items():
            node.format(entries if broker_id <= first else [])
        think_us = random.choice((60_000, 150_000, 300_000))
        self.clients = [
            Client(f"client {n}", scheduler, random, self.requests, self.checker, self.trace, think_us, *kind)
            for n, kind in enumerate(CLIENTS)
        ]
        self.admin = Administrator(scheduler, random, self.requests, self.nodes, self.trace)
        faults = Faults(random, self.nodes, self.network, self.checker, self.stores)
        self.nemesis = Nemesis(scheduler, random, self.trace, faults.all(), 800_000, 2_500_000)

    def _answered(self, answer: Answer) -> None:
        self.requests.answered(answer)

    def run(self) -> Result:
        """Both phases; never raises for what the simulated code does wrong."""
        problem = ""
        try:
            self._safety()
            self._liveness()
        except Exception as error:  # whatever a planted bug breaks
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            problem = f"{type(error).__name__} at {where}: {error or frame.line}"
            self.trace.add("FAILED", problem)
        return Result(
            self.seed,
            problem,
            len(self.nodes),
            sum(client.done for client in self.clients),
            sum(client.unknown for client in self.clients),
            self.nemesis.in_effect,
            len(self.checker.committed),
            max(node.machine.epoch for node in self.nodes.values()),
            self.scheduler.steps,
            self.scheduler.now_us / 1e6,
            self.trace.lines,
        )

    def _safety(self) -> None:
        for node in self.nodes.values():
            node.start()
        for client in self.clients:
            client.start()
        self.nemesis.start()
        enough = self.scheduler.run(SAFETY_US_MAX, self._enough)
        assert enough, f"{self._operations()} operations and {len(self.nemesis.in_effect)} faults in all that time"

    def _operations(self) -> int:
        return sum(client.done + client.unknown for client in self.clients)

    def _enough(self) -> bool:
        return len(self.nemesis.in_effect) >= FAULTS and self._operations() >= OPERATIONS

    def _liveness(self) -> None:
        self.trace.add("peace", "all faults are healed")
        self.nemesis.heal()
        self.admin.restless = False
        for node in self.nodes.values():
            if node.process.alive and node.machine.halted:
                node.kill(power_loss=True)
            restart(node)
        until = self.scheduler.now_us + LIVENESS_US_MAX
        for client in self.clients:
            client.over = True
        settled = self.scheduler.run(until, self.admin.settled)
        assert settled, "no active coordinator with all voters"
        heard: list[Answer] = []
        self._probe(heard)
        done = self.scheduler.run(until, lambda: bool(heard) and self._equal())
        assert done, f"proposal {'committed' if heard else 'lost'}, logs {'' if self._equal() else 'not '}equal"

    def _probe(self, heard: list[Answer]) -> None:
        """Proposes until it is committed."""

        def then(answer: Answer | None) -> None:
            if isinstance(answer, ev.Committed):
                self.checker.write_done(answer.index, b"the last one", self.checker.floor)
                heard.append(answer)
            else:
                self.scheduler.after(100_000, lambda: self._probe(heard))

        self.requests.ask(self.requests.target(), lambda token: ev.Propose(token, b"the last one"), then)

    def _equal(self) -> bool:
        last = len(self.checker.committed)
        return all(node.applied == last == node.machine.log.end for node in self.nodes.values())
