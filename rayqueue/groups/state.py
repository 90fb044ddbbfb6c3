"""The state of a shard: what its log says. Only `replay` mutates it; to take over a shard is to replay its log.

Compaction may leave old values of some keys and not of others, so what is derived (`holders`, `wanted`, `instances`)
may be wrong in the middle of a replay: an entry is taken away only by whom it names, and at the end all is right.
"""

from __future__ import annotations

from typing import Any

from rayqueue.errors import CorruptRecord
from rayqueue.groups.records import (
    BarrierKey,
    Current,
    CurrentKey,
    Group,
    GroupKey,
    HeldPartitions,
    Member,
    MemberKey,
    Offset,
    OffsetKey,
    Owner,
    OwnerKey,
    Record,
    Target,
    TargetKey,
)
from rayqueue.protocol.group_messages import GroupPartition

NO_GROUP = Group(0, 0, 0, "")
Partitions = frozenset[GroupPartition]


class Holding:
    """A member's current assignment (`records.Current`); never changed, replaced.

    Attributes:
        assigned, revoking: each partition with the epoch at which it was given. No partition is in both.
    """

    __slots__ = ("assigned", "member_epoch", "revoking")

    def __init__(
        self, member_epoch: int, assigned: dict[GroupPartition, int], revoking: dict[GroupPartition, int]
    ) -> None:
        self.member_epoch = member_epoch
        self.assigned = assigned
        self.revoking = revoking

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holding) and self.as_tuple() == other.as_tuple()

    __hash__ = None  # type: ignore[assignment]

    def as_tuple(self) -> tuple[Any, ...]:
        """All there is."""
        return self.member_epoch, self.assigned, self.revoking


class GroupState:
    """A group.

    Invariants: see `validate`.

    Attributes:
        record: NO_GROUP for one that never had members.
        members, target, current: by member id; the same members in each.
        offsets: what is committed.
        holders: who holds a partition (assigned or revoking). wanted: whose target it is in.
        instances: member id by instance id.
    """

    __slots__ = ("current", "group_id", "holders", "instances", "members", "offsets", "record", "target", "wanted")

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.record = NO_GROUP
        self.members: dict[str, Member] = {}
        self.target: dict[str, Partitions] = {}
        self.current: dict[str, Holding] = {}
        self.offsets: dict[GroupPartition, Offset] = {}
        self.holders: dict[GroupPartition, str] = {}
        self.wanted: dict[GroupPartition, str] = {}
        self.instances: dict[str, str] = {}

    @property
    def is_void(self) -> bool:
        """Nothing is known of it."""
        known = self.record is not NO_GROUP or self.members or self.target or self.current or self.offsets
        return not known

    @property
    def is_assigning(self) -> bool:
        """Another target assignment is due."""
        return self.record.target_epoch < self.record.changed_epoch

    @property
    def name_of_state(self) -> str:
        """As people are told."""
        if not self.members:
            return "Empty"
        if self.is_assigning:
            return "Assigning"
        settled = all(not one.revoking and one.assigned.keys() == self.target[m] for m, one in self.current.items())
        return "Stable" if settled else "Reconciling"

    def content(self) -> tuple[Any, ...]:
        """All that the log says, to be compared."""
        current = {member_id: one.as_tuple() for member_id, one in self.current.items()}
        return self.record, self.members, self.target, current, self.offsets

    # --- replay --------------------------------------------------------------------------------------------------

    def replay_member(self, member_id: str, value: Member | None) -> None:
        """What a member said."""
        old = self.members.pop(member_id, None)
        if old is not None and self.instances.get(old.instance_id) == member_id:
            del self.instances[old.instance_id]
        if value is not None:
            self.members[member_id] = value
            if value.instance_id:
                self.instances[value.instance_id] = member_id

    def replay_target(self, member_id: str, value: Target | None) -> None:
        """What a member is to have."""
        _forget(self.wanted, self.target.pop(member_id, ()), member_id)
        if value is not None:
            target = frozenset(GroupPartition(one.topic_id, n) for one in value.topics for n in one.partitions)
            self.target[member_id] = target
            self.wanted.update(dict.fromkeys(target, member_id))

    def replay_current(self, member_id: str, value: Current | None) -> None:
        """What a member has."""
        old = self.current.pop(member_id, None)
        if old is not None:
            _forget(self.holders, old.assigned, member_id)
            _forget(self.holders, old.revoking, member_id)
        if value is not None:
            new = Holding(value.member_epoch, _with_epochs(value.assigned), _with_epochs(value.revoking))
            self.current[member_id] = new
            self.holders.update(dict.fromkeys(new.assigned, member_id))
            self.holders.update(dict.fromkeys(new.revoking, member_id))

    def validate(self) -> None:
        """Asserts every invariant that needs no knowledge of topics."""
        record = self.record
        assert self.members.keys() == self.target.keys() == self.current.keys(), self.group_id
        assert not self.members or record is not NO_GROUP
        assert bool(self.members) == (record is not NO_GROUP and not record.emptied_ms) or record is NO_GROUP
        assert record.changed_epoch <= record.epoch and record.target_epoch <= record.epoch
        held: dict[GroupPartition, str] = {}
        wanted: dict[GroupPartition, str] = {}
        for member_id, one in self.current.items():
            assert 0 < one.member_epoch <= record.epoch
            assert self.members[member_id].joined_epoch <= one.member_epoch
            assert not one.assigned.keys() & one.revoking.keys()
            for partition, epoch in [*one.assigned.items(), *one.revoking.items()]:
                assert partition not in held, f"{held[partition]} and {member_id} hold {partition}"
                assert 0 < epoch <= one.member_epoch
                held[partition] = member_id
            for partition in self.target[member_id]:
                assert partition not in wanted, f"{wanted[partition]} and {member_id} are to have {partition}"
                wanted[partition] = member_id
        assert held == self.holders and wanted == self.wanted
        assert self.instances == {m.instance_id: i for i, m in self.members.items() if m.instance_id}
        assert len(self.instances) == sum(bool(m.instance_id) for m in self.members.values())


