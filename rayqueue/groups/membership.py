"""What a heartbeat changes: members come in, go, subscribe to something else, and say what they let go.

JOIN_EPOCH          a new member; or a known one, which holds nothing any more; or one with the instance id of
                    another, which takes that one's place
LEAVE_EPOCH         gone, and its partitions are free
LEAVE_STATIC_EPOCH  a static member is away: it keeps what it was to hold until its session ends
else                as the coordinator gave it; `owned` counts when the member knew of its present assignment
"""

from __future__ import annotations

from msgspec.structs import replace

from rayqueue.errors import FencedInstance, InvalidGroup, StaleMemberEpoch, UnknownMember, UnsupportedAssignor
from rayqueue.groups.commands import ASSIGNORS, DEFAULT_ASSIGNOR
from rayqueue.groups.config import ID_CHARS_MAX
from rayqueue.groups.reconcile import bumped, current_record, let_go
from rayqueue.groups.records import CurrentKey, Member, MemberKey, Record, TargetKey, target_of
from rayqueue.groups.state import GroupState, Holding
from rayqueue.protocol.group_messages import GroupHeartbeat, GroupPartition


def check_ids(group_id: str, member_id: str = "-", instance_id: str = "") -> None:
    """Raises InvalidGroup for ids that are none."""
    for what, text in (("group id", group_id), ("member id", member_id), ("group.instance.id", instance_id or "-")):
        if not 0 < len(text) <= ID_CHARS_MAX:
            raise InvalidGroup(f"a {what} has 1 to {ID_CHARS_MAX} characters, not {len(text)}: choose another")


# --- coming in ------------------------------------------------------------------------------------------------------


def join(group: GroupState, said: GroupHeartbeat) -> list[Record]:
    """A member comes in, comes back, or takes the place of another.

    Raises:
        InvalidGroup, UnsupportedAssignor: see the message.
    """
    check_ids(said.group_id, said.member_id, said.instance_id)
    if said.topics is None:
        raise InvalidGroup("a member that joins says which topics it subscribes to")
    assignor = _assignor(group, said)
    known = group.members.get(said.member_id)
    placeholder = group.instances.get(said.instance_id) if said.instance_id else None
    before = group.members[placeholder] if placeholder is not None else known
    topics = sorted(set(said.topics))
    changes = before is None or before.topics != topics or assignor != group.record.assignor
    epoch = group.record.epoch + 1
    records: list[Record] = []
    holding = Holding(epoch, {}, {})
    target: list[GroupPartition] = []
    if placeholder is not None and placeholder != said.member_id:
        records += gone(group, placeholder)
        if known is None:
            # Its predecessor is told, and may read on until it hears of it; by a commit it can do no harm. What that
            # one was still giving up is free: who is to have it need not wait longer than the successor itself.
            holding = Holding(epoch, dict.fromkeys(group.current[placeholder].assigned, epoch), {})
            target = list(group.target[placeholder])
        else:
            changes = True
    if known is None:
        records.append((TargetKey(said.group_id, said.member_id), target_of(target)))
    records.append((MemberKey(said.group_id, said.member_id), _member(said, before, epoch)))
    records.append(current_record(said.group_id, said.member_id, holding))
    changed = epoch if changes else group.record.changed_epoch
    records.append(bumped(group, changed_epoch=changed, assignor=assignor, emptied_ms=0))
    return records


def _assignor(group: GroupState, said: GroupHeartbeat) -> str:
    """The group's, when this member is in."""
    others = group.members.keys() - {said.member_id}
    present = group.record.assignor if others else ""
    wanted = said.assignor or present or DEFAULT_ASSIGNOR
    if wanted not in ASSIGNORS:
        known = ", ".join(ASSIGNORS)
        raise UnsupportedAssignor(f"there is no assignor {wanted!r}: partition_assignment is one of {known}")
    if present and wanted != present:
        raise UnsupportedAssignor(
            f"the other members of group {said.group_id!r} have partition_assignment={present!r}, this one has "
            f"{wanted!r}: give all of them the same, or unsubscribe() and subscribe() again when the others have left"
        )
    return wanted


