"""The part of a consumer that is about what its group has committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetching.arguments import timeout_of
from rayqueue.client.fetching.assignment import start_of, topic_partition
from rayqueue.client.fetching.positions import Partition, Positions
from rayqueue.client.groups.auto_commit import offset_of
from rayqueue.client.groups.membership import Membership
from rayqueue.errors import ConfigError, PartitionNotOwned
from rayqueue.message import Message
from rayqueue.protocol.group_messages import CommittedOffset, GroupPartition
from rayqueue.types import TopicPartition

_NO_GROUP = (
    "a group, and this consumer stands alone: give it one (group_id=...), or keep the offsets yourself (position(tp)) "
    "and start there with assign([TopicPartition(topic, partition, offset)])"
)


_Wanted = list[tuple[str, CommittedOffset]]  # with the topics' names


class Commits(Positions):
    """Committed offsets of the partitions that a consumer reads."""

    _membership: Membership | None

    def commit(
        self, message: Message | None = None, offsets: Any = None, asynchronous: bool = False
    ) -> list[TopicPartition] | Future[None]:
        """Commits where the group goes on when this consumer is gone: by default all that was handed out.

        Commits are done in the order in which they are asked for. Away or moving coordinators are waited for, up to
        `request.timeout.ms`.

        Args:
            message: commits that it, and all before it in its partition, was processed.
            offsets: TopicPartitions, each with the offset of the next record wanted (and perhaps `metadata` and
                `leader_epoch`), or {TopicPartition: offset}.
            asynchronous: do not wait.

        Returns:
            What was committed; asynchronous: a future, whose `result` raises what went wrong.

        Raises:
            ConfigError: there is no group, or both message and offsets are given.
            PartitionNotOwned: a partition is not, or not any more, this member's. What it read of it is read again by
                who has it now.
            UnknownMember: this consumer is no member (any more): `poll` joins it again.
            GroupCoordinatorNotAvailable, BrokerNotAvailable, RequestTimeout: nobody took it in time; try again.
        """
        membership = self._of_group("commit")
        with self._guard:
            wanted, foreign = self._split(self._wanted(message, offsets), membership.subscribed)
            if asynchronous:
                future = membership.committer.commit_later([offset for _, offset in wanted])
                return _failed(foreign) if foreign else future
            membership.committer.commit([offset for _, offset in wanted])
            if foreign:
                raise PartitionNotOwned(foreign)
            return [
                TopicPartition(topic, o.partition, o.offset, o.metadata or None, _epoch(o.leader_epoch))
                for topic, o in wanted
            ]

    def committed(self, partitions: Iterable[Partition] | Partition | None = None, timeout: float | None = None) -> Any:
        """Where the group goes on, as committed by whichever member.

        Args:
            partitions: None: those assigned.
            timeout: seconds; None: `request.timeout.ms`.

        Returns:
            For one partition: the offset, or None where nothing is committed. Else a list of TopicPartitions with
            offset (or None), metadata and leader_epoch.

        Raises:
            ConfigError: there is no group.
            UnknownTopicOrPartition: there is no such topic.
            GroupCoordinatorNotAvailable, BrokerNotAvailable, RequestTimeout: nobody answered in time.
        """
        membership = self._of_group("committed")
        with self._guard:
            single = isinstance(partitions, (TopicPartition, tuple))
            given: list[Any] = [partitions] if single else list(partitions or [])  # type: ignore[arg-type]
            if partitions is None:
                given = [TopicPartition(*key) for key in sorted(self._engine.machine.cursors)]
            asked = [topic_partition(one) for one in given]
            questions = [GroupPartition(self._topic_id(tp.topic), tp.partition) for tp in asked]
            answers = membership.committer.committed(questions, timeout_of(timeout)) if questions else []
            found = [
                TopicPartition(
                    tp.topic,
                    tp.partition,
                    answer.offset if answer.offset >= 0 else None,
                    answer.metadata or None,
                    _epoch(answer.leader_epoch),
                )
                for tp, answer in zip(asked, answers, strict=True)
            ]
            return found[0].offset if single else found

    def _split(self, wanted: _Wanted, member: bool) -> tuple[_Wanted, str]:
        """What we may commit, and what to say of the rest: a member commits for what it reads.

        The coordinator would let it pass where the partition has gone, been read on by another, and come back to this
        member, whose reader has not been told yet.
        """
        cursors = self._engine.machine.cursors
        if not member:
            return wanted, ""
        held = [one for one in wanted if (one[0], one[1].partition) in cursors]
        foreign = [f"{topic}-{o.partition}" for topic, o in wanted if (topic, o.partition) not in cursors]
        if not foreign:
            return held, ""
        names = ", ".join(foreign[:10])
        return (
            held,
            f"{names} is not, or not any more, read by this member of the group: its offset is for others to commit",
        )

    def _of_group(self, what: str) -> Membership:
        if self._membership is None:
            raise ConfigError(f"{what} needs {_NO_GROUP}")
        return self._membership

    def _wanted(self, message: Message | None, offsets: Any) -> _Wanted:
        if message is not None and offsets is not None:
            raise ConfigError("commit takes a message or offsets, not both")
        if message is not None:
            if not isinstance(message, Message):
                raise ConfigError(f"commit(message) takes a Message, not {message!r}")
            topic_id = self._topic_id(message.topic)
            return [
                (
                    message.topic,
                    CommittedOffset(topic_id, message.partition, message.offset + 1, message.leader_epoch),
                )
            ]
        if offsets is not None:
            return [self._given(tp) for tp in _partitions(offsets)]
        cursors: list[Cursor] = [c for _, c in sorted(self._engine.machine.cursors.items()) if c.position is not None]
        return [(cursor.topic, offset_of(cursor)) for cursor in cursors]

    def _given(self, tp: TopicPartition) -> tuple[str, CommittedOffset]:
        offset = start_of(tp)
        if not isinstance(offset, int):
            raise ConfigError(f"an offset to commit is that of the next record wanted, not {tp.offset!r}")
        epoch = -1 if tp.leader_epoch is None else tp.leader_epoch
        return tp.topic, CommittedOffset(self._topic_id(tp.topic), tp.partition, offset, epoch, tp.metadata or "")

    def _topic_id(self, topic: str) -> bytes:
        info = self._engine.machine.leaders.topics.get(topic) or self._engine.client.topic(topic)
        return info.topic_id


def _partitions(offsets: Any) -> list[TopicPartition]:
    if isinstance(offsets, Mapping):
        named = [(topic_partition(tp), offset) for tp, offset in offsets.items()]
        return [TopicPartition(tp.topic, tp.partition, offset) for tp, offset in named]
    single = isinstance(offsets, (TopicPartition, tuple))
    return [topic_partition(one) for one in ([offsets] if single else offsets)]


def _failed(text: str) -> Future[None]:
    future: Future[None] = Future()
    future.set_exception(PartitionNotOwned(text))
    return future


def _epoch(leader_epoch: int) -> int | None:
    return leader_epoch if leader_epoch >= 0 else None
