"""What must hold in a quorum at every moment, checked after every event. Fails with AssertionError.

Election safety, leader completeness, log matching, state machine safety (the Raft paper's figure 3), promises only
after the disk, one change of the membership at a time, and linearizable reads and writes: the state is a log that only
grows, so an operation is in order exactly when its index is not below (a write: above) that of each that was over
before it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from rayqueue.coordination.quorum.leader import Leader
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import (
    MEMBERSHIP,
    AnyMessage,
    AppendReply,
    Entry,
    Snapshot,
    Voter,
    VoteReply,
    decode_membership,
)
from tests.simulation.quorum_store import QuorumStore


class Checker:
    """Sees all nodes at once.

    Attributes:
        committed: the one log; position i holds index i + 1.
        lost: disks that are gone, as they were: what they had promised was true then.
        floor: highest index an operation that is over has told its client.
    """

    def __init__(self, stores: Mapping[Voter, QuorumStore]) -> None:
        self._stores = stores
        self.lost: dict[Voter, QuorumStore] = {}
        self.committed: list[Entry] = []
        self._sums = [0]
        self._entries: dict[tuple[int, int], Entry] = {}
        self._votes: dict[tuple[Voter, int], Voter] = {}
        self._leaders: dict[int, Voter] = {}
        self._actives: dict[int, Voter] = {}
        self.floor = 0

    # --- nodes --------------------------------------------------------------------------------------------------------

    def stepped(self, node: QuorumMachine, epoch_before: int) -> None:
        """A node has taken an event."""
        node.validate()
        assert node.epoch >= epoch_before, f"{node.me}: the epoch fell from {epoch_before} to {node.epoch}"
        if isinstance(node.role, Leader) and not node.halted:
            other = self._leaders.setdefault(node.epoch, node.me)
            assert other == node.me, f"{node.me} and {other} both lead epoch {node.epoch}"
        elif node.leader is not None:
            leader = self._leaders.get(node.epoch)
            assert node.leader == leader, f"{node.me} follows {node.leader} in epoch {node.epoch}, which {leader} leads"

    def elected(self, node: QuorumMachine) -> None:
        """A node begins to lead: it must have all that was ever committed."""
        if self.committed:
            last = self.committed[-1]
            has = last.index <= node.log.snapshot.index or node.log.epoch_at(last.index) == last.epoch
            assert has, f"{node.me} leads epoch {node.epoch} without the committed entry {last.index}@{last.epoch}"

    def active(self, node: QuorumMachine, epoch: int) -> None:
        """A node says that it is active."""
        other = self._actives.setdefault(epoch, node.me)
        assert other == node.me, f"{node.me} and {other} are both active in epoch {epoch}"

    def sends(self, node: QuorumMachine, message: AnyMessage) -> None:
        """A promise must be durable before it leaves, and a vote is given once."""
        store = self._stores.get(node.me)
        if isinstance(message, VoteReply):
            if message.granted and not message.pre:
                other = self._votes.setdefault((message.sender, message.epoch), message.to)
                assert other == message.to, f"{message.sender} votes for {other} and {message.to}"
                assert store and (store.epoch, store.vote) == (message.epoch, message.to), (
                    f"{node.me} promises a vote that is not durable"
                )
                assert message.sender in self._stores, f"{message.sender} votes, whose disk is lost"
        elif isinstance(message, AppendReply) and not message.rejected and message.match:
            epoch = node.log.epoch_at(message.match)
            assert store and (epoch is None or store.has(message.match, epoch)), (
                f"{node.me} acknowledges {message.match}, which is not durable"
            )

    def wrote(self, entries: tuple[Entry, ...]) -> None:
        """Log matching: the same index and epoch is the same entry."""
        for entry in entries:
            known = self._entries.setdefault((entry.index, entry.epoch), entry)
            assert known == entry, f"two entries {entry.index}@{entry.epoch}"

    def applied(self, node: QuorumMachine, entries: tuple[Entry, ...], after: int) -> None:
        """A node takes entries for committed. The first to do so must have them durable on a majority."""
        assert entries[0].index == after + 1, f"{node.me} applies {entries[0].index} after {after}"
        for entry in entries:
            if entry.index <= len(self.committed):
                there = self.committed[entry.index - 1]
                assert there == entry, f"{node.me} applies {entry} where {there} is committed"
            else:
                assert entry.index == len(self.committed) + 1
                self._commit(entry)
                if entry is entries[-1]:
                    self._check_majority(node, entry)

    def _commit(self, entry: Entry) -> None:
        self.committed.append(entry)
        self._sums.append(crc32(entry.payload, self._sums[-1]))
        if entry.kind == MEMBERSHIP:
            after = decode_membership(entry.payload)
            before = next((decode_membership(e.payload) for e in self.committed[-2::-1] if e.kind == MEMBERSHIP), None)
            if before is not None:
                moved = {*before.voters} ^ {*after.voters}
                assert len(moved) <= 1, f"{before.voters} became {after.voters} at once"

    def _check_majority(self, node: QuorumMachine, entry: Entry) -> None:
        membership = node.log.membership
        stores = [self._stores.get(voter) or self.lost[voter] for voter in membership.voters]
        having = sum(store.has(entry.index, entry.epoch) for store in stores)
        assert entry.epoch == node.epoch, f"{node.me} commits an entry of epoch {entry.epoch} in {node.epoch}"
        assert having >= membership.majority, (
            f"{node.me} commits {entry.index}@{entry.epoch}, durable on {having} of {len(membership.voters)}"
        )

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot_of(self, index: int) -> bytes:
        """The state after `index`, in so many words that it takes several messages."""
        return f"{index}:{self._sums[index]}:".encode().ljust(40, b".")

    def restored(self, node: QuorumMachine, snapshot: Snapshot) -> None:
        """A snapshot must be the state of a committed prefix."""
        assert snapshot.index <= len(self.committed), f"{node.me} restores a snapshot of what is not committed"
        assert snapshot.data == self.snapshot_of(snapshot.index), f"{node.me} restores {snapshot.data!r}"

    # --- clients ------------------------------------------------------------------------------------------------------

    def write_done(self, index: int, payload: bytes, floor: int) -> None:
        """A client learns that its proposal stands at `index`; `floor` was the floor when it asked."""
        assert index <= len(self.committed) and self.committed[index - 1].payload == payload, (
            f"the acknowledged proposal {payload!r} is not at {index}"
        )
        assert index > floor, f"a proposal got index {index}, but {floor} was known when it was made"
        self.floor = max(self.floor, index)

    def read_done(self, index: int, floor: int) -> None:
        """A client learns that the state at `index` answers its read."""
        assert index >= floor, f"a read saw {index}, but {floor} was known when it began: stale"
        assert index <= len(self.committed), f"a read saw {index}, which is not committed"
        self.floor = max(self.floor, index)
