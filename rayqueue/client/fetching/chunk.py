"""Batches fetched but not yet opened, and how they are opened: a run at a time, from the reader's position on."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.batches import ENTRY_FIELDS, ENTRY_SIZE, Entries, check_crc, decode, is_sound, read_records
from rayqueue.protocol.messages import CONTROL_BATCH, LOG_APPEND_TIME, SPARSE_BATCH
from rayqueue.protocol.small_batches import Records
from rayqueue.protocol.sparse import OFFSET_COLUMN, Offsets, offsets_of

_KINDS = CONTROL_BATCH | LOG_APPEND_TIME | SPARSE_BATCH
# Places in an index entry, as ENTRY_FIELDS unpacks it.
_BASE, _LAST, _POSITION, _EPOCH, _ATTRIBUTES = 0, 1, 2, 10, 13


class Run:
    """Consecutive opened batches of one leader epoch and one timestamp type.

    Attributes:
        base_offset: of row 0, or (offsets given) of the first batch. next_offset: after the last batch.
        batches: record batches; they share memory with the chunk.
        offsets: of the rows, ascending, where compaction has left holes; None: they are consecutive.
        records: what was read instead of them, where the batches are small and only records are wanted; else None.
        columns: those read, None for all. size: bytes of the messages.
        leader_epoch: under which they were written. append_time: timestamps are the log's, not the producer's.
        rows: what `rows.Rows` keeps here.
    """

    __slots__ = (
        "append_time",
        "base_offset",
        "batches",
        "columns",
        "leader_epoch",
        "next_offset",
        "offsets",
        "records",
        "rows",
        "size",
    )

    def __init__(
        self,
        base_offset: int,
        next_offset: int,
        batches: list[pa.RecordBatch],
        columns: tuple[str, ...] | None,
        leader_epoch: int,
        append_time: bool,
        size: int,
        records: Records | None = None,
        offsets: Offsets | None = None,
    ) -> None:
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.batches = batches
        self.columns = columns
        self.leader_epoch = leader_epoch
        self.append_time = append_time
        self.size = size
        self.records = records
        self.offsets = offsets
        self.rows: Any = None

    def row_at(self, offset: int) -> int:
        """The first row whose offset is not below `offset`."""
        return offset - self.base_offset if self.offsets is None else int(np.searchsorted(self.offsets, offset))

    def after_row(self, stop: int) -> int:
        """Where a reader goes on that has had the rows before `stop`, at least one."""
        if self.offsets is None:
            return self.base_offset + stop
        return int(self.offsets[stop - 1]) + 1 if stop < len(self.offsets) else self.next_offset


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
        "_entries_checked",
        "_fields",
        "_last",
        "_position",
        "_raw",
        "base_offset",
        "last_run",
        "next_offset",
        "size",
    )

    def __init__(self, data: pa.Buffer, entries: Entries, check_crcs: bool, entries_checked: bool = False) -> None:
        """check_crcs: of messages and entries; entries_checked: those of the entries have been looked at already."""
        self._data = data
        self._entries = entries
        self._check = check_crcs
        self._checked = 0  # batches from the first on whose CRC has been seen to be right
        self._entries_checked = entries_checked or not check_crcs
        # Tuples, not arrays: most chunks are a batch or a few, where NumPy costs more than the work.
        self._raw = entries.tobytes()
        self._fields = list(ENTRY_FIELDS.iter_unpack(self._raw))
        self._last: list[int] = [fields[_LAST] for fields in self._fields]
        self._position: int = self._fields[0][_POSITION]
        self.base_offset: int = self._fields[0][_BASE]
        self.next_offset = self._last[-1] + 1
        self.size = int(data.size)
        self.last_run: Run | None = None

    def size_before(self, offset: int) -> int:
        """Bytes of the batches that end before `offset`."""
        return self._start(bisect_left(self._last, offset))

    def _start(self, index: int) -> int:
        """Where in the data a batch begins; behind the last one, where they end."""
        return self._fields[index][_POSITION] - self._position if index < len(self._fields) else self.size

    def _kind(self, index: int) -> tuple[int, int]:
        """What batches of one run have in common."""
        fields = self._fields[index]
        return fields[_EPOCH], fields[_ATTRIBUTES] & _KINDS

    def after_batch(self, offset: int) -> int:
        """The offset after the batch that contains `offset`."""
        return self._last[bisect_left(self._last, offset)] + 1

    def run_at(
        self,
        offset: int,
        schema: pa.Schema,
        columns: tuple[str, ...] | None,
        max_bytes: int,
        records: bool = False,
    ) -> Run | int:
        """Opens the batches from the one that contains `offset` on, about `max_bytes` of them, one at least.

        Args:
            offset: within [base_offset, next_offset).
            schema: the topic's log schema.
            columns: those wanted; None for all.
            max_bytes: of the messages.
            records: records will do, of a topic with the default schema: small batches are read without Arrow.

        Returns:
            The run; or, where there are only batches without records, the offset after them.

        Raises:
            CorruptRecord: the first batch is damaged (a damaged one further on ends the run before it).
        """
        last = self.last_run
        if (
            last is not None
            and last.base_offset <= offset < last.next_offset
            and last.columns == columns
            and (records or last.records is None)
        ):
            return last
        first = bisect_left(self._last, offset)
        end = self._end(first, max_bytes)
        epoch, kind = self._kind(first)
        if kind & CONTROL_BATCH:
            return self._last[end - 1] + 1
        batches: list[pa.RecordBatch] = []
        offsets = None
        small, read = self._read_records(first, end) if records else (end, None)
        if read is not None:
            end = small
        elif kind & SPARSE_BATCH:
            wanted = None if columns is None else (*columns, OFFSET_COLUMN)
            end, batches = self._open(first, end, schema, wanted)
            offsets, batches = _sparse(batches)
            if not len(offsets):
                return self._last[end - 1] + 1
        else:
            end, batches = self._open(first, end, schema, columns)
        self.last_run = Run(
            self._fields[first][_BASE],
            self._last[end - 1] + 1,
            batches,
            columns,
            epoch,
            bool(kind & LOG_APPEND_TIME),
            self._start(end) - self._start(first),
            read,
            offsets,
        )
        return self.last_run

    def _read_records(self, first: int, end: int) -> tuple[int, Records | None]:
        """The records of small batches, and where these end: before one that is not small, or is damaged."""
        found: list[Records] = []
        for index in range(first, end):
            try:
                check = self._check and index >= self._checked
                if check:
                    self._check_entry(index)
                read = read_records(self._data, self._start(index), self._fields[index], check)
            except CorruptRecord:
                if not found:
                    raise
                # The sound ones are handed out first; the next call starts at this one and raises.
                return index, _joined(found)
            if read is None:
                return index, _joined(found) if found else None
            found.append(read)
            if index == self._checked:
                self._checked = index + 1
        return end, _joined(found)

    def _check_entry(self, index: int) -> None:
        if not (self._entries_checked or is_sound(self._raw[index * ENTRY_SIZE : (index + 1) * ENTRY_SIZE])):
            before = self._last[index - 1] if index else self.base_offset - 1
            raise CorruptRecord(f"the index entry after offset {before} does not match its CRC32C")

    def _end(self, first: int, max_bytes: int) -> int:
        """Where the run that starts at batch `first` ends: the bytes are enough, or the batches of another kind."""
        count = len(self._fields)
        end = first + 1
        if end < count:
            kind, room = self._kind(first), self._start(first) + max_bytes
            while end < count and self._kind(end) == kind and self._start(end) < room:
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
        if self._check:
            self._check_crcs(first, end)
        data = self._data.slice(self._start(first))
        return decode(data, self._entries[first:end], schema, columns, check_crc=False)

    def _check_crcs(self, first: int, end: int) -> None:
        """Compares the CRCs that nobody has compared yet; from the last one down, towards `check_ahead`."""
        index = end
        while index > first and index > self._checked:
            index -= 1
            self._check_crc(index)
        if first <= self._checked:
            self._checked = max(self._checked, end)

    def _check_crc(self, index: int) -> None:
        self._check_entry(index)
        check_crc(self._data, self._start(index), self._fields[index])

    def check_ahead(self) -> None:
        """Compares CRCs from the first on, beside the reader, which need not do it then.

        Two threads write `_checked`, and may undo each other's progress. But whatever either writes is true: up to
        there, every CRC has been compared.

        Raises:
            CorruptRecord: a batch is damaged. The reader will come to it: that is where it is to be said.
        """
        if not self._check:
            return
        for index in range(len(self._fields)):
            if index >= self._checked:
                self._check_crc(index)
                if index == self._checked:
                    self._checked = index + 1


def _sparse(batches: list[pa.RecordBatch]) -> tuple[Offsets, list[pa.RecordBatch]]:
    """The offsets of sparse batches' rows, and the batches without them."""
    offsets = np.concatenate([offsets_of(batch) for batch in batches])
    return offsets, [batch.select(list(range(batch.num_columns - 1))) for batch in batches if batch.num_rows]


def _joined(parts: list[Records]) -> Records:
    if len(parts) == 1:
        return parts[0]
    return Records(
        [key for part in parts for key in part.keys],
        [value for part in parts for value in part.values],
        [pairs for part in parts for pairs in part.headers or [[] for _ in part.values]],
        [time for part in parts for time in part.times],
    )
