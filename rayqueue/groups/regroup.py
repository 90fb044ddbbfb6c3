"""When a group needs another target assignment, and making it."""

from __future__ import annotations

from rayqueue.groups.assignors import Subscriber, Topics
from rayqueue.groups.commands import ASSIGNORS
from rayqueue.groups.reconcile import bumped
from rayqueue.groups.records import Record, TargetKey, target_of
from rayqueue.groups.state import GroupState
from rayqueue.protocol.group_messages import GroupPartition


def assign(group: GroupState, topics: Topics) -> list[Record]:
    """The targets that change, and the group's next epoch, which is that of this assignment."""
    members = {
        member_id: Subscriber((member.joined_epoch, member_id), member.topics, frozenset(member.local_brokers))
        for member_id, member in group.members.items()
    }
    assignment = ASSIGNORS[group.record.assignor](members, topics, group.target)
    records: list[Record] = [
        (TargetKey(group.group_id, member_id), target_of(list(partitions)))
        for member_id, partitions in assignment.items()
        if partitions != group.target[member_id]
    ]
    epoch = group.record.epoch + 1
    records.append(bumped(group, changed_epoch=epoch, target_epoch=epoch))
    return records


def wanted_partitions(group: GroupState, topics: Topics) -> set[GroupPartition]:
    """Every partition of every topic that a member subscribes to."""
    names = {name for member in group.members.values() for name in member.topics if name in topics}
    return {
        GroupPartition(topics[name].topic_id, number) for name in names for number in range(len(topics[name].replicas))
    }


def is_outdated(group: GroupState, topics: Topics) -> bool:
    """Whether topics or partitions have come or gone since the last target assignment."""
    return bool(group.members) and not group.is_assigning and wanted_partitions(group, topics) != group.wanted.keys()


def validate_target(group: GroupState, topics: Topics) -> None:
    """Asserts: every partition of subscribed topics is in one target (and in that only: `GroupState.validate`), each
    member's are of topics that it subscribes to, and what nobody holds was given to who is to have it."""
    if group.is_assigning or not group.members:
        return
    assert group.wanted.keys() == wanted_partitions(group, topics)
    names = {facts.topic_id: name for name, facts in topics.items()}
    for member_id, target in group.target.items():
        assert {names[one.topic_id] for one in target} <= set(group.members[member_id].topics)
    for one, member_id in group.wanted.items():
        assert one in group.holders, f"{member_id} is to have {one}, which nobody holds"
