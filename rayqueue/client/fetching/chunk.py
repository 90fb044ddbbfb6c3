"""Batches fetched but not yet opened, and how they are opened: a run at a time, from the reader's position on."""

from __future__ import annotations

from typing import Any

import numpy as np
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
        "_last",
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
        self._last = entries["last_offset"]
        self.base_offset = int(entries["base_offset"][0])
        self.next_offset = int(self._last[-1]) + 1
        self.size = int(data.size)
        self.last_run: Run | None = None

    def size_before(self, offset: int) -> int:
        """Bytes of the batches that end before `offset`."""
        index = int(np.searchsorted(self._last, offset))
        if index == 0:
            return 0
        if index >= len(self._last):
            return self.size
        return int(self._entries["position"][index] - self._entries["position"][0])

    def after_batch(self, offset: int) -> int:
        """The offset after the batch that contains `offset`."""
        return int(self._last[int(np.searchsorted(self._last, offset))]) + 1

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
        first = int(np.searchsorted(self._last, offset))
        end, kind = self._extent(first, max_bytes)
        if kind & CONTROL_BATCH:
            return int(self._last[end - 1]) + 1
        end, batches = self._open(first, end, schema, columns)
        entry = self._entries[first]
        self.last_run = Run(
            int(entry["base_offset"]),
            int(self._last[end - 1]) + 1,
            batches,
            columns,
            int(entry["leader_epoch"]),
            bool(kind & LOG_APPEND_TIME),
            int(self._entries["length"][first:end].sum()),
        )
        return self.last_run

    def _extent(self, first: int, max_bytes: int) -> tuple[int, int]:
        """Where the run that starts at batch `first` ends, and its kind (attribute bits)."""
        entries = self._entries
        kind = int(entries["attributes"][first]) & _KINDS
        if len(entries) == first + 1:
            return first + 1, kind
        rest = entries[first:]
        room = int(np.searchsorted(rest["position"], int(rest["position"][0]) + max_bytes))
        rest = rest[: max(1, room)]
        alike = (rest["leader_epoch"] == rest["leader_epoch"][0]) & ((rest["attributes"] & _KINDS) == kind)
        return first + (len(rest) if alike.all() else int(np.argmin(alike))), kind

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
        start = int(entries["position"][0] - self._entries["position"][0])
        check = self._check and end > self._checked
        batches = decode(self._data.slice(start), entries, schema, columns, check)
        if first <= self._checked:
            self._checked = max(self._checked, end)
        return batches
