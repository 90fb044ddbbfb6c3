"""Batches fetched but not yet opened, and how they are opened: a run at a time, from the reader's position on."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.batches import Entries, decode
from rayqueue.protocol.messages import CONTROL_BATCH, LOG_APPEND_TIME

_KINDS = CONTROL_BATCH | LOG_APPEND_TIME


class Run:
    """Consecutive opened batches of one leader epoch and one timestamp type.

    Attributes:
        base_offset: of row 0. next_offset: after the last row.
        batches: record batches whose rows have consecutive offsets; they share memory with the chunk.
        columns: those read, None for all. size: bytes of the messages.
        leader_epoch: under which they were written. append_time: timestamps are the log's, not the producer's.
        rows: what `rows.Rows` keeps here.
    """

    __slots__ = ("append_time", "base_offset", "batches", "columns", "leader_epoch", "next_offset", "rows", "size")

    def __init__(
        self,
        base_offset: int,
        next_offset: int,
        batches: list[pa.RecordBatch],
        columns: tuple[str, ...] | None,
        leader_epoch: int,
        append_time: bool,
        size: int,
    ) -> None:
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.batches = batches
        self.columns = columns
        self.leader_epoch = leader_epoch
        self.append_time = append_time
        self.size = size
        self.rows: Any = None


class LogChunk:
    """A slice of a partition's log: messages back to back and their index entries.

    Attributes:
        base_offset, next_offset: the first batch's first offset, the last one's last offset + 1.
        size: bytes of the messages.
    """

    __slots__ = (
        "_check",
        "_checked",
        "_data",
        "_entries",
        "_kinds",
        "_last",
        "_starts",
        "base_offset",
        "last_run",
        "next_offset",
        "size",
    )

    def __init__(self, data: pa.Buffer, entries: Entries, check_crcs: bool) -> None:
        self._data = data
        self._entries = entries
        self._check = check_crcs
        self._checked = 0  # batches from the first on whose CRC has been seen to be right
        # Lists, not arrays: most chunks are a batch or a few, where NumPy costs more than the work.
        self._last: list[int] = entries["last_offset"].tolist()
        positions: list[int] = entries["position"].tolist()
        self._starts = [position - positions[0] for position in positions]
        self._kinds: list[tuple[int, int]] = [
            (epoch, attributes & _KINDS)
            for epoch, attributes in zip(entries["leader_epoch"].tolist(), entries["attributes"].tolist(), strict=True)
        ]
        self.base_offset = int(entries["base_offset"][0])
        self.next_offset = self._last[-1] + 1
        self.size = int(data.size)
        self.last_run: Run | None = None

    def size_before(self, offset: int) -> int:
        """Bytes of the batches that end before `offset`."""
        index = bisect_left(self._last, offset)
        return self._starts[index] if index < len(self._starts) else self.size

    def after_batch(self, offset: int) -> int:
        """The offset after the batch that contains `offset`."""
        return self._last[bisect_left(self._last, offset)] + 1

    def run_at(self, offset: int, schema: pa.Schema, columns: tuple[str, ...] | None, max_bytes: int) -> Run | int:
        """Opens the batches from the one that contains `offset` on, about `max_bytes` of them, one at least.

        Args:
            offset: within [base_offset, next_offset).
            schema: the topic's log schema.
            columns: those wanted; None for all.
            max_bytes: of the messages.

        Returns:
            The run; or, where there are only control batches, the offset after them.

        Raises:
            CorruptRecord: the first batch is damaged (a damaged one further on ends the run before it).
        """
        last = self.last_run
        if last is not None and last.base_offset <= offset < last.next_offset and last.columns == columns:
            return last
        first = bisect_left(self._last, offset)
        end = self._end(first, max_bytes)
        epoch, kind = self._kinds[first]
        if kind & CONTROL_BATCH:
            return self._last[end - 1] + 1
        end, batches = self._open(first, end, schema, columns)
        self.last_run = Run(
            int(self._entries["base_offset"][first]),
            self._last[end - 1] + 1,
            batches,
            columns,
            epoch,
            bool(kind & LOG_APPEND_TIME),
            self.size_before(self._last[end - 1] + 1) - self._starts[first],
        )
        return self.last_run

    def _end(self, first: int, max_bytes: int) -> int:
        """Where the run that starts at batch `first` ends: the bytes are enough, or the batches of another kind."""
        kinds, starts = self._kinds, self._starts
        kind, room = kinds[first], starts[first] + max_bytes
        end = first + 1
        while end < len(kinds) and kinds[end] == kind and starts[end] < room:
            end += 1
        return end

    def _open(
        self, first: int, end: int, schema: pa.Schema, columns: tuple[str, ...] | None
    ) -> tuple[int, list[pa.RecordBatch]]:
        try:
            return end, self._decode(first, end, schema, columns)
        except CorruptRecord:
            if end == first + 1:
                raise
        batches = self._decode(first, first + 1, schema, columns)
        for index in range(first + 1, end):
            try:
                batches += self._decode(index, index + 1, schema, columns)
            except CorruptRecord:
                # The sound ones are handed out first; the next call starts at this one and raises.
                return index, batches
        return end, batches

    def _decode(self, first: int, end: int, schema: pa.Schema, columns: tuple[str, ...] | None) -> list[pa.RecordBatch]:
        entries = self._entries[first:end]
        check = self._check and end > self._checked
        batches = decode(self._data.slice(self._starts[first]), entries, schema, columns, check)
        if first <= self._checked:
            self._checked = max(self._checked, end)
        return batches
