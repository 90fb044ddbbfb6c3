"""Which leader epoch the records of a log are of: what two logs compare to find where they part (KIP-101, KIP-279)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

NO_EPOCH = -1


class LeaderEpochs:
    """(epoch, offset of its first record), ascending. The first one's may be deleted: then it is an offset before the
    log's start, at which the log held a record of that epoch.

    Args:
        entries: as the log has them.

    Attributes:
        last: the newest epoch, NO_EPOCH when there is none.
    """

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        # Invariant: both ascend together, epochs strictly.
        self._epochs: list[int] = []
        self._starts: list[int] = []
        for epoch, start in entries:
            self._epochs.append(epoch)
            self._starts.append(start)
        self.last = self._epochs[-1] if self._epochs else NO_EPOCH

    def __repr__(self) -> str:
        return f"LeaderEpochs({self.entries})"

    @property
    def entries(self) -> list[tuple[int, int]]:
        return list(zip(self._epochs, self._starts, strict=True))

    def note(self, epoch: int, offset: int) -> None:
        """A batch of this epoch stands at this offset."""
        if epoch > self.last:
            self.last = epoch
            self._epochs.append(epoch)
            self._starts.append(offset)

    def end_of(self, epoch: int, log_end: int) -> tuple[int, int]:
        """The newest epoch here that is not above `epoch` (NO_EPOCH: none), and the offset at which it ends: where the
        next one begins, or the log's end."""
        i = bisect_right(self._epochs, epoch)
        end = self._starts[i] if i < len(self._starts) else log_end
        return (self._epochs[i - 1] if i else NO_EPOCH), end

    def truncate(self, end: int) -> None:
        """The log now ends at `end`."""
        kept = bisect_left(self._starts, end)
        del self._epochs[kept:], self._starts[kept:]
        self.last = self._epochs[-1] if self._epochs else NO_EPOCH

    def validate(self) -> None:
        """Every invariant."""
        epochs, starts = self._epochs, self._starts
        assert len(epochs) == len(starts)
        assert epochs == sorted(set(epochs)) and starts == sorted(starts)
        assert not epochs or (epochs[0] > NO_EPOCH and starts[0] >= 0)
        assert self.last == (epochs[-1] if epochs else NO_EPOCH)
