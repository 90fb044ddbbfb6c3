"""The disk of a simulated quorum node: what its disk effects have made durable."""

from __future__ import annotations

from random import Random
from typing import Any

from rayqueue.coordination.quorum.events import (
    Append,
    Compact,
    InstallSnapshot,
    PersistVote,
    SaveSnapshot,
    Truncate,
)
from rayqueue.coordination.quorum.messages import Entry, Snapshot, Stored, Voter


class QuorumStore:
    """Two files: epoch and vote; and the log with its snapshot, which is written in order."""

    def __init__(self, entries: list[Entry]) -> None:
        self.epoch = 0
        self.vote: Voter | None = None
        self.snapshot = Snapshot()
        self.base_index = self.base_epoch = 0
        self.entries = list(entries)

    def apply(self, operation: Any) -> None:
        """The operation has reached the disk."""
        match operation:
            case PersistVote():
                assert operation.epoch >= self.epoch, "the epoch on disk fell"
                self.epoch, self.vote = operation.epoch, operation.vote
            case Append(entries=entries):
                assert not entries or entries[0].index == self.end + 1, "a gap in the log on disk"
                self.entries.extend(entries)
            case Truncate(end=end):
                del self.entries[end - self.base_index :]
            case SaveSnapshot(snapshot=snapshot):
                self.snapshot = snapshot
            case InstallSnapshot(snapshot=snapshot):
                self.snapshot, self.entries = snapshot, []
                self.base_index, self.base_epoch = snapshot.index, snapshot.epoch
            case Compact(index=index, epoch=epoch):
                del self.entries[: index - self.base_index]
                self.base_index, self.base_epoch = index, epoch

    def file_of(self, operation: Any) -> str:
        """Which file it goes to."""
        return "vote" if isinstance(operation, PersistVote) else "log"

    def torn(self, operation: Any, random: Random) -> Any | None:
        """What a crash in the middle of the write leaves of it."""
        match operation:
            case Append(write=write, entries=entries):
                return Append(write, entries[: random.randrange(len(entries))])
            case InstallSnapshot(write=write, snapshot=snapshot):
                return SaveSnapshot(write, snapshot)  # the log is not emptied yet
        return None

    @property
    def end(self) -> int:
        """Index of the last entry."""
        return self.base_index + len(self.entries)

    def epoch_at(self, index: int) -> int | None:
        """Epoch of an entry; None when it is not there (any more)."""
        if index == self.snapshot.index:
            return self.snapshot.epoch
        position = index - self.base_index - 1
        return self.entries[position].epoch if 0 <= position < len(self.entries) else None

    def has(self, index: int, epoch: int) -> bool:
        """Whether the entry is durable here, in the log or in the snapshot."""
        return index <= self.snapshot.index or self.epoch_at(index) == epoch

    def recovered(self) -> Stored:
        """What a new process finds."""
        return Stored(self.epoch, self.vote, self.snapshot, self.base_index, self.base_epoch, list(self.entries))
