"""The metadata log of one node, in memory: from its base to its end, with the snapshot and the memberships in it.

    ... base | entries[0] ... snapshot.index ... commit ... end
             ^ gone before here: a follower that needs it gets the snapshot

Invariants: base_index <= snapshot.index <= end; indexes have no gaps; epochs never fall.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayqueue.coordination.quorum.messages import (
    MEMBERSHIP,
    Entry,
    Membership,
    Snapshot,
    Stored,
    Voter,
    decode_membership,
)


class QuorumLog:
    """Entries by index.

    Attributes:
        end: index of the last entry. last_epoch: its epoch.
        membership, membership_index: the newest in the log, and where it stands.
        bytes_after_snapshot: payloads above the snapshot.
        is_stale: what was stored besides the snapshot does not go on from it, and must be removed there too.
    """

    def __init__(self, stored: Stored) -> None:
        self.snapshot = stored.snapshot
        self.base_index, self.base_epoch = stored.base_index, stored.base_epoch
        self.entries: list[Entry] = list(stored.entries)
        self._count()
        self.is_stale = self.epoch_at(self.snapshot.index) != self.snapshot.epoch
        if self.is_stale:
            # A crash came after a leader's snapshot was written and before the log was emptied: nothing in that log is
            # known to go on from the snapshot.
            self.base_index, self.base_epoch = self.snapshot.index, self.snapshot.epoch
            self.entries = []
        self._memberships: list[tuple[int, Membership]] = []
        self._validated = self.base_index
        self._count()
        self._find_memberships()

    def _count(self) -> None:
        self.end = self.base_index + len(self.entries)
        self.last_epoch = self.entries[-1].epoch if self.entries else self.base_epoch

    def _find_memberships(self) -> None:
        above = self.entries[self.snapshot.index - self.base_index :]
        self.bytes_after_snapshot = sum(len(entry.payload) for entry in above)
        self._memberships = [(self.snapshot.index, self.snapshot.membership)]
        self._memberships += [(e.index, decode_membership(e.payload)) for e in above if e.kind == MEMBERSHIP]
        self.membership_index, self.membership = self._memberships[-1]

    # --- looking -----------------------------------------------------------------------------------------------------

    def epoch_at(self, index: int) -> int | None:
        """Epoch of the entry at an index; None when it is gone or not there yet."""
        position = index - self.base_index - 1
        if 0 <= position < len(self.entries):
            return self.entries[position].epoch
        return self.base_epoch if position == -1 else None

    def last_at_most(self, index: int, epoch: int) -> tuple[int, int]:
        """(index, epoch) of the last entry at or below `index` whose epoch is not above `epoch`; at worst the base."""
        index = max(min(index, self.end), self.base_index)
        while index > self.base_index and self.entries[index - self.base_index - 1].epoch > epoch:
            index -= 1
        found = self.epoch_at(index)
        assert found is not None
        return index, found

    def is_covered_by(self, index: int, epoch: int) -> bool:
        """Whether a log that ends with (index, epoch) has all that may be committed of ours (Raft, 5.4.1)."""
        return (epoch, index) >= (self.last_epoch, self.end)

    def slice(self, first: int, last: int, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `first` to `last`, as many as the bounds allow, at least one if there is one."""
        start = first - self.base_index - 1
        assert start >= 0
        part = self.entries[start : min(last - self.base_index, start + entries_max)]
        size = 0
        for count, entry in enumerate(part):
            size += len(entry.payload)
            if size > bytes_max and count:
                return tuple(part[:count])
        return tuple(part)

    def membership_at(self, index: int) -> Membership:
        """The membership as of an index at or above the snapshot."""
        return next(m for at, m in reversed(self._memberships) if at <= index)

    def may_lead(self, me: Voter, commit: int) -> bool:
        """Whether we vote, or did before the newest membership, which may not be committed.

        The latter must stand for election, too: a leader that has appended its own removal and died may hold the
        longest log, and then nobody else can be elected (Raft thesis 4.2.2).
        """
        if me in self.membership.voters:
            return True
        return self.membership_index > commit and me in self._memberships[-2][1].voters

    def memberships_above(self, index: int) -> int:
        """How many changes of the membership stand above an index."""
        return sum(at > index for at, _ in self._memberships)

    # --- changing ----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Adds entries that follow the last one."""
        assert entries[0].index == self.end + 1
        self.entries.extend(entries)
        for entry in entries:
            self.bytes_after_snapshot += len(entry.payload)
            if entry.kind == MEMBERSHIP:
                self.membership_index, self.membership = entry.index, decode_membership(entry.payload)
                self._memberships.append((entry.index, self.membership))
        self.end += len(entries)
        self.last_epoch = entries[-1].epoch

    def truncate(self, end: int) -> None:
        """Drops what is above `end`; a membership that goes with it is no longer in force."""
        assert self.snapshot.index <= end < self.end
        cut = end - self.base_index
        self.bytes_after_snapshot -= sum(len(entry.payload) for entry in self.entries[cut:])
        del self.entries[cut:]
        self._validated = min(self._validated, end)
        while self._memberships[-1][0] > end:
            self._memberships.pop()
        self.membership_index, self.membership = self._memberships[-1]
        self._count()

    def save(self, snapshot: Snapshot) -> None:
        """Our own snapshot, of a state that is in the log."""
        assert self.epoch_at(snapshot.index) == snapshot.epoch
        self.snapshot = snapshot
        self._find_memberships()

    def compact(self, index: int) -> None:
        """Drops entries up to and with `index`, which the snapshot covers."""
        epoch = self.epoch_at(index)
        assert epoch is not None and index <= self.snapshot.index
        del self.entries[: index - self.base_index]
        self.base_index, self.base_epoch = index, epoch
        self._validated = max(self._validated, index)

    def install(self, snapshot: Snapshot) -> None:
        """A leader's snapshot in the place of all there was."""
        self.snapshot = snapshot
        self.base_index, self.base_epoch = snapshot.index, snapshot.epoch
        self.entries = []
        self._validated = snapshot.index
        self._count()
        self._find_memberships()

    def validate(self) -> None:
        """Asserts every invariant."""
        assert 0 <= self.base_index <= self.snapshot.index <= self.end
        assert self.end == self.base_index + len(self.entries)
        # Entries do not change, so what was found in order stays so: only what came since is looked at.
        assert self.base_index <= self._validated <= self.end
        if self._validated < self.end:
            epoch = self.epoch_at(self._validated)
            for entry in self.entries[self._validated - self.base_index :]:
                self._validated += 1
                assert entry.index == self._validated and epoch is not None and entry.epoch >= epoch
                epoch = entry.epoch
            assert self.last_epoch == epoch
        assert self.snapshot.index <= self.membership_index <= self.end or not self.membership_index
        assert self._memberships[-1] == (self.membership_index, self.membership)
