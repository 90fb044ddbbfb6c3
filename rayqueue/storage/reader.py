"""Reading segments through mappings: the same code in the process that writes the log and in a consumer beside it.

A `SegmentView` maps a segment's two files once, with room to grow, and follows appends without a system call. Whoever
uses it says how many entries and bytes there are: the log knows them, `MappedLog` asks the file system.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.storage.files import FileSystem
from rayqueue.storage.index import ENTRY, ENTRY_SIZE, Entries, sound_entries

DATA_SUFFIX = ".arrow"
INDEX_SUFFIX = ".index"
_DATA_ROOM = 16 << 20
_INDEX_ROOM = 1 << 20
_NO_ROWS: Entries = np.empty(0, ENTRY)


class LogSlice(NamedTuple):
    """Consecutive whole batches of one segment.

    Attributes:
        data: their messages back to back, in the mapping of the segment file.
        entries: ENTRY[n], n >= 1; message i starts at ``entries[i].position - entries[0].position`` in `data`.
        base_offset: of the first batch; it may be below the offset asked for.
        next_offset: the offset after the last batch.
    """

    data: pa.Buffer
    entries: Entries
    base_offset: int
    next_offset: int


class IndexDamaged(Exception):
    """The index contradicts itself or its checksums; the data file may still be sound. Never leaves this package."""


class Extent(NamedTuple):
    """How far a segment reaches: index entries, and bytes of data."""

    entries: int
    size: int


def segment_path(directory: str, base_offset: int, suffix: str) -> str:
    """The path of one of a segment's files."""
    return os.path.join(directory, f"{base_offset:020d}{suffix}")


def segment_bases(names: list[str]) -> list[int]:
    """Base offsets of the segments among a directory's file names, ascending."""
    stems = (name[: -len(DATA_SUFFIX)] for name in names if name.endswith(DATA_SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == 20 and stem.isdigit())


class SegmentView:
    """The read side of one segment. Usable from any thread; what it hands out keeps the mapping alive.

    Args:
        check: called between mapping a file and looking into it; raises when the file is another one by now.
    """

    __slots__ = ("_base_offset", "_check", "_data", "_directory", "_files", "_lock", "_pinned", "_rows")

    def __init__(
        self, files: FileSystem, directory: str, base_offset: int, check: Callable[[], None] | None = None
    ) -> None:
        self._files = files
        self._directory = directory
        self._base_offset = base_offset
        self._check = check
        self._data: pa.Buffer | None = None
        self._rows: Entries = _NO_ROWS
        self._pinned = False
        self._lock = threading.Lock()  # held while a file is mapped, so that none is once `pin` has returned

    @property
    def data_path(self) -> str:
        return segment_path(self._directory, self._base_offset, DATA_SUFFIX)

    @property
    def index_path(self) -> str:
        return segment_path(self._directory, self._base_offset, INDEX_SUFFIX)

    def entries(self, count: int) -> Entries:
        """The first `count` entries, ENTRY[count], in the mapping.

        Raises:
            OSError: the file cannot be opened or mapped.
        """
        rows = self._rows
        if count > len(rows):
            rows = self._map_index(count)
        return rows[:count]

    def _map_index(self, count: int) -> Entries:
        with self._lock:
            if count > len(self._rows):
                room = max(_INDEX_ROOM, 2 * count * ENTRY_SIZE)
                mapped = self._files.map(self.index_path, room)
                if self._check is not None:
                    self._check()
                self._rows = np.frombuffer(mapped, ENTRY, room // ENTRY_SIZE)
            return self._rows

    def data(self, position: int, length: int) -> pa.Buffer:
        """`length` bytes at `position`, in the mapping; the caller knows that the file has them."""
        mapped = self._data
        if mapped is None or position + length > mapped.size:
            mapped = self._map_data(position + length)
        return mapped.slice(position, length)

    def _map_data(self, size: int) -> pa.Buffer:
        with self._lock:
            mapped = self._data
            if mapped is None or size > mapped.size:
                mapped = self._files.map(self.data_path, max(_DATA_ROOM, 2 * size))
                if self._check is not None:
                    self._check()
                self._data = mapped
            return mapped

    def pin(self, extent: Extent) -> None:
        """Maps all of it, and keeps that until `unpin`: whatever stands under its name later, this is what is read.

        Raises:
            OSError: a file cannot be opened or mapped.
        """
        self._pinned = True
        self.entries(extent.entries)
        self.data(0, extent.size)

    def unpin(self) -> None:
        """`release` may let go of it again."""
        self._pinned = False

    def release(self) -> None:
        """Lets go of the mappings, once nobody uses them; they are made again when needed."""
        with self._lock:
            if not self._pinned:
                self._data, self._rows = None, _NO_ROWS

    def row_of(self, offset: int, count: int) -> int:
        """The row of the first entry whose last offset is not below `offset`; `count` when there is none."""
        return int(np.searchsorted(self.entries(count)["last_offset"], offset))

    def slice(self, offset: int, max_bytes: int, limit: int, extent: Extent) -> LogSlice | None:
        """Batches from the one containing `offset` on: see `Log.read`.

        Raises:
            IndexDamaged: an entry involved does not hold together.
            CorruptRecord: the data file is shorter than the index says, or the offset is missing from the segment.
        """
        entries = self.entries(extent.entries)
        last_offsets, positions = entries["last_offset"], entries["position"]
        first = int(np.searchsorted(last_offsets, offset))
        if first == extent.entries:
            raise IndexDamaged
        start = int(positions[first])
        end = int(np.searchsorted(last_offsets, limit))  # batches below the limit: rows before this one
        if end <= first:
            _check(entries[first : first + 1])
            if int(last_offsets[first]) < limit:
                raise IndexDamaged
            return None
        # The end of batch i is the position of batch i + 1; that of the last one follows from its length.
        whole = int(np.searchsorted(positions[first + 1 : end], start + max_bytes, side="right"))
        if whole == end - first - 1 and positions[end - 1] + entries["length"][end - 1] <= start + max_bytes:
            whole += 1
        chosen = entries[first : first + max(1, whole)]
        _check(chosen)
        last = chosen[-1]
        base_offset, next_offset = int(chosen[0]["base_offset"]), int(last["last_offset"]) + 1
        length = int(last["position"]) + int(last["length"]) - start
        if base_offset > offset or next_offset > limit:
            raise IndexDamaged
        if start + length > extent.size:
            raise CorruptRecord(
                f"{self.data_path} is cut short: offsets {base_offset} to {next_offset - 1} end at byte "
                f"{start + length} of {extent.size}; skip them, or bring the file back from a copy"
            )
        return LogSlice(self.data(start, length), chosen, base_offset, next_offset)


def _check(entries: Entries) -> None:
    if sound_entries(entries) < len(entries):
        raise IndexDamaged
