"""From what members have to what they are to have, without two ever holding one partition (KIP-848).

A member keeps what is in its target, is asked to give up the rest, and is given at once what nobody else holds or is
still giving up. So who loses nothing never pauses, and a member may be given some while it gives up others. Kafka keeps
a member at its old epoch until it has given up everything; here the epoch names the assignment
(`GroupHeartbeatResponse`), and each partition remembers the epoch at which it was given.

    free ── in the target ──▶ assigned ── not in the target ──▶ revoking ── the member says that it let go ──▶ free
                                 ▲                                 │
                                 └────── in the target again ──────┘
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from rayqueue.groups.records import Current, CurrentKey, GroupKey, Record, held_of
from rayqueue.groups.state import GroupState, Holding
from rayqueue.protocol.group_messages import GroupPartition


def reconciled(group: GroupState, member_id: str, epoch: int) -> Holding | None:
    """What the member should have by now, given at this epoch; None: just what it has."""
    has, target, holders = group.current[member_id], group.target[member_id], group.holders
    if has.assigned.keys() == target and not has.revoking:
        return None
    assigned = {one: given for one, given in has.assigned.items() if one in target}
    revoking = {one: given for one, given in has.revoking.items() if one not in target}
    changed = len(assigned) != len(has.assigned) or len(revoking) != len(has.revoking)
    # What it was asked for and is to have again it never lost; whether it has let go already does not matter.
    assigned.update((one, given) for one, given in has.revoking.items() if one in target)
    if group.members[member_id].away:
        revoking = {}  # it holds nothing, and will not say so
    else:
        revoking.update((one, given) for one, given in has.assigned.items() if one not in target)
    for one in target:
        if one not in holders:
            assigned[one] = epoch
            changed = True
    return Holding(epoch, assigned, revoking) if changed else None


def reconcile(group: GroupState, members: Iterable[str], epoch: int) -> list[Record]:
    """Records that bring these members to what they should have; none: they have it. epoch: the group's next one."""
    records: list[Record] = []
    for member_id in members:
        holding = reconciled(group, member_id, epoch)
        if holding is not None:
            records.append(current_record(group.group_id, member_id, holding))
    return records


def let_go(group: GroupState, member_id: str, owned: Iterable[GroupPartition]) -> Holding | None:
    """What the member has, when of all that was asked back it still holds only what is in `owned`; None: as before."""
    has = group.current[member_id]
    still = set(owned)
    revoking = {one: given for one, given in has.revoking.items() if one in still}
    if len(revoking) == len(has.revoking):
        return None
    return Holding(has.member_epoch, has.assigned, revoking)


def waiting_for(group: GroupState, freed: Iterable[GroupPartition]) -> list[str]:
    """The members that are to have these partitions."""
    return sorted({group.wanted[one] for one in freed if one in group.wanted})


def current_record(group_id: str, member_id: str, holding: Holding) -> Record:
    """As a record."""
    value = Current(holding.member_epoch, held_of(holding.assigned), held_of(holding.revoking))
    return CurrentKey(group_id, member_id), value


def bumped(group: GroupState, **changes: Any) -> Record:
    """The group's record with the next epoch, and what else changes."""
    return GroupKey(group.group_id), replace(group.record, epoch=group.record.epoch + 1, **changes)
