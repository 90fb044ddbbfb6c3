"""The committed part of the metadata log as it is sent to those who follow it: whole commands at a time.

A command is never cut in two: who had replayed half of one would see a topic with some of its partitions, and route
keys by that number; a replica actor would find its registration without the leader epochs that came with it, and lead
under those of its predecessor.

What lies far back is a snapshot: the fewest records that give the state as it was at `base`. Whoever has followed less
than that begins again with it.
"""

from __future__ import annotations

from bisect import bisect_right

BATCH_RECORDS_MAX = 2_000  # unless a single command has more: creating a topic of many partitions, a registration


class PublishedLog:
    """See the module.

    Attributes:
        base: index of the first record after the snapshot. end: of the next one.
    """

    def __init__(self, snapshot: list[bytes], base: int) -> None:
        self.base = base
        self._snapshot = snapshot
        self._records: list[bytes] = []
        self._command_ends = [base]

    @property
    def end(self) -> int:
        """The index after all records."""
        return self._command_ends[-1]

    def append(self, records: list[bytes]) -> None:
        """A command has been committed."""
        if records:
            self._records += records
            self._command_ends.append(self.base + len(self._records))

    def first_for(self, index: int) -> int:
        """Where to begin for one who has followed the log up to `index`: there, or at 0 with the snapshot, when that
        has gone, or is of a log that is lost."""
        return index if self.base <= index <= self.end else 0

    def batch(self, index: int, end: int) -> tuple[list[bytes], int]:
        """What to send from `index` on, of what lies below `end`: the records, and the index after them."""
        if index < self.base:
            return self._snapshot, self.base
        upto = end
        if end - index > BATCH_RECORDS_MAX:
            ends = self._command_ends
            upto = ends[max(bisect_right(ends, index), bisect_right(ends, index + BATCH_RECORDS_MAX) - 1)]
        return self._records[index - self.base : upto - self.base], upto
