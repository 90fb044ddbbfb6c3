"""What an AdminClient does with consumer groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rayqueue.admin_group_descriptions import GroupDescription, GroupMember, GroupSummary, OffsetReset
from rayqueue.admin_group_offsets import describe_offsets, places, reset_targets
from rayqueue.admin_partitions import Named, pair
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.groups.calls import FIND_ACTION, CoordinatorCalls
from rayqueue.config import AdminConfig
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.errors import ConfigError, GroupNotEmpty, GroupNotFound, from_wire
from rayqueue.protocol.group_messages import (
    AssignedTopic,
    CommittedOffset,
    DeleteGroupRequest,
    DescribeGroupRequest,
    DescribeGroupResponse,
    FindGroupCoordinator,
    GroupCoordinatorAddress,
    GroupListing,
    GroupPartition,
    ListGroupsRequest,
    ListGroupsResponse,
    MemberDescription,
    OffsetCommitRequest,
    OffsetCommitResponse,
)
from rayqueue.protocol.messages import Empty
from rayqueue.types import TopicPartition


class AdminGroups:
    """The part of AdminClient that is about groups."""

    config: AdminConfig
    _client: ClusterClient

    def list_groups(self) -> list[GroupSummary]:
        """All consumer groups, by name.

        Raises:
            GroupCoordinatorNotAvailable: some of them have no coordinator at present.
        """
        listed = self._client.retry(self._list_groups, self._timeout_s)
        return sorted((GroupSummary(g.group_id, g.state, g.members) for g in listed), key=lambda one: one.group)

    def describe_group(self, group: str) -> GroupDescription:
        """A group: members, what they have, committed offsets, ends and lag of the partitions.

        Raises:
            GroupNotFound: nobody ever joined it or committed in it.
        """
        told = self._told(group)
        return GroupDescription(
            told.group_id,
            told.state,
            told.group_epoch,
            told.assignor,
            told.coordinator,
            [_member(member) for member in told.members],
            describe_offsets(self._client, told, self._timeout_s),
        )

    def reset_group_offsets(
        self,
        group: str,
        to: str | datetime | int | Mapping[Named, int] = "earliest",
        dry_run: bool = False,
        topics: Iterable[str] | None = None,
    ) -> list[OffsetReset]:
        """Moves the committed offsets of a group without members.

        Args:
            to: "earliest", "latest", a time (datetime, or ms since the epoch: the first record at or after it; the end
                where none is that new), or {(topic, partition) or TopicPartition: offset}.
            dry_run: only tells what would change.
            topics: all partitions of these; None: the partitions the group has committed.

        Returns:
            What was moved, by topic and partition.

        Raises:
            GroupNotFound: there is no such group, and neither topics nor offsets to begin it with.
            GroupNotEmpty: it has members. OffsetOutOfRange: an offset is not in its log.
            UnknownTopicOrPartition. ConfigError: `to` is none of the above.
        """
        try:
            told = self._told(group)
        except GroupNotFound:
            if topics is None and not isinstance(to, Mapping):
                raise
            told = DescribeGroupResponse(group, "Empty", 0, "", -1, -1, [], [])
        if told.members:
            raise GroupNotEmpty(
                f"group {group!r} has {len(told.members)} members: stop them first, or their commits would undo this"
            )
        names = {topic.topic_id: topic.name for topic in self._client.metadata().topics}
        before = {(names[c.topic_id], c.partition): c.offset for c in told.offsets if c.topic_id in names}
        after = reset_targets(self._client, to, before, topics, self._timeout_s)
        if not dry_run:
            self._commit(group, after)
        return [OffsetReset(*tp, before.get(tp), offset) for tp, offset in sorted(after.items())]

    def delete_group(self, group: str) -> None:
        """Deletes a group with its committed offsets.

        Raises:
            GroupNotFound: there is none. GroupNotEmpty: it has members.
        """
        self._ask_group(group, "delete_group", DeleteGroupRequest(group), Empty)

    def delete_group_offsets(self, group: str, partitions: Iterable[Named]) -> None:
        """Deletes what a group has committed in these partitions.

        Raises:
            GroupNotFound: there is no such group. GroupNotEmpty: a member is subscribed to one of the topics.
            UnknownTopicOrPartition: there is no such topic.
        """
        keys = [GroupPartition(self._client.topic(name).topic_id, number) for name, number in map(pair, partitions)]
        self._ask_group(group, "delete_group", DeleteGroupRequest(group, keys), Empty)

    @property
    def _timeout_s(self) -> float:
        return self.config.request_timeout_ms / 1000

    def _list_groups(self, left_s: float) -> list[GroupListing]:
        found: list[GroupListing] = []
        topics = self._client.refresh([GROUPS_TOPIC], timeout_s=left_s).topics
        for shard in range(len(topics[0].partitions) if topics else 0):  # without the topic there was never a group
            one = self._client.call_broker(
                FIND_ACTION, FindGroupCoordinator("", shard=shard), GroupCoordinatorAddress, left_s
            )
            channel = self._client.data_channel(one.host, one.port)
            found += channel.call("list_groups", ListGroupsRequest(shard), ListGroupsResponse, left_s).groups
        return found

    def _told(self, group: str) -> DescribeGroupResponse:
        told: DescribeGroupResponse = self._ask_group(
            group, "describe_group", DescribeGroupRequest(group), DescribeGroupResponse
        )
        return told

    def _commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        if not offsets:
            return
        commits = [
            CommittedOffset(self._client.topic(name).topic_id, number, offset)
            for (name, number), offset in offsets.items()
        ]
        request = OffsetCommitRequest(group, "", 0, commits)
        response = self._ask_group(group, "offset_commit", request, OffsetCommitResponse)
        for error, message in zip(response.errors, response.messages, strict=True):
            if error:
                raise from_wire(error, message)

    def _ask_group(self, group: str, action: str, request: Any, reply: type[Any]) -> Any:
        if not isinstance(group, str) or not group:
            raise ConfigError(f"a group is named by its id, a text that is not empty, not {group!r}")
        calls = CoordinatorCalls(self._client, group, self.config.client_id, lambda: -1)
        try:
            return calls.call(action, request, reply, self._timeout_s)
        finally:
            calls.close()


def _member(told: MemberDescription) -> GroupMember:
    def named(assigned: list[AssignedTopic]) -> list[TopicPartition]:
        return [TopicPartition(*tp) for tp in sorted(places(assigned))]

    return GroupMember(
        told.member_id,
        told.instance_id,
        told.client_id,
        told.host,
        told.member_epoch,
        told.topics,
        named(told.holds),
        named(told.revoking),
        named(told.target),
        told.heard_ms / 1000,
        told.behind_ms / 1000,
    )
