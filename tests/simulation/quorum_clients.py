"""Who uses the simulated quorum: clients that propose and read, and an administrator who mends the membership."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.quorum_checker import Checker
from tests.simulation.quorum_node import Answer, Node

TIMEOUT_US = 1_500_000
RETRY_US = 60_000


class Requests:
    """Takes requests to nodes and their answers back, each over a delay, and never waits for ever."""

    def __init__(self, scheduler: Scheduler, random: Random, nodes: dict[int, Node]) -> None:
        self._scheduler, self._random, self._nodes = scheduler, random, nodes
        self._tokens = count(1)
        self._waiting: dict[int, Callable[[Answer | None], None]] = {}

    def ask(
        self,
        node: Node,
        make: Callable[[int], ev.Event],
        then: Callable[[Answer | None], None],
        timeout_us: int = TIMEOUT_US,
    ) -> None:
        """Sends what `make(token)` gives; `then` hears the answer once, or None: nobody knows."""
        token = next(self._tokens)
        self._waiting[token] = then
        self._scheduler.after(self._delay_us(), lambda: node.process.post(make(token)))
        self._scheduler.after(timeout_us, partial(self._finish, token, None))

    def answered(self, answer: Answer) -> None:
        """A node answers."""
        if answer.token in self._waiting:
            self._scheduler.after(self._delay_us(), partial(self._finish, answer.token, answer))

    def _finish(self, token: int, answer: Answer | None) -> None:
        then = self._waiting.pop(token, None)
        if then is not None:
            then(answer)

    def _delay_us(self) -> int:
        return 50 + int(self._random.random() * 450)

    def target(self) -> Node:
        """A node that takes itself for active, rightly or not; any, when there is none."""
        actives = [node for node in self._nodes.values() if node.active]
        return self._random.choice(actives or list(self._nodes.values()))


class Client:
    """One operation at a time: a proposal of a value nobody else proposes, or a read.

    Attributes:
        done: operations with a known outcome. unknown: those without.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        random: Random,
        requests: Requests,
        checker: Checker,
        trace: Trace,
        think_us: int,
        read_share: float,
        timeout_us: int,
    ) -> None:
        self._name, self._scheduler, self._random = name, scheduler, random
        self._requests, self._checker, self._trace = requests, checker, trace
        self._think_us, self._read_share, self._timeout_us = think_us, read_share, timeout_us
        self._count = 0
        self.over = False
        self.done = self.unknown = 0

    def start(self) -> None:
        """Begins."""
        self._scheduler.after(int(self._random.random() * self._think_us), self._operate)

    def _operate(self) -> None:
        if self.over:
            return
        self._count += 1
        floor = self._checker.floor
        if self._random.random() < self._read_share:
            self._read(floor)
        else:
            self._write(f"{self._name}/{self._count}".encode(), floor)

    def _read(self, floor: int) -> None:
        def then(answer: Answer | None) -> None:
            match answer:
                case ev.ReadReady(index=index):
                    self._checker.read_done(index, floor)
                    self._end(f"read {index}")
                case ev.Dropped(reason=reason):
                    self._again(partial(self._read, floor), reason)
                case _:
                    self._end("read: no answer", known=False)

        self._requests.ask(self._requests.target(), ev.Read, then, self._timeout_us)

    def _write(self, payload: bytes, floor: int) -> None:
        def then(answer: Answer | None) -> None:
            match answer:
                case ev.Committed(index=index):
                    self._checker.write_done(index, payload, floor)
                    self._end(f"wrote {payload.decode()} at {index}")
                case ev.Dropped(unknown=False, reason=reason):
                    self._again(partial(self._write, payload, floor), reason)
                case _:
                    self._end(f"proposed {payload.decode()}: unknown", known=False)

        self._requests.ask(self._requests.target(), lambda token: ev.Propose(token, payload), then, self._timeout_us)

    def _again(self, operation: Callable[[], None], reason: str) -> None:
        if self._trace.on:
            self._trace.add(self._name, f"refused: {reason}")
        if not self.over:
            self._scheduler.after(RETRY_US, operation)

    def _end(self, text: str, known: bool = True) -> None:
        if self._trace.on:
            self._trace.add(self._name, text)
        if known:
            self.done += 1
        else:
            self.unknown += 1
        self.start()


class Administrator:
    """Keeps every broker's present directory among the voters, as the coordinator's reconciling will; now and then
    takes a sound voter out, or hands the lead over, to keep the quorum busy."""

    PERIOD_US = 150_000

    def __init__(
        self, scheduler: Scheduler, random: Random, requests: Requests, nodes: dict[int, Node], trace: Trace
    ) -> None:
        self._scheduler, self._random, self._requests, self._nodes = scheduler, random, requests, nodes
        self._trace = trace
        self.restless = True
        self.changes = self.transfers = 0
        scheduler.after(self.PERIOD_US, self._look)

    def _look(self) -> None:
        self._scheduler.after(self.PERIOD_US, self._look)
        actives = [node for node in self._nodes.values() if node.active and node.up]
        if not actives:
            return
        node = self._random.choice(actives)
        change = self._wanted(node)
        if change is not None:
            self.changes += 1
            action, voter = change
            self._trace.add("admin", f"asks {node.me} to {action.value}: {voter}")
            self._requests.ask(node, lambda token: ev.ChangeMembership(token, action, voter), lambda answer: None)
        elif self.restless and self._random.random() < 0.03:
            self.transfers += 1
            self._trace.add("admin", f"asks {node.me} to hand over")
            self._requests.ask(node, ev.Transfer, lambda answer: None)

    def _wanted(self, node: Node) -> tuple[ev.Action, Voter] | None:
        status = node.machine.status()
        present = {n.me for n in self._nodes.values()}
        members = (*status.membership.voters, *status.membership.learners)
        sound = all(voter in present for voter in status.membership.voters)
        if self.restless and sound and len(members) > 2 and self._random.random() < 0.03:
            return ev.Action.REMOVE, self._random.choice(status.membership.voters)
        for voter in members:
            if voter not in present:
                return ev.Action.REMOVE, voter
        for peer in status.peers:
            if peer.caught_up and peer.voter in status.membership.learners:
                return ev.Action.PROMOTE, peer.voter
        for other in self._nodes.values():
            if other.me not in members:
                return ev.Action.ADD_LEARNER, other.me
        return None

    def settled(self) -> bool:
        """Whether some active node's membership is as it should be."""
        present = sorted(n.me for n in self._nodes.values())
        return any(
            sorted(n.machine.log.membership.voters) == present and not n.machine.log.membership.learners
            for n in self._nodes.values()
            if n.active and n.up
        )
