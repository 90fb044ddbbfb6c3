"""The coordinator of simulated partitions: a model, one machine that commits at once, of the rules in design.md.

* Liveness by heartbeats; who is silent for a lease is fenced: out of every ISR, but for the last member of one.
* An ISR is changed by compare-and-set on (leader epoch, partition epoch), with the registered incarnation of each
  member (KIP-497, KIP-903). A change that is taken raises the partition epoch, also when it changes nothing.
* Whoever leaves an ISR that falls below min.insync.replicas stays eligible (KIP-966): the high watermark stands.
* A new process is a new incarnation. What it led is led under a new leader epoch. One whose machine has lost what was
  not durable is taken out of ISR and eligible replicas first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rayqueue.replication import events as ev

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World

LEASE_MS = 700
TICK_US = 100_000
COORDINATOR = 0  # its address


class Image(msgspec.Struct, frozen=True):
    """What the metadata log says."""

    index: int
    incarnations: dict[int, str]
    assignments: list[ev.Assignment]


class Register(NamedTuple):
    """A new process. unclean: partitions that have lost what was not durable."""

    broker_id: int
    incarnation: str
    unclean: Sequence[int]


class Beat(msgspec.Struct, frozen=True):
    """A heartbeat. index: of the image it has."""

    broker_id: int
    incarnation: str
    index: int


class Dead(NamedTuple):
    """A broker has seen this process die."""

    broker_id: int
    incarnation: str


class FromLeader(NamedTuple):
    """ProposeIsr or Resign."""

    broker_id: int
    incarnation: str
    partition: int
    effect: ev.ProposeIsr | ev.Resign


def start_of(incarnation: str) -> int:
    """Which of its broker's processes it is, from 1 on."""
    return int(incarnation.partition(".")[2])


class PartitionState(msgspec.Struct):
    """One partition. Invariants: leader == NO_LEADER or leader in isr; isr and elr are disjoint."""

    replicas: list[int]
    isr: list[int]
    elr: list[int]
    leader: int
    leader_epoch: int = 0
    partition_epoch: int = 0


