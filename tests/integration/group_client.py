"""Members and clients of groups as the wire has them, without the consumer: for tests of the group coordinators."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from rayqueue.client.addresses import parse_addresses
from rayqueue.client.connection import Channel
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.errors import NotGroupCoordinator, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.group_messages import (
    CommittedOffset,
    DescribeGroupRequest,
    DescribeGroupResponse,
    FindGroupCoordinator,
    GroupCoordinatorAddress,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    GroupPartition,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello

T = TypeVar("T")

WAIT_S = 30.0
CALL_S = 5.0
PAUSE_S = 0.02


def retried(call: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """What `call` gives once it does not fail with an error that passes."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while True:
        try:
            return call()
        except RayQueueError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        pause.wait(PAUSE_S)


class GroupClient:
    """Asks brokers who serves a group, and that one what is asked; again while nobody does."""

    def __init__(self, bootstrap_servers: str, group_id: str, token: str | None = None) -> None:
        self._servers = bootstrap_servers
        self.group_id = group_id
        self._token = token

    def find(self) -> GroupCoordinatorAddress:
        """Who serves the group, as one of the brokers knows."""
        failed: RayQueueError | None = None
        for host, port in parse_addresses(self._servers):
            channel = Channel(host, port, self._token)
            try:
                return channel.call(
                    "find_group_coordinator", FindGroupCoordinator(self.group_id), GroupCoordinatorAddress, CALL_S
                )
            except RayQueueError as error:
                failed = error
            finally:
                channel.close()
        assert failed is not None
        raise failed

    def channel(self) -> tuple[DataChannel, GroupCoordinatorAddress]:
        """A channel to whoever serves the group."""
        where = self.find()
        return DataChannel(where.host, where.port, self._token), where

    def once(self, action: str, request: Any, reply: type[T]) -> T:
        """One request, asked once."""
        return self.channel()[0].call(action, request, reply, CALL_S)

    def ask(self, action: str, request: Any, reply: type[T]) -> T:
        """A request, asked until it is answered."""
        return retried(lambda: self.once(action, request, reply))

    def commit(self, offsets: dict[GroupPartition, int], **of_member: Any) -> list[str]:
        """Commits; without a member, from outside. Gives the errors."""
        said = [CommittedOffset(one.topic_id, one.partition, offset) for one, offset in offsets.items()]
        member = (of_member.get("member_id", ""), of_member.get("member_epoch", 0))
        request = OffsetCommitRequest(self.group_id, *member, said, of_member.get("number", 0))
        return self.ask("offset_commit", request, OffsetCommitResponse).errors

    def committed(self) -> dict[GroupPartition, int]:
        """All that is committed."""
        answer = self.ask("offset_fetch", OffsetFetchRequest(self.group_id, None), OffsetFetchResponse)
        return {GroupPartition(one.topic_id, one.partition): one.offset for one in answer.offsets}

    def describe(self) -> DescribeGroupResponse:
        """The group."""
        return self.ask("describe_group", DescribeGroupRequest(self.group_id), DescribeGroupResponse)


class TestMember:
    """A member: its session is found anew when it breaks, and it obeys what it is told at once."""

    __test__ = False

    def __init__(self, client: GroupClient, topics: list[str], **said: Any) -> None:
        self.client = client
        self.topics = topics
        self.member_id = uuid.uuid4().hex
        self.epoch = 0
        self.holds: set[GroupPartition] = set()
        self.errors: list[str] = []  # that were not NotGroupCoordinator
        self._said = said
        self._exchange: Exchange | None = None

    def __enter__(self) -> TestMember:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Breaks the connection, as a process does that is killed."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def beat(self, epoch: int | None = None) -> GroupHeartbeatResponse:
        """One heartbeat, said until it is answered by who serves the group."""
        return retried(lambda: self._beat(self.epoch if epoch is None else epoch))

    def _beat(self, epoch: int) -> GroupHeartbeatResponse:
        try:
            if self._exchange is None:
                channel, where = self.client.channel()
                hello = Hello(PROTOCOL_VERSION, "group", "", where.broker_id, where.incarnation)
                self._exchange = channel.exchange(hello, CALL_S)
            said = GroupHeartbeat(
                self.client.group_id,
                self.member_id,
                epoch,
                topics=self.topics,
                assignor="uniform",
                owned=sorted(self.holds) if epoch > 0 else [],
                **self._said,
            )
            self._exchange.send(codec.encode(said))
            return self.hear()
        except RayQueueError:
            self.disconnect()
            raise

    def hear(self, timeout_s: float = CALL_S) -> GroupHeartbeatResponse:
        """The next thing that is said to it; it obeys."""
        assert self._exchange is not None
        answer = codec.decode(self._exchange.receive_within(timeout_s), GroupHeartbeatResponse)
        if answer.error == NotGroupCoordinator.__name__:
            raise NotGroupCoordinator(answer.message)
        if answer.error:
            self.errors.append(answer.error)
            return answer
        self.epoch = answer.member_epoch
        if answer.assignment is not None:
            self.holds = {GroupPartition(one.topic_id, n) for one in answer.assignment for n in one.partitions}
        return answer

    def settle(self, partitions: int) -> TestMember:
        """Until it holds so many."""
        deadline, pause = time.monotonic() + WAIT_S, threading.Event()
        while True:
            self.beat()
            if len(self.holds) == partitions:
                return self
            assert time.monotonic() < deadline, f"it holds {len(self.holds)} partitions, not {partitions}"
            pause.wait(PAUSE_S)

    def commit(self, offsets: dict[GroupPartition, int], number: int = 0) -> list[str]:
        """Commits what it has read; gives the errors."""
        return self.client.commit(offsets, member_id=self.member_id, member_epoch=self.epoch, number=number)