def _member(said: GroupHeartbeat, before: Member | None, epoch: int) -> Member:
    local = before.local_brokers if before is not None else []
    return Member(
        said.instance_id,
        said.host,
        said.client_id,
        sorted(set(said.local_brokers)) if said.local_brokers is not None else local,
        max(said.session_timeout_ms, 1),
        max(said.rebalance_timeout_ms, 0),
        sorted(set(said.topics)) if said.topics is not None else before.topics if before is not None else [],
        before.joined_epoch if before is not None else epoch,
    )


# --- being in -------------------------------------------------------------------------------------------------------


def fenced(said: GroupHeartbeat) -> FencedInstance:
    """What the older of two with one instance id is told."""
    return FencedInstance(
        f"another member of group {said.group_id!r} has joined with group.instance.id {said.instance_id!r}: each "
        "running consumer needs its own; unsubscribe() and subscribe() again take it back, and put the other out"
    )


def check_member(group: GroupState | None, said: GroupHeartbeat) -> Member:
    """The member that says it.

    Raises:
        UnknownMember, StaleMemberEpoch, FencedInstance: it is none, or none any more.
    """
    member = group.members.get(said.member_id) if group is not None else None
    if member is None or group is None:
        if group is not None and said.instance_id in group.instances:
            raise fenced(said)
        raise UnknownMember(f"group {said.group_id!r} has no member {said.member_id!r} (any more): join again")
    if said.member_epoch > group.current[said.member_id].member_epoch:
        raise StaleMemberEpoch(f"member {said.member_id!r} was never given epoch {said.member_epoch}: join again")
    return member


def stay(group: GroupState, said: GroupHeartbeat, member: Member) -> list[Record]:
    """A member is there; mostly that is all.

    Raises:
        StaleMemberEpoch: it holds what it was not given.
    """
    records: list[Record] = []
    if said.topics is not None or member.away:
        # Timeouts and names are taken only with the whole: a heartbeat that says little has them at their defaults.
        new = replace(_member(said, member, 0), instance_id=member.instance_id) if said.topics is not None else member
        new = replace(new, away=False)
        if new != member:
            records.append((MemberKey(said.group_id, said.member_id), new))
            if new.topics != member.topics:
                records.append(bumped(group, changed_epoch=group.record.epoch + 1))
    has = group.current[said.member_id]
    if said.owned is not None and said.member_epoch == has.member_epoch:
        for one in said.owned:
            if one not in has.assigned and one not in has.revoking:
                raise StaleMemberEpoch(
                    f"member {said.member_id!r} holds partition {one.partition} of topic {one.topic_id.hex()}, which "
                    "it was not given under this epoch: let go of everything and join again"
                )
        holding = let_go(group, said.member_id, said.owned)
        if holding is not None:
            records.append(current_record(said.group_id, said.member_id, holding))
    return records


# --- going ----------------------------------------------------------------------------------------------------------


def gone(group: GroupState, member_id: str) -> list[Record]:
    """Nothing is known of the member any more."""
    group_id = group.group_id
    return [
        (CurrentKey(group_id, member_id), None),
        (TargetKey(group_id, member_id), None),
        (MemberKey(group_id, member_id), None),
    ]


def remove(group: GroupState, member_ids: list[str], wall_ms: int) -> list[Record]:
    """These members are gone; what they had goes to the others."""
    records = [record for member_id in member_ids for record in gone(group, member_id)]
    epoch = group.record.epoch + 1
    if group.members.keys() <= set(member_ids):
        records.append(bumped(group, changed_epoch=epoch, target_epoch=epoch, emptied_ms=max(wall_ms, 1)))
    else:
        records.append(bumped(group, changed_epoch=epoch))
    return records


def go_away(group: GroupState, member_id: str) -> list[Record]:
    """A static member goes for a while. It holds nothing now, so what it was giving up is free."""
    records: list[Record] = []
    holding = let_go(group, member_id, ())
    if holding is not None:
        records.append(current_record(group.group_id, member_id, holding))
    member = group.members[member_id]
    if not member.away:
        records.append((MemberKey(group.group_id, member_id), replace(member, away=True)))
    return records
