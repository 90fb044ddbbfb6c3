"""A member's machine and a shard's, face to face in injected time: work that takes ten minutes costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rayqueue.client.groups.member import MemberMachine
from rayqueue.client.groups.member_effects import Connect, Find, Member, Say
from rayqueue.groups.events import (
    Append,
    Appended,
    Lead,
    Loaded,
    Opened,
    Push,
    Reply,
    Request,
    Tick,
    TopicFacts,
    Topics,
)
from rayqueue.groups.machine import ShardMachine
from rayqueue.protocol.group_messages import GroupCoordinatorAddress, GroupPartition

TOPIC = b"t" * 16
PARTITIONS = 6


class Group:
    """A coordinator and members; what one says the other hears at once, what is appended is committed at once.

    Attributes:
        members: those that run. polls: of these, those whose reader does its part.
    """

    def __init__(self) -> None:
        self.now = 1_000
        self.members: list[MemberMachine] = []
        self.polls: set[MemberMachine] = set()
        self._calls: list[MemberMachine] = []
        self._exchanges: list[MemberMachine] = []  # by session
        self.shard = ShardMachine(0, 1)
        facts = TopicFacts(TOPIC, tuple((1,) for _ in range(PARTITIONS)))
        for event in (Topics({"t": facts}), Lead(1), Loaded()):
            self.shard.step(event, self.now, self.now)

    def join(self, name: str) -> MemberMachine:
        """One more, whose reader polls."""
        made = MemberMachine(Member("g", name, "", "h", "c", "uniform", 45_000, 0, 3_000, 10_000, 2_000, lambda n: 100))
        self.members.append(made)
        self.polls.add(made)
        made.subscribe(["t"])
        return made

    def run(self, seconds: float) -> None:
        """Time passes."""
        until = self.now + int(seconds * 1000)
        while True:
            self._settle()
            machines: Sequence[MemberMachine | ShardMachine] = [*self.members, self.shard]
            deadlines = [at for at in (machine.next_deadline_ms() for machine in machines) if at is not None]
            self.now = max(self.now + 1, min([until, *deadlines]))
            if self.now >= until:
                break
        self._settle()

    def _settle(self) -> None:
        self._step(Tick())
        busy = True
        while busy:
            busy = False
            for member in self.members:
                effects = member.plan(self.now)
                member.validate()
                busy = busy or bool(effects)
                for effect in effects:
                    if isinstance(effect, Find):
                        member.on_found(GroupCoordinatorAddress(0, 1, "h", 1, "i", 1), self.now)
                    elif isinstance(effect, Connect):
                        self._exchanges.append(member)
                        self._step(Opened("g", member.member.member_id, len(self._exchanges)))
                        member.on_opened(self.now)
                    elif isinstance(effect, Say):
                        session = len(self._exchanges) - self._exchanges[::-1].index(member)
                        self._calls.append(member)
                        self._step(Request(len(self._calls) - 1, effect.heartbeat, session))
                if member in self.polls:
                    self._poll(member)

    def _poll(self, member: MemberMachine) -> None:
        member.take_lost()
        changes = member.changes()
        member.gave_up(changes.revoke)
        member.take(changes.assign)

    def _step(self, event: object) -> None:
        for effect in self.shard.step(event, self.now, self.now):  # type: ignore[arg-type]
            if isinstance(effect, Append):
                self._step(Appended(effect.number))
            elif isinstance(effect, Reply):
                self._calls[effect.call].on_response(effect.response, self.now)
            elif isinstance(effect, Push) and (member := self._exchanges[effect.session - 1]) in self.members:
                member.on_response(effect.response, self.now)
        self.shard.validate()


def held(member: MemberMachine) -> set[GroupPartition]:
    return set(member.held)


def test_ten_minutes_of_work_cost_nothing_and_what_is_asked_back_is_given_at_the_next_poll() -> None:
    group = Group()
    slow, other = group.join("slow"), group.join("other")
    group.run(5)
    assert len(held(slow)) == len(held(other)) == 3 and not held(slow) & held(other)
    before = held(slow)
    group.polls.discard(slow)
    third = group.join("third")
    group.run(600)
    assert held(slow) == before and not slow.lost, "it is a member, and has what it had"
    assert len(slow.changes().revoke) == 1, "it was asked for one"
    assert len(held(other)) == 2 and len(held(third)) == 1, "others did what they could without it"
    group.polls.add(slow)
    group.run(5)
    assert [len(held(one)) for one in (slow, other, third)] == [2, 2, 2]
    assert not held(slow) - before, "it was given nothing instead"


def test_who_is_silent_for_its_session_is_out_and_comes_back_with_nothing() -> None:
    group = Group()
    gone, other = group.join("gone"), group.join("other")
    group.run(5)
    group.members.remove(gone)
    group.run(50)
    assert len(held(other)) == PARTITIONS
    group.members.append(gone)
    group.run(5)
    assert len(held(gone)) == 3 and not held(gone) & held(other)
