"""What must hold of simulated consumer groups. It judges by the log, which it replays by itself, and by what members
see and do; not by what a coordinator thinks.

zombies          who had been replaced before it was asked does not answer
two owners       a member takes a partition that another one reads, who is a member as far as the log says
commit           an offset in the log is of the member that holds the partition there
offset regress   committed offsets only rise; who asks is told no less than was acknowledged before he asked
acknowledged     what is said to be committed is in the log
recovery         replaying what is left of the log gives the state, and it is that of who serves the shard
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayqueue.groups.machine import ShardMachine
from rayqueue.groups.records import Encoded, Offset, OffsetKey, decode_record
from rayqueue.groups.state import ShardState
from rayqueue.protocol.group_messages import CommittedOffset, GroupHeartbeatResponse, GroupPartition

if TYPE_CHECKING:
    from tests.simulation.groups_member import SimulatedMember

Where = tuple[str, GroupPartition]  # group id, partition


class Checker:
    """See the module.

    Attributes:
        state: the log, replayed. members: all that were ever started.
        acked: highest offset acknowledged. seen: how often each event, effect and answer occurred.
    """

    def __init__(self) -> None:
        self.state = ShardState()
        self.members: list[SimulatedMember] = []
        self.acked: dict[Where, int] = {}
        self.forgotten: set[bytes] = set()  # topics that were deleted
        self.commits = self.takes = self.records = 0
        self.seen: Counter[str] = Counter()

    # --- the log -------------------------------------------------------------------------------------------------

    def appended(self, owner: int, records: list[Encoded]) -> None:
        """These are committed."""
        for key, value in records:
            record = decode_record(key, value)
            if isinstance(record[0], OffsetKey):
                self._offset(record[0], record[1])
            self.state.replay(record)
            self.records += 1
        self.state.validate()
        self._see_who_is_out()

    def _offset(self, key: OffsetKey, value: Any) -> None:
        group = self.state.groups[key.group_id]
        partition = GroupPartition(key.topic_id, key.partition)
        before = group.offsets.get(partition)
        if value is None:
            assert key.topic_id in self.forgotten, f"{key} is forgotten, though its topic is there"
            self.acked.pop((key.group_id, partition), None)
            return
        assert isinstance(value, Offset)
        self.commits += 1
        assert group.holders.get(partition) == value.member_id, f"{value} is not of who holds {partition.partition}"
        if before is not None:
            assert value.offset >= before.offset, f"partition {partition.partition} goes back from {before} to {value}"

    def compacted(self, records: list[Encoded]) -> None:
        """This is what is left."""
        state = ShardState()
        for key, value in records:
            state.replay(decode_record(key, value))
        state.validate()
        assert state.content() == self.state.content(), "compaction has changed the state"

    def serves(self, machine: ShardMachine) -> None:
        """All that the present owner has appended is committed."""
        if machine.state.owner == self.state.owner:
            assert machine.state.content() == self.state.content(), "the owner's state is not the log's"
            self.seen["compared"] += 1

    def may_answer(self, number: int, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """An owner (by its number) is asked now: what it may say, if it answers."""
        replaced = self.state.owner is not None and self.state.owner.number > number

        def check(response: Any) -> None:
            error = response.error if isinstance(response, GroupHeartbeatResponse) else type(response).__name__
            refuses = error in ("NotGroupCoordinator", "StaleMemberEpoch")  # or the member has another exchange
            assert refuses or not replaced, f"owner {number} had been replaced when it was asked, and says {response}"
            answer(response)

        return check

    # --- the members ---------------------------------------------------------------------------------------------

    def takes_over(self, taker: SimulatedMember, partitions: list[GroupPartition]) -> None:
        """A member begins to read."""
        self._see_who_is_out()
        group = self.state.groups.get(taker.group_id)
        if group is None or taker.member_id not in group.members:
            return  # it was put out, and does not know yet: nothing that it commits is taken
        for one in partitions:
            assert group.holders.get(one) == taker.member_id, f"{taker.name} takes {one}, which it was not given"
        for other in self.members:
            if other is taker or other.group_id != taker.group_id or other.member_id not in group.members:
                continue
            both = other.machine.held.keys() & set(partitions) if other.process.alive else set()
            assert not both, f"{taker.name} takes {both}, which {other.name} reads"
        self.takes += len(partitions)

    def _see_who_is_out(self) -> None:
        """Who was put out reads on until it hears of it: if from nobody, then until its own session is over."""
        for one in self.members:
            group = self.state.groups.get(one.group_id)
            there = group is not None and one.member_id in group.members
            if there or not one.process.alive or one.process.paused or not one.machine.held:
                one.out_us = None
            elif one.out_us is None:
                one.out_us = one.now_us()
            else:
                since_ms = (one.now_us() - one.out_us) // 1000
                assert since_ms <= 1.1 * one.session_timeout_ms, f"{one.name} reads on, though out for {since_ms} ms"

    def committed(self, group_id: str, offsets: list[CommittedOffset]) -> None:
        """A member was told that these are."""
        for one in offsets:
            if one.topic_id in self.forgotten:
                continue
            where = (group_id, GroupPartition(one.topic_id, one.partition))
            there = self.state.groups[group_id].offsets.get(where[1])
            assert there is not None and there.offset >= one.offset, f"{one} is acknowledged; in the log is {there}"
            self.acked[where] = max(one.offset, self.acked.get(where, 0))

    def known(self, group_id: str, partitions: list[GroupPartition]) -> list[int]:
        """What was acknowledged so far: whoever asks from now on must be told no less."""
        return [self.acked.get((group_id, one), -1) for one in partitions]

    def fetched(self, offsets: list[CommittedOffset], known: list[int]) -> None:
        """A member was told what is committed; known: as of when it asked."""
        for one, least in zip(offsets, known, strict=True):
            if one.topic_id not in self.forgotten:
                assert one.offset >= least, f"partition {one.partition} is at {one.offset}, was committed at {least}"
