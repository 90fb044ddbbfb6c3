"""One turn of the machine: what it changes, record by record, until every group is settled.

Settled: no target assignment is due (or it is not yet time), and every member was given what it is to have and nobody
holds. Settling again gives no records.
"""

from __future__ import annotations

from rayqueue.groups.commands import Surroundings
from rayqueue.groups.reconcile import bumped, reconcile, waiting_for
from rayqueue.groups.records import CurrentKey, Encoded, Record, encode_record
from rayqueue.groups.regroup import assign, is_outdated
from rayqueue.groups.state import GroupState
from rayqueue.groups.timers import Timers
from rayqueue.protocol.group_messages import GroupPartition


class Turn:
    """Collects the records of one step; each is replayed as it comes.

    Attributes:
        records: of the step. touched: members (group id, member id) whose assignment has changed.
    """

    def __init__(self, around: Surroundings, timers: Timers) -> None:
        self._around = around
        self._timers = timers
        self._next_assignment_ms: dict[str, int] = {}
        self._freed: dict[str, list[GroupPartition]] = {}
        self.records: list[Record] = []
        self.touched: dict[tuple[str, str], None] = {}

    def change(self, records: list[Record]) -> None:
        """Replays them; the append is made at the end of the step."""
        state = self._around.state
        for record in records:
            key = record[0]
            if type(key) is not CurrentKey:
                state.replay(record)
                continue
            group = state.groups.get(key.group_id)
            before = group.current.get(key.member_id) if group is not None else None
            state.replay(record)
            self.touched[key.group_id, key.member_id] = None
            if group is not None and before is not None:
                freed = self._freed.setdefault(key.group_id, [])
                freed += [one for one in before.assigned if one not in group.holders]
                freed += [one for one in before.revoking if one not in group.holders]
        self.records += records

    def settle(self, group: GroupState, now_ms: int) -> None:
        """Another target assignment, if one is due, and to everybody what is free for him."""
        group_id = group.group_id
        if group.is_assigning and group.members:
            due_ms = self._next_assignment_ms.get(group_id, now_ms)
            if now_ms >= due_ms:
                self._next_assignment_ms[group_id] = now_ms + self._around.config.assignment_interval_ms
                self.change(assign(group, self._around.topics))
                self.change(reconcile(group, sorted(group.members), group.record.epoch))
            else:
                self._timers.set(("assign", group_id), due_ms)
        while freed := self._freed.pop(group_id, None):
            records = reconcile(group, waiting_for(group, freed), group.record.epoch + 1)
            if records:
                self.change([bumped(group), *records])

    def refresh(self, group: GroupState, now_ms: int) -> None:
        """Topics or partitions may have come or gone."""
        if is_outdated(group, self._around.topics):
            self.change([bumped(group, changed_epoch=group.record.epoch + 1)])
        self.settle(group, now_ms)

    def take(self) -> list[Encoded]:
        """The step is over: its records, to be appended."""
        records = [encode_record(record) for record in self.records]
        self.records = []
        self.touched.clear()
        self._freed.clear()
        return records

    def forget(self, group_id: str) -> None:
        """The group is no more."""
        self._next_assignment_ms.pop(group_id, None)

    def clear(self) -> None:
        """The reign is over."""
        self.take()
        self._next_assignment_ms.clear()
