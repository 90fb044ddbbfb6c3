"""A member's machine with a fake coordinator around it: effects are recorded, events are made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.client.groups.member import MemberMachine
from rayqueue.client.groups.member_effects import Connect, Effect, Find, HangUp, Member, Say, Tell, Warn
from rayqueue.protocol.group_messages import (
    AssignedTopic,
    GroupCoordinatorAddress,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    GroupPartition,
)

__all__ = ["Connect", "Find", "HangUp", "Rig", "Say", "Tell", "Warn", "kinds", "part"]

IDS = {"a": b"a" * 16, "b": b"b" * 16}


def part(number: int, topic: str = "a") -> GroupPartition:
    """A partition."""
    return GroupPartition(IDS[topic], number)


def kinds(effects: Iterable[Effect]) -> list[str]:
    """Their names."""
    return [type(effect).__name__ for effect in effects]


class Rig:
    """The machine, a clock, and what it has said.

    Attributes:
        said: heartbeats, in order. effects: all others.
    """

    def __init__(self, instance_id: str = "", session_ms: int = 45_000, answer_ms: int = 10_000) -> None:
        self.now = 1_000
        self.epoch = 7  # the coordinator's
        self.machine = MemberMachine(
            Member(
                group_id="g",
                member_id="m",
                instance_id=instance_id,
                host="here",
                client_id="me",
                assignor="uniform",
                session_timeout_ms=session_ms,
                rebalance_timeout_ms=0,
                heartbeat_interval_ms=3_000,
                answer_timeout_ms=answer_ms,
                leave_timeout_ms=2_000,
                backoff_ms=lambda failures: min(500, 20 * 2**failures),
            )
        )
        self.said: list[GroupHeartbeat] = []
        self.effects: list[Effect] = []

    def plan(self) -> list[str]:
        """Plans, and checks that planning again changes nothing."""
        effects = self.machine.plan(self.now)
        self.machine.validate()
        assert self.machine.plan(self.now) == []
        self.said += [effect.heartbeat for effect in effects if isinstance(effect, Say)]
        self.effects += effects
        return kinds(effects)

    def pass_ms(self, ms: int) -> list[str]:
        """Time passes, and the machine is called at each of its deadlines."""
        until, happened = self.now + ms, []
        while (deadline := self.machine.next_deadline_ms()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            happened += self.plan()
        self.now = until
        return happened + self.plan()

    def open(self, epoch: int | None = None) -> None:
        """The coordinator is found and the exchange opened."""
        self.plan()
        assert self.effects and "Find" in kinds(self.effects)
        self.epoch = self.epoch if epoch is None else epoch
        self.machine.on_found(GroupCoordinatorAddress(3, 1, "host", 9, "inc", self.epoch), self.now)
        assert self.plan() == ["Connect"]
        self.machine.on_opened(self.now)

    def answer(self, member_epoch: int, assigned: Iterable[GroupPartition] | None = None, **rest: object) -> list[str]:
        """The coordinator speaks."""
        topics = None
        if assigned is not None:
            names = {topic_id: name for name, topic_id in IDS.items()}
            by_topic: dict[bytes, list[int]] = {}
            for one in assigned:
                by_topic.setdefault(one.topic_id, []).append(one.partition)
            topics = [AssignedTopic(topic_id, names[topic_id], numbers) for topic_id, numbers in by_topic.items()]
        response = GroupHeartbeatResponse("g", "m", self.epoch, member_epoch, 5_000, topics)
        for name, value in rest.items():
            setattr(response, name, value)
        self.machine.on_response(response, self.now)
        return self.plan()

    def joined(self, *assigned: GroupPartition, epoch: int = 1) -> Rig:
        """A member that has taken these."""
        self.machine.subscribe(["a", "b"])
        self.open()
        self.plan()
        self.answer(epoch, assigned)
        assert self.machine.take(assigned) == list(assigned)
        self.plan()
        self.answer(epoch)
        return self