class Coordinator:
    """Commits in memory; nothing of it is ever lost.

    Attributes:
        away: it hears nothing and decides nothing.
    """

    def __init__(self, world: World, partitions: int, brokers: Sequence[int], min_insync: int) -> None:
        self._world = world
        self._min_insync = min_insync
        self.brokers = list(brokers)
        self.partitions = [PartitionState(self.brokers, list(brokers), [], ev.NO_LEADER) for _ in range(partitions)]
        self.registered: dict[int, str] = {}
        self.alive: set[int] = set()
        self.away = False
        self.ignored = self.elections = self.refusals = 0
        self._seen_us: dict[int, int] = {}
        self._index = 0
        self._told = 0
        world.network.attach(COORDINATOR, self._heard)
        world.scheduler.after(TICK_US, self._tick)

    def image(self) -> Image:
        """What is committed now."""
        incarnations = dict(self.registered)
        return Image(
            self._index,
            incarnations,
            [
                ev.Assignment(p.leader, p.leader_epoch, p.partition_epoch, list(p.replicas), list(p.isr), incarnations)
                for p in self.partitions
            ],
        )

    def come_back(self) -> None:
        """As a standby that takes over: it has heard of everybody."""
        self.away = False
        self._seen_us = dict.fromkeys(self._seen_us, self._world.scheduler.now_us)

    # --- what it hears -----------------------------------------------------------------------------------------------

    def _heard(self, message: Any) -> None:
        if self.away:
            self.ignored += 1
            return
        match message:
            case Register():
                self._register(message)
            case Beat():
                self._beat(message)
            case Dead(broker_id=broker_id, incarnation=incarnation):
                if self.registered.get(broker_id) == incarnation and broker_id in self.alive:
                    self._fence(broker_id)
            case FromLeader():
                self._from_leader(message)
        self._tell()

    def _register(self, message: Register) -> None:
        broker_id = message.broker_id
        if start_of(message.incarnation) <= start_of(self.registered.get(broker_id, ".0")):
            # Again, the answer may be lost; or late, of a process that has had a successor already.
            self._beat(Beat(broker_id, message.incarnation, -1))
            return
        if broker_id in self.alive:
            self._fence(broker_id)
        for number in message.unclean:
            state = self.partitions[number]
            if broker_id in state.isr or broker_id in state.elr:
                isr = [one for one in state.isr if one != broker_id]
                elr = [one for one in state.elr if one != broker_id]
                self._commit(number, isr, elr, ev.NO_LEADER if state.leader not in isr else state.leader)
        self.registered[broker_id] = message.incarnation
        self.alive.add(broker_id)
        self._seen_us[broker_id] = self._world.scheduler.now_us
        self._index += 1
        self._elect_all()

    def _beat(self, message: Beat) -> None:
        if self.registered.get(message.broker_id) != message.incarnation:
            return
        self._seen_us[message.broker_id] = self._world.scheduler.now_us
        if message.broker_id not in self.alive:
            self.alive.add(message.broker_id)
            self._elect_all()
        if message.index < self._index:
            self._world.network.send(COORDINATOR, message.broker_id, self.image())

    def _from_leader(self, message: FromLeader) -> None:
        if self.registered.get(message.broker_id) != message.incarnation:
            return
        number, effect = message.partition, message.effect
        state = self.partitions[number]
        if isinstance(effect, ev.Resign):
            if (state.leader, state.leader_epoch) == (message.broker_id, effect.leader_epoch):
                self._fence(message.broker_id)
            return
        error = self._problem(state, message.broker_id, effect)
        if error:
            self.refusals += 1
            refused = ev.IsrRefused(effect.partition_epoch, error)
            self._world.to_leader(message, refused)
            return
        isr = [member for member, _ in effect.isr]
        for member, incarnation in effect.isr:
            if member not in state.isr:
                self._world.brokers[member].joined(number, incarnation)
        self._commit(number, isr, self._eligible(state, isr), state.leader)

    def _problem(self, state: PartitionState, broker_id: int, effect: ev.ProposeIsr) -> str:
        if (state.leader, state.leader_epoch) != (broker_id, effect.leader_epoch):
            return "FencedLeaderEpoch"
        if state.partition_epoch != effect.partition_epoch:
            return "InvalidUpdateVersion"
        for member, incarnation in effect.isr:
            if member not in self.alive or self.registered.get(member) != incarnation:
                return "IneligibleReplica"
        return ""

    # --- what it decides ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._world.scheduler.after(TICK_US, self._tick)
        if self.away:
            return
        now_us = self._world.scheduler.now_us
        for broker_id in sorted(self.alive):
            if now_us - self._seen_us[broker_id] > LEASE_MS * 1000:
                self._fence(broker_id)
        self._tell()

    def _fence(self, broker_id: int) -> None:
        """It is taken for dead, whatever it does."""
        self.alive.discard(broker_id)
        for number, state in enumerate(self.partitions):
            isr = [one for one in state.isr if one != broker_id] or state.isr
            leader = ev.NO_LEADER if state.leader == broker_id else state.leader
            if (isr, leader) != (state.isr, state.leader):
                self._commit(number, isr, self._eligible(state, isr), leader)
        self._elect_all()

    def _eligible(self, state: PartitionState, isr: list[int]) -> list[int]:
        """Who holds all that is committed without being in sync: nothing is committed while the ISR is too small."""
        if len(isr) >= self._min_insync:
            return []
        return [one for one in state.replicas if one in (*state.isr, *state.elr) and one not in isr]

    def _elect_all(self) -> None:
        for number, state in enumerate(self.partitions):
            if state.leader != ev.NO_LEADER:
                continue
            of_isr = [one for one in state.isr if one in self.alive]
            of_elr = [one for one in state.elr if one in self.alive]
            if of_isr:
                self._commit(number, state.isr, state.elr, self._world.random.choice(of_isr))
            elif of_elr:
                leader = self._world.random.choice(of_elr)
                self._commit(number, [leader], self._eligible(state, [leader]), leader)

    def _commit(self, number: int, isr: list[int], elr: list[int], leader: int) -> None:
        state = self.partitions[number]
        if leader != state.leader:
            state.leader_epoch += 1
            self.elections += leader != ev.NO_LEADER
        state.isr, state.elr, state.leader = list(isr), list(elr), leader
        state.partition_epoch += 1
        self._index += 1
        assert leader == ev.NO_LEADER or leader in isr
        if self._world.trace.on:
            self._world.trace.add("coord", f"p{number} {state}")
        self._world.checker.committed_isr(number)

    def _tell(self) -> None:
        """Everybody is sent what is new; who misses it asks with the next heartbeat."""
        if self._told == self._index:
            return
        self._told = self._index
        image = self.image()
        for broker_id in self.brokers:
            self._world.network.send(COORDINATOR, broker_id, image)
