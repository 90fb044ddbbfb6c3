"""A shard with its log, and members, for tests: the machine is validated and its log replayed after each event."""

from __future__ import annotations

from itertools import count
from typing import Any

from rayqueue.errors import RayQueueError
from rayqueue.groups import events as ev
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.machine import ShardMachine
from rayqueue.groups.records import BarrierKey, Encoded, decode_record, owner_record
from rayqueue.groups.state import ShardState
from rayqueue.protocol.group_messages import (
    AssignedTopic,
    CommittedOffset,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    GroupPartition,
    OffsetCommitRequest,
    OffsetFetchRequest,
)

AT_ONCE = GroupConfig(assignment_interval_ms=0)


def topic_id(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def facts(*brokers: int, partitions: int = 0, name: str = "") -> ev.TopicFacts:
    """A topic whose partition i has one replica, on brokers[i]; or with so many partitions, all on broker 1."""
    replicas = tuple((broker,) for broker in brokers) or ((1,),) * partitions
    return ev.TopicFacts(topic_id(name), replicas)


def compacted(log: list[Encoded]) -> list[Encoded]:
    """The last record of each key, in the order of the log."""
    last = {key: place for place, (key, _) in enumerate(log)}
    return [record for place, record in enumerate(log) if last[record[0]] == place]


def replayed(log: list[Encoded]) -> ShardState:
    state = ShardState()
    for key, value in log:
        state.replay(decode_record(key, value))
    return state


class Shard:
    """One owner of one shard.

    Attributes:
        log: what was appended. held: whether appends stay under way until `commit`. answers: by call.
        pushes: (session, response) in order. appends: effects, as they came.
    """

    def __init__(self, config: GroupConfig | None = None, **topics: int) -> None:
        self.machine = ShardMachine(0, 1, config or AT_ONCE)
        self.now_ms, self.wall_ms = 1_000, 1_700_000_000_000
        self.log: list[Encoded] = []
        self.held = False
        self.under_way: list[int] = []
        self.appends: list[ev.Append] = []
        self.answers: dict[int, Any] = {}
        self.pushes: list[tuple[int, GroupHeartbeatResponse]] = []
        self.warnings: list[str] = []
        self.taken_over: list[str] = []
        self.topics: dict[str, ev.TopicFacts] = {}
        self.calls, self.sessions = count(1), count(1)
        self.owner = self.epoch = 0
        self.tell_topics(**topics)
        self.lead()

    # --- what happens --------------------------------------------------------------------------------------------

    def step(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.machine.step(event, self.now_ms, self.wall_ms)
        self.machine.validate()
        for effect in effects:
            match effect:
                case ev.Append():
                    self.appends.append(effect)
                    self.log += effect.records
                    self.under_way.append(effect.number)
                case ev.Reply():
                    self._answer(effect.call, effect.response)
                case ev.Refuse():
                    self._answer(effect.call, effect.error)
                case ev.Push():
                    self.pushes.append((effect.session, effect.response))
                case ev.Warn():
                    self.warnings.append(effect.message)
                case ev.TakeOverAnew():
                    self.taken_over.append(effect.reason)
        if self.machine.is_serving:
            again = self.machine.state.content()
            assert replayed(self.log).content() == again == replayed(compacted(self.log)).content()
        if not self.held:
            self.commit()
        return effects

    def _answer(self, call: int, answer: Any) -> None:
        assert call not in self.answers, "answered twice"
        self.answers[call] = answer

    def commit(self) -> None:
        """All that is under way is in the log."""
        while self.under_way:
            self.step(ev.Appended(self.under_way.pop(0)))

    def lead(self) -> None:
        """Takes the shard over (anew): a new owner, fenced in by a record."""
        self.under_way.clear()
        self.epoch += 1
        self.step(ev.Lead(self.epoch))
        records = [(key, value, self.wall_ms) for key, value in self.log]
        self.step(ev.Replay(records))
        self.owner = self.machine.owner.number + 1 if self.machine.owner else 1
        fence = owner_record(self.owner, 1, "incarnation", self.epoch)
        self.log.append(fence)
        self.step(ev.Replay([(*fence, self.wall_ms)]))
        self.step(ev.Loaded())

    def pass_time(self, ms: int) -> None:
        """Ticks as a driver would."""
        until = self.now_ms + ms
        while (due := self.machine.next_deadline_ms()) is not None and due <= until:
            self.wall_ms += max(due - self.now_ms, 0)
            self.now_ms = max(due, self.now_ms)
            self.step(ev.Tick())
        self.wall_ms += until - self.now_ms
        self.now_ms = until

    def tell_topics(self, **partitions: int) -> None:
        """All topics there are, with so many partitions, on broker 1."""
        self.topics = {name: facts(partitions=n, name=name) for name, n in partitions.items()}
        self.step(ev.Topics(self.topics))

    def ask(self, message: Any, session: int = 0) -> int:
        """Asks; gives the call."""
        call = next(self.calls)
        self.step(ev.Request(call, message, session))
        return call

    def say(self, message: Any, session: int = 0) -> Any:
        """Asks, and gives the answer; raises it, if it is an error."""
        answer = self.answers[self.ask(message, session)]
        if isinstance(answer, RayQueueError):
            raise answer
        return answer

    def commits_by(self, name: str, group: str = "g", **offsets: int) -> list[str]:
        """Without a member; t=5 is partition 0 of topic t. The errors."""
        wanted = [CommittedOffset(topic_id(topic), 0, offset) for topic, offset in offsets.items()]
        return list(self.say(OffsetCommitRequest(group, name, 0, wanted)).errors)

    def offsets(self, group: str = "g") -> dict[tuple[str, int], int]:
        """All that is committed, by (topic, partition)."""
        response = self.say(OffsetFetchRequest(group, None))
        return {(one.topic_id.decode().rstrip("."), one.partition): one.offset for one in response.offsets}

    @property
    def barriers(self) -> int:
        return sum(type(decode_record(key, value)[0]) is BarrierKey for key, value in self.log)


def flat(topics: list[AssignedTopic]) -> set[GroupPartition]:
    return {GroupPartition(one.topic_id, number) for one in topics for number in one.partitions}


class Member:
    """A member with an exchange, that does what it is told when it `follows`.

    Attributes:
        assignment: what it is to hold, as said last. owned: what it holds.
    """

    def __init__(self, shard: Shard, member_id: str, *topics: str, group: str = "g", **settings: Any) -> None:
        self.shard, self.group, self.member_id = shard, group, member_id
        self.topics, self.settings = list(topics), settings
        self.epoch = 0
        self.error = ""
        self.assignment: set[GroupPartition] = set()
        self.owned: set[GroupPartition] = set()
        self.heard = 0
        self.open()

    def open(self) -> None:
        """Another exchange."""
        self.session = next(self.shard.sessions)
        self.shard.step(ev.Opened(self.group, self.member_id, self.session))

    def close(self) -> None:
        self.shard.step(ev.Closed(self.group, self.member_id, self.session))

    def heartbeat(self, epoch: int | None = None, **said: Any) -> GroupHeartbeatResponse:
        """Says it, with what the member always says; takes in the answer."""
        epoch = self.epoch if epoch is None else epoch
        message = GroupHeartbeat(self.group, self.member_id, epoch, **{**self.settings, **said})
        response = self.shard.say(message, self.session)
        assert isinstance(response, GroupHeartbeatResponse)
        self._take(response)
        return response

    def _take(self, response: GroupHeartbeatResponse) -> None:
        self.error = response.error
        if response.error:
            return
        self.epoch = response.member_epoch
        if response.assignment is not None:
            self.assignment = flat(response.assignment)

    def join(self, **said: Any) -> GroupHeartbeatResponse:
        """Comes in, with nothing."""
        self.owned = set()
        response = self.heartbeat(0, topics=self.topics, owned=[], **said)
        self.owned = set(self.assignment)
        return response

    def hear(self) -> None:
        """Takes in what was pushed to it since it looked last."""
        pushes = [response for session, response in self.shard.pushes[self.heard :] if session == self.session]
        self.heard = len(self.shard.pushes)
        for response in pushes:
            self._take(response)

    def follow(self) -> bool:
        """Does what it was told, and says so; whether there was anything to do."""
        self.hear()
        if self.owned == self.assignment:
            return False
        self.owned = set(self.assignment)
        self.heartbeat(owned=sorted(self.owned))
        return True

    def commit(self, number: int = 0, epoch: int | None = None, **offsets: int) -> list[str]:
        """t_3=7 commits offset 7 of partition 3 of topic t; the errors."""
        wanted = []
        for name, offset in offsets.items():
            topic, _, partition = name.rpartition("_")
            wanted.append(CommittedOffset(topic_id(topic), int(partition), offset))
        epoch = self.epoch if epoch is None else epoch
        return list(self.shard.say(OffsetCommitRequest(self.group, self.member_id, epoch, wanted, number)).errors)


def calm(*members: Member) -> None:
    """Until nobody has anything to do."""
    for _ in range(100):
        followed = [member.follow() for member in members]
        if not any(followed):
            return
    raise AssertionError("the members never come to rest")
