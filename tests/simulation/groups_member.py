"""A simulated consumer in a group: the client's own machine of a member, and a reader that polls, reads and commits.

It commits as the client does: one request at a time, tried again until its time is out, and each try bears the epoch
under which the positions were read. A request that was given up may still arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from rayqueue.client.groups.member import MemberMachine
from rayqueue.client.groups.member_effects import Connect, Find, HangUp, Member, Say, Tell
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import (
    CommittedOffset,
    GroupHeartbeatResponse,
    GroupPartition,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
)
from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.process import Process
from tests.simulation.groups_exchange import Exchange

if TYPE_CHECKING:
    from tests.simulation.groups_world import World

CALL_TIMEOUT_US = 700_000
COMMIT_PATIENCE_US = 2_500_000


class SimulatedMember:
    """One consumer.

    Attributes:
        name: of it in the trace. exchange: the open one.
        positions: of what it reads; None: where to begin is not known yet.
        slow_us: how long it works on what a poll gave, at most. out_us: since when it holds something though it is no
            member any more, as the checker has seen.
    """

    def __init__(self, world: World, name: str, group_id: str, topics: Sequence[str], instance_id: str = "") -> None:
        self.world, self.name, self.group_id, self.topics, self.instance_id = world, name, group_id, topics, instance_id
        random: Random = world.random
        self.clock = Clock(world.scheduler, random.uniform(0.98, 1.02), random.randrange(10_000))
        self.session_timeout_ms = random.choice((2_000, 3_000, 6_000))
        self.rebalance_timeout_ms = random.choice((0, 0, 4_000))
        self.local_brokers = [random.choice(list(world.owners))]
        self.slow_us = random.choice((20_000, 100_000, 400_000))
        self.incarnations = 0
        self.leaving = False
        self.out_us: int | None = None
        world.checker.members.append(self)
        self.start()

    def start(self) -> None:
        """A new process: a new member, but of the same instance."""
        self.incarnations += 1
        self.member_id = f"{self.name}.{self.incarnations}"
        random = self.world.random
        self.machine = MemberMachine(
            Member(
                self.group_id,
                self.member_id,
                self.instance_id,
                f"host{self.local_brokers[0]}",
                self.name,
                "uniform",
                self.session_timeout_ms,
                self.rebalance_timeout_ms,
                3_000,
                1_000,
                1_000,
                lambda failures: min(50 << min(failures, 4), 500) + random.randrange(50),
            )
        )
        self.machine.local_brokers = self.local_brokers
        self.positions: dict[GroupPartition, int | None] = {}
        self.exchange: Exchange | None = None
        self._numbers = count(1)
        self._committing = False
        self.process = Process(
            self.world.scheduler, self.clock, self.machine, self._step, lambda now_ms: None, self._perform
        )
        self.do(lambda now_ms: self.machine.subscribe(self.topics))
        self._sleep()

    def now_us(self) -> int:
        """Of the world."""
        return self.world.scheduler.now_us

    def kill(self) -> None:
        """SIGKILL."""
        self.world.trace.add(self.name, "is killed")
        self.process.end()
        if self.exchange is not None:
            self.exchange.break_off()
        self.positions = {}

    def leave(self) -> None:
        """In order: commits are not waited for."""
        self.world.trace.add(self.name, "leaves")
        self.do(lambda now_ms: self.machine.leave(now_ms))

    def subscribe(self, topics: Sequence[str]) -> None:
        """To something else."""
        self.topics = topics
        self.do(lambda now_ms: self.machine.subscribe(topics))

    # --- the process ---------------------------------------------------------------------------------------------

    def do(self, action: Callable[[int], Any]) -> None:
        """Something happens to the machine."""
        self.process.post(action)

    def _guarded(self, action: Callable[..., Any]) -> Callable[..., None]:
        """In this process only, when it runs."""
        process = self.process
        return lambda *args: process.post(lambda now_ms: action(*args))

    def _step(self, event: Callable[[int], Any], now_ms: int) -> Sequence[Any]:
        event(now_ms)
        effects = self.machine.plan(now_ms)
        self.machine.validate()
        return effects

    def _perform(self, effects: Sequence[Any]) -> None:
        world = self.world
        for effect in effects:
            match effect:
                case Find(known=known):
                    link = self._link = object()
                    world.find(self, known, self._linked(link, self.machine.on_found))
                case Connect(address=address):
                    link = self._link = object()
                    world.connect(self, address.broker_id, lambda exchange, link=link: self._opened(link, exchange))
                case Say(heartbeat=heartbeat):
                    assert self.exchange is not None
                    if world.trace.on:
                        world.trace.add(self.name, f"says {heartbeat}")
                    self.exchange.up(heartbeat)
                case HangUp():
                    self._link = None
                    if self.exchange is not None:
                        self.exchange.hang_up()
                        self.exchange = None
                case Tell():
                    world.scheduler.after(world.random.randrange(1, self.slow_us), self._guarded(self._poll))

    def _linked(self, link: object, action: Callable[[Any, int], None]) -> Callable[[Any], None]:
        """Of the present try to reach a coordinator."""
        process = self.process
        return lambda answer: process.post(lambda now_ms: action(answer, now_ms) if self._link is link else None)

    def _opened(self, link: object, exchange: Exchange | None) -> None:
        def inside(now_ms: int) -> None:
            if self._link is not link:
                if exchange is not None:
                    exchange.hang_up()
            elif exchange is None:
                self.machine.on_closed(RayQueueError("nobody there"), now_ms)
            else:
                self.exchange = exchange
                self.machine.on_opened(now_ms)

        self.process.post(inside)

    def hear(self, process: Process, exchange: Exchange, response: GroupHeartbeatResponse) -> None:
        """By an exchange."""

        def inside(now_ms: int) -> None:
            if self.exchange is exchange:
                if self.world.trace.on:
                    self.world.trace.add(self.name, f"hears {response}")
                self.machine.on_response(response, now_ms)

        process.post(inside)

    def ended(self, process: Process, exchange: Exchange) -> None:
        """An exchange has."""

        def inside(now_ms: int) -> None:
            if self.exchange is exchange:
                self.exchange = None
                self.machine.on_closed(RayQueueError("it broke"), now_ms)

        process.post(inside)

    # --- the reader ----------------------------------------------------------------------------------------------

    def _sleep(self) -> None:
        """Works on what it has, then polls."""
        slow = self.slow_us * (20 if self.world.random.random() < 0.02 else 1)
        self.world.scheduler.after(self.world.random.randrange(1, slow), self._guarded(self._work))

    def _work(self) -> None:
        self._poll()
        for partition, position in self.positions.items():
            if position is not None:
                self.positions[partition] = position + self.world.random.randrange(5)
        if self.world.random.random() < 0.5:
            self._commit(lambda: None)
        self._sleep()

    def _poll(self) -> None:
        if self._committing:
            return  # a commit is waited for, within `poll` or by the user
        changes = self.machine.changes()
        if changes.lost:
            self.machine.take_lost()
            self.positions.clear()
            changes = self.machine.changes()
        if changes.revoke:
            given_up = list(changes.revoke)
            self._commit(lambda: self._give_up(given_up))
        elif changes.assign:
            taken = self.machine.take(list(changes.assign))
            self.world.trace.add(self.name, f"takes {sorted(one.partition for one in taken)}")
            self.world.checker.takes_over(self, taken)
            self.positions.update(dict.fromkeys(taken))
            self._fetch()

    def _give_up(self, partitions: list[GroupPartition]) -> None:
        for one in partitions:
            self.positions.pop(one, None)
        self.machine.gave_up(partitions)

    def _fetch(self) -> None:
        """Where to begin, for what does not know it."""
        asked = [one for one, position in self.positions.items() if position is None]
        if not asked:
            return
        known = self.world.checker.known(self.group_id, asked)
        epoch = self.machine.epoch

        def answered(answer: Any) -> None:
            if answer is None or isinstance(answer, RayQueueError):
                self.world.scheduler.after(200_000, self._guarded(self._fetch))
                return
            self.world.checker.fetched(answer.offsets, known)
            for one, found in zip(asked, answer.offsets, strict=True):
                if one in self.positions and self.positions[one] is None and self.machine.epoch:
                    self.positions[one] = max(found.offset, 0)

        self.world.call(OffsetFetchRequest(self.group_id, asked, self.member_id, epoch), self._guarded(answered))

    # --- commits -------------------------------------------------------------------------------------------------

    def _commit(self, then: Callable[[], None]) -> None:
        """All positions there are; `then` when that is done, or was given up."""
        held = self.machine.held
        offsets = [
            CommittedOffset(one.topic_id, one.partition, position)
            for one, position in sorted(self.positions.items())
            if position is not None and one in held
        ]
        if self._committing or not offsets:
            if not self._committing:
                then()
            return
        self._committing = True
        until_us = self.world.scheduler.now_us + COMMIT_PATIENCE_US
        self._try_commit(offsets, self.machine.epoch, until_us, then)

    def _try_commit(self, offsets: list[CommittedOffset], epoch: int, until_us: int, then: Callable[[], None]) -> None:
        request = OffsetCommitRequest(self.group_id, self.member_id, epoch, offsets, next(self._numbers))

        def answered(answer: Any) -> None:
            done = answer is not None and (isinstance(answer, OffsetCommitResponse) or not answer.retriable)
            if not done and self.world.scheduler.now_us < until_us:
                again = self._guarded(lambda: self._try_commit(offsets, epoch, until_us, then))
                self.world.scheduler.after(self.world.random.randrange(1, 200_000), again)
                return
            if isinstance(answer, OffsetCommitResponse):
                taken = [one for one, error in zip(offsets, answer.errors, strict=True) if not error]
                self.world.checker.committed(self.group_id, taken)
            self._committing = False
            then()

        self.world.call(request, self._guarded(answered))
