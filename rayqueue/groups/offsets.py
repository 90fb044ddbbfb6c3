"""Committed offsets: who may commit what, what is committed, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.errors import (
    GroupNotEmpty,
    OffsetOutOfRange,
    PartitionNotOwned,
    RayQueueError,
    RecordTooLarge,
    StaleMemberEpoch,
    UnknownMember,
    UnknownTopicOrPartition,
)
from rayqueue.groups.commands import Result, Surroundings
from rayqueue.groups.membership import check_ids
from rayqueue.groups.records import Offset, OffsetKey, Record
from rayqueue.groups.state import GroupState, Holding
from rayqueue.protocol.group_messages import (
    NO_OFFSET,
    CommittedOffset,
    GroupPartition,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)


def commit(around: Surroundings, request: OffsetCommitRequest, wall_ms: int) -> Result:
    """Each offset by itself: one that is not taken does not keep the others from being.

    Raises:
        UnknownMember, StaleMemberEpoch, GroupNotEmpty, InvalidGroup: none of them is taken.
    """
    check_ids(request.group_id)
    group = around.state.groups.get(request.group_id)
    holding = _holding(group, request)
    records: list[Record] = []
    errors, messages = [""] * len(request.offsets), [""] * len(request.offsets)
    limit = around.config.metadata_bytes_max
    for place, one in enumerate(request.offsets):
        problem = _problem(around, holding, request, one, limit)
        if problem is not None:
            errors[place], messages[place] = type(problem).__name__, str(problem)
        elif group is None or not _came_late(group, request, one):
            key = OffsetKey(request.group_id, one.topic_id, one.partition)
            value = Offset(one.offset, one.leader_epoch, one.metadata, wall_ms, request.member_id, request.number)
            records.append((key, value))
    return Result(records, OffsetCommitResponse(errors, messages))


def _holding(group: GroupState | None, request: OffsetCommitRequest) -> Holding | None:
    """What the member has; None: no member asks, and there is none."""
    if not request.member_id:
        if group is not None and group.members:
            raise GroupNotEmpty(
                f"group {request.group_id!r} has {len(group.members)} members: stop them before its offsets are set "
                "from outside; a consumer with assign() needs a group of its own"
            )
        return None
    holding = group.current.get(request.member_id) if group is not None else None
    if holding is None:
        raise UnknownMember(f"group {request.group_id!r} has no member {request.member_id!r} (any more)")
    if request.member_epoch > holding.member_epoch:
        raise StaleMemberEpoch(f"member {request.member_id!r} was never given epoch {request.member_epoch}")
    return holding


def _problem(
    around: Surroundings, holding: Holding | None, request: OffsetCommitRequest, one: CommittedOffset, limit: int
) -> RayQueueError | None:
    if one.offset < 0:
        return OffsetOutOfRange(f"{one.offset} is no offset: a committed offset is 0 or more")
    if 4 * len(one.metadata) > limit and len(one.metadata.encode()) > limit:
        return RecordTooLarge(f"the metadata of a committed offset has at most {limit} bytes")
    partition = GroupPartition(one.topic_id, one.partition)
    if holding is None:
        name = around.names.get(one.topic_id)
        if name is None or not 0 <= one.partition < len(around.topics[name].replicas):
            return UnknownTopicOrPartition(f"there is no partition {one.partition} of topic {one.topic_id.hex()}")
        return None
    # KIP-1251: the epoch at which the member was given the partition is enough; it need not be its last one. An epoch
    # before that is of another time, between which and now others may have had the partition.
    given = holding.assigned.get(partition)
    if given is None:
        given = holding.revoking.get(partition)
    if given is None or request.member_epoch < given:
        name = around.names.get(one.topic_id, one.topic_id.hex())
        return PartitionNotOwned(f"member {request.member_id!r} does not hold {name}-{one.partition} (any more)")
    return None


def _came_late(group: GroupState, request: OffsetCommitRequest, one: CommittedOffset) -> bool:
    """Whether a later request of the same member was taken before: then this one counts as taken before that."""
    if not request.number or not request.member_id:
        return False
    last = group.offsets.get(GroupPartition(one.topic_id, one.partition))
    return last is not None and last.member_id == request.member_id and request.number < last.number


def fetch(around: Surroundings, request: OffsetFetchRequest) -> OffsetFetchResponse:
    """What is committed.

    Raises:
        UnknownMember: of a member that is none any more: what it reads on from is for others to say.
    """
    group = around.state.groups.get(request.group_id)
    if request.member_id and (group is None or request.member_id not in group.members):
        raise UnknownMember(f"group {request.group_id!r} has no member {request.member_id!r} (any more)")
    if request.partitions is None:
        return OffsetFetchResponse(committed(group) if group is not None else [])
    offsets = group.offsets if group is not None else {}
    return OffsetFetchResponse([_committed(one, offsets.get(one)) for one in request.partitions])


def committed(group: GroupState) -> list[CommittedOffset]:
    """All that are, in order."""
    return [_committed(one, group.offsets[one]) for one in sorted(group.offsets)]


def _committed(one: GroupPartition, value: Offset | None) -> CommittedOffset:
    if value is None:
        return CommittedOffset(one.topic_id, one.partition, NO_OFFSET)
    return CommittedOffset(
        one.topic_id, one.partition, value.offset, value.leader_epoch, value.metadata, value.commit_ms
    )


def forget(group: GroupState, partitions: Iterable[GroupPartition]) -> list[Record]:
    """Nothing is committed for these any more."""
    return [(OffsetKey(group.group_id, one.topic_id, one.partition), None) for one in partitions]


def expired(around: Surroundings, group: GroupState, wall_ms: int) -> list[GroupPartition]:
    """Offsets whose time is over: so long after the group became empty, or, where it had no members, or has some that
    do not subscribe to the topic, after they were committed."""
    before = wall_ms - around.config.offsets_retention_ms
    if group.record.emptied_ms > before:
        return []
    subscribed = {around.topics[n].topic_id for m in group.members.values() for n in m.topics if n in around.topics}
    return [
        one
        for one, value in group.offsets.items()
        if max(value.commit_ms, group.record.emptied_ms) <= before and one.topic_id not in subscribed
    ]
