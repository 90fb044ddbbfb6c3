"""Everything in a simulation of consumer groups: brokers with their group coordinators, the log, topics, members."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from rayqueue.errors import GroupCoordinatorNotAvailable
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.events import TopicFacts
from rayqueue.protocol.group_messages import GroupCoordinatorAddress
from rayqueue.testing.simulation.network import Network
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.groups_checker import Checker
from tests.simulation.groups_exchange import Exchange
from tests.simulation.groups_log import GroupLog
from tests.simulation.groups_member import CALL_TIMEOUT_US, SimulatedMember
from tests.simulation.groups_owner import Owner

CONFIG = GroupConfig(
    heartbeat_interval_ms=400,
    disconnect_grace_ms=800,
    assignment_interval_ms=100,
    behind_warn_ms=5_000,
    stalled_ms=300,
    stall_grace_ms=1_500,
    upkeep_interval_ms=5_000,
    absent_topic_ms=4_000,
)


class World:
    """See the module.

    Attributes:
        slow_metadata_us: how late brokers learn who leads, at most.
        cuts: pairs (member's name, broker id) between which nothing passes.
    """

    def __init__(self, seed: int, trace: bool) -> None:
        random = self.random = Random(seed)
        scheduler = self.scheduler = Scheduler(random)
        self.trace = Trace(scheduler, trace)
        self.network = Network(scheduler, random)
        self.checker = Checker()
        self.log = GroupLog(scheduler, random, self.trace, self.checker)
        self.cuts: set[tuple[str, int]] = set()
        self.slow_metadata_us = 20_000
        self._topic_numbers = 0
        self.owners: dict[int, Owner] = {}
        for broker_id in (1, 2, 3):
            self.owners[broker_id] = Owner(
                broker_id, scheduler, random, self.trace, self.log, self.checker, random.choice((CONFIG, CONFIG))
            )
        self._views = dict.fromkeys(self.owners, (1, 1))  # what each broker knows of leader and epoch
        self.topics: dict[str, TopicFacts] = {}
        for name in ("t0", "t1", "t2")[: random.randint(1, 3)]:
            self.create_topic(name, random.randint(2, 6))
        self.owners[1].told(1)
        names = list(self.topics)
        self.members: dict[str, SimulatedMember] = {}
        for n in range(random.randint(2, 5)):
            topics = names if random.random() < 0.7 else random.sample(names, random.randint(1, len(names)))
            static = f"static{n}" if random.random() < 0.25 else ""
            group_id = "g" if random.random() < 0.8 else "h"
            self.members[f"m{n}"] = SimulatedMember(self, f"m{n}", group_id, topics, static)

    # --- metadata ------------------------------------------------------------------------------------------------

    def lead(self, broker_id: int) -> None:
        """Another leader epoch; brokers learn of it one after the other."""
        log = self.log
        log.leader, log.leader_epoch = broker_id, log.leader_epoch + 1
        self.trace.add("metadata", f"broker {broker_id} leads under epoch {log.leader_epoch}")
        for one in self.owners:
            late_us = self.random.randrange(self.slow_metadata_us if one != broker_id else 20_000)
            self.scheduler.after(late_us, partial(self._told, one, broker_id, log.leader_epoch))

    def _told(self, broker_id: int, leader: int, epoch: int) -> None:
        if epoch <= self._views[broker_id][1]:
            return
        self._views[broker_id] = leader, epoch
        owner = self.owners[broker_id]
        if leader == broker_id or owner.told_epoch >= 0:
            owner.told(epoch if leader == broker_id else -1)

    def create_topic(self, name: str, partitions: int) -> None:
        """Or makes it larger."""
        there = self.topics.get(name)
        if there is None:
            self._topic_numbers += 1
        topic_id = there.topic_id if there is not None else b"%016d" % self._topic_numbers
        old = there.replicas if there is not None else ()
        new = tuple(tuple(self.random.sample((1, 2, 3), 2)) for _ in range(partitions - len(old)))
        self.tell_topics({**self.topics, name: TopicFacts(topic_id, old + new)})

    def delete_topic(self, name: str) -> None:
        """With what was committed for it."""
        self.checker.forgotten.add(self.topics[name].topic_id)
        self.tell_topics({one: facts for one, facts in self.topics.items() if one != name})

    def tell_topics(self, topics: dict[str, TopicFacts]) -> None:
        """Group coordinators learn of it one after the other."""
        self.topics = topics
        for owner in self.owners.values():
            self.scheduler.after(self.random.randrange(200_000), partial(self._told_topics, owner))

    def _told_topics(self, owner: Owner) -> None:
        owner.tell_topics(self.topics)

    # --- what members ask ----------------------------------------------------------------------------------------

    def find(self, member: SimulatedMember, known: int, then: Callable[[Any], None]) -> None:
        """Asks any broker who serves the group."""
        leader, epoch = self._views[self.random.choice(list(self._views))]
        answer: Any = GroupCoordinatorAddress(0, leader, "", 0, "", epoch)
        if epoch <= known and self.random.random() < 0.5:
            answer = GroupCoordinatorNotAvailable("not known yet")
        self.scheduler.after(self.random.randrange(200, 5_000), lambda: then(answer))

    def connect(self, member: SimulatedMember, broker_id: int, then: Callable[[Exchange | None], None]) -> None:
        """Opens an exchange; None: nobody is there."""
        process = member.process

        def arrive() -> None:
            owner = self.owners[broker_id]
            if not owner.process.alive or (member.name, broker_id) in self.cuts:
                self.scheduler.after(self.random.randrange(200, 50_000), lambda: then(None))
                return
            exchange: Exchange
            exchange = Exchange(
                self.scheduler,
                self.random,
                owner,
                (member.group_id, member.member_id),
                lambda: (member.name, broker_id) in self.cuts,
                lambda response: member.hear(process, exchange, response),
                lambda: member.ended(process, exchange),
            )
            self.scheduler.after(self.random.randrange(100, 2_000), lambda: then(exchange))

        self.scheduler.after(self.random.randrange(100, 2_000), arrive)

    def call(self, message: Any, then: Callable[[Any], None]) -> None:
        """Asks some broker's group coordinator, mostly the right one; None: no answer in time."""
        answered = False

        def answer(what: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                then(what)

        view = self._views[self.random.choice(list(self._views))]
        broker_id = view[0] if self.random.random() < 0.95 else self.random.choice(list(self.owners))
        client = object()
        self.network.attach(client, answer)
        owner = self.owners[broker_id]
        self.network.attach(("calls", broker_id), self._serve(owner))
        self.network.send(client, ("calls", broker_id), (client, message))
        self.scheduler.after(CALL_TIMEOUT_US, lambda: answer(None))

    def _serve(self, owner: Owner) -> Callable[[Any], None]:
        def arrive(what: Any) -> None:
            client, message = what
            if owner.process.alive:
                owner.ask(message, 0, lambda response: self.network.send(("calls", owner.broker_id), client, response))

        return arrive
