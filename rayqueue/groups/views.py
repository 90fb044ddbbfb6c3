"""What is told of groups, and deleting them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rayqueue.errors import GroupNotEmpty, GroupNotFound
from rayqueue.groups.commands import Result, Surroundings
from rayqueue.groups.offsets import committed, forget
from rayqueue.groups.records import GroupKey, Record, by_topic
from rayqueue.groups.state import NO_GROUP, GroupState
from rayqueue.protocol.group_messages import (
    AssignedTopic,
    DeleteGroupRequest,
    DescribeGroupRequest,
    DescribeGroupResponse,
    GroupListing,
    GroupPartition,
    ListGroupsResponse,
    MemberDescription,
)
from rayqueue.protocol.messages import Empty

# (group id, member id) -> heard_ms, behind_ms
Times = Callable[[str, str], tuple[int, int]]


def with_names(around: Surroundings, partitions: Iterable[GroupPartition]) -> list[AssignedTopic]:
    """By topic; those of topics that are gone are left out."""
    topics = by_topic(list(partitions)).items()
    return [AssignedTopic(one, around.names[one], numbers) for one, numbers in topics if one in around.names]


def list_groups(around: Surroundings) -> ListGroupsResponse:
    """The shard's."""
    groups = around.state.groups
    return ListGroupsResponse(
        [
            GroupListing(g, groups[g].name_of_state, len(groups[g].members), groups[g].record.epoch)
            for g in sorted(groups)
        ]
    )


def describe(around: Surroundings, request: DescribeGroupRequest, times: Times) -> DescribeGroupResponse:
    """All of a group.

    Raises:
        GroupNotFound: nobody ever heard of it.
    """
    group = _known(around, request.group_id)
    return DescribeGroupResponse(
        group.group_id,
        group.name_of_state,
        group.record.epoch,
        group.record.assignor,
        around.broker_id,
        around.epoch,
        [_member(around, group, member_id, times) for member_id in sorted(group.members)],
        committed(group),
    )


def _member(around: Surroundings, group: GroupState, member_id: str, times: Times) -> MemberDescription:
    member, holding = group.members[member_id], group.current[member_id]
    heard_ms, behind_ms = times(group.group_id, member_id)
    return MemberDescription(
        member_id,
        member.instance_id,
        member.host,
        member.client_id,
        holding.member_epoch,
        member.topics,
        with_names(around, holding.assigned),
        with_names(around, holding.revoking),
        with_names(around, group.target[member_id]),
        heard_ms,
        behind_ms,
        member.session_timeout_ms,
    )


def _known(around: Surroundings, group_id: str) -> GroupState:
    group = around.state.groups.get(group_id)
    if group is None:
        raise GroupNotFound(f"there is no group {group_id!r}: `rayqueue group list` shows all")
    return group


def delete(around: Surroundings, request: DeleteGroupRequest) -> Result:
    """A group with all it has, or some of its offsets.

    Raises:
        GroupNotFound, GroupNotEmpty: nothing was deleted.
    """
    group = _known(around, request.group_id)
    if request.partitions is None:
        if group.members:
            raise GroupNotEmpty(f"group {group.group_id!r} has {len(group.members)} members: stop them first")
        return Result(wholly(group), Empty())
    read = {name: m for m, member in group.members.items() for name in member.topics}
    for one in request.partitions:
        name = around.names.get(one.topic_id, "")
        if name in read:
            raise GroupNotEmpty(f"member {read[name]!r} of group {group.group_id!r} reads {name}: stop it first")
    return Result(forget(group, [one for one in request.partitions if one in group.offsets]), Empty())


def wholly(group: GroupState) -> list[Record]:
    """An empty group is forgotten, with its offsets."""
    records = forget(group, sorted(group.offsets))
    if group.record is not NO_GROUP:
        records.append((GroupKey(group.group_id), None))
    return records