class ShardState:
    """All groups of a shard, and who serves it."""

    def __init__(self) -> None:
        self.owner: Owner | None = None
        self.groups: dict[str, GroupState] = {}

    def replay(self, record: Record) -> None:
        """Applies one record.

        Raises:
            CorruptRecord: there is no such record.
        """
        key: Any
        value: Any
        key, value = record
        if type(key) is BarrierKey:
            return
        if type(key) is OwnerKey:
            self.owner = value
            return
        group = self.groups.get(key.group_id)
        if group is None:
            if value is None:
                return
            group = self.groups[key.group_id] = GroupState(key.group_id)
        match key:
            case OffsetKey():
                partition = GroupPartition(key.topic_id, key.partition)
                if value is None:
                    group.offsets.pop(partition, None)
                else:
                    group.offsets[partition] = value
            case CurrentKey():
                group.replay_current(key.member_id, value)
            case TargetKey():
                group.replay_target(key.member_id, value)
            case MemberKey():
                group.replay_member(key.member_id, value)
            case GroupKey():
                group.record = NO_GROUP if value is None else value
            case _:
                raise CorruptRecord(f"a group coordinator can not replay {key}")
        if value is None and group.is_void:
            del self.groups[key.group_id]

    def content(self) -> dict[str, Any]:
        """All that the log says, to be compared."""
        return {"": self.owner, **{group_id: group.content() for group_id, group in self.groups.items()}}

    def validate(self) -> None:
        """Asserts every invariant."""
        for group_id, group in self.groups.items():
            assert group_id == group.group_id and not group.is_void
            group.validate()


def _with_epochs(held: list[HeldPartitions]) -> dict[GroupPartition, int]:
    return {
        GroupPartition(one.topic_id, number): epoch
        for one in held
        for number, epoch in zip(one.partitions, one.epochs, strict=True)
    }


def _forget(index: dict[GroupPartition, str], partitions: Any, member_id: str) -> None:
    for partition in partitions:
        if index.get(partition) == member_id:
            del index[partition]
