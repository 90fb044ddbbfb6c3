"""Reading a log from another process on the same host, through mappings of its files.

The writer appends data first and its index entries after it, and never changes either; so whatever whole entries the
index holds, their data is there. What may be read is told by the leader (`limit`, the high watermark). A log whose
bytes below its end were rewritten has a new generation and needs a new `MappedLog`.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from mmap import PAGESIZE

import numpy as np

from rayqueue.errors import CorruptRecord, OffsetOutOfRange, StorageError
from rayqueue.protocol.batches import ENTRY, ENTRY_FIELDS, ENTRY_SIZE, is_sound
from rayqueue.storage.files import FileSystem, OsFiles
from rayqueue.storage.reader import Extent, IndexDamaged, LogSlice, SegmentView, segment_bases

# Entries that are looked at one by one; where more are known, they are searched.
_FEW = 16


def _page_end(size: int) -> int:
    """How much of a mapped file of this size may be touched: all of its last page. (Files never shrink.)"""
    return -(-size // PAGESIZE) * PAGESIZE


class MappedLog:
    """The read side of a log, for one thread at a time. It holds mappings but no file descriptors.

    Attributes:
        generation: of the log when the leader named the directory.
    """

    def __init__(self, directory: str, generation: int, files: FileSystem | None = None) -> None:
        self.generation = generation
        self._directory = directory
        self._files = files or OsFiles()
        self._closed = False
        self._view: SegmentView | None = None
        self._paths = "", ""  # of its data and its index
        self._base = 0
        self._identity = (0, 0)
        self._extent = Extent(0, 0)
        self._room = Extent(0, 0)  # how far the mappings may be touched
        self._next_offset = 0  # of what is known of the current segment
        # Where a reader that goes on from what it was given is: the offset after it, and the row of the next entry.
        self._after = -1
        self._row = 0

    def read(self, offset: int, max_bytes: int, limit: int) -> LogSlice | None:
        """Batches from the one containing `offset` on, as `Log.read`.

        Args:
            offset: where to begin.
            max_bytes: stop before exceeding this, but return one batch at least.
            limit: the high watermark: only batches wholly below it.

        Raises:
            OffsetOutOfRange: the records were deleted.
            StorageError: files are gone or were replaced, or the log was closed: ask the leader, or read from it.
            CorruptRecord: the files contradict themselves.
        """
        if self._closed:
            raise StorageError(f"the mapping of {self._directory} is closed")
        if offset >= limit:
            return None
        try:
            found = self._follow(offset, max_bytes, limit) if offset == self._after else None
            if found is None:
                view = self._view_at(offset)
                found = self._follow(offset, max_bytes, limit) if offset == self._after else None
                if found is None:
                    found = self._search(view, offset, max_bytes, limit)
        except IndexDamaged:
            raise CorruptRecord(
                f"the index in {self._directory} is damaged around offset {offset}; read from the leader instead"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot map the log in {self._directory}: {error}; read from the leader") from error
        if found is not None:
            self._after = found.next_offset
        return found

    def _search(self, view: SegmentView, offset: int, max_bytes: int, limit: int) -> LogSlice | None:
        found = view.slice(offset, max_bytes, limit, self._extent)
        if found is not None:
            self._row = view.row_of(found.next_offset, self._extent.entries)
        return found

    def _follow(self, offset: int, max_bytes: int, limit: int) -> LogSlice | None:
        """The few batches behind those read last, also if they came since the files were last looked at.

        What is below the limit has been written: its entry, unless it went to another segment, is the next one, and
        shows up in the mapping without asking for the new size of the files, as long as it lies in their last page. An
        entry is copied before its checksum is looked at, so that what is used is what was checked.

        Returns:
            None: not as easy as that.
        """
        view, row = self._view, self._row
        if view is None or self._extent.entries - row > _FEW:
            return None
        entries = view.entries(min(row + _FEW, self._room.entries))
        raw: list[bytes] = []
        start = end = base = -1
        after = offset
        for place in range(row, len(entries)):
            entry = entries[place : place + 1].tobytes()
            first, last, position, _, _, _, length, _, _, _, _, _, _, _, _ = ENTRY_FIELDS.unpack(entry)
            if not raw:
                start, base = position, first
            room = self._room.size - length
            if not (first <= after <= last < limit and start <= position <= room and is_sound(entry)):
                break
            if raw and position + length - start > max_bytes:
                break
            raw.append(entry)
            after, end = last + 1, position + length
            if after >= limit:
                break
        if not raw or start < 0:
            return None
        self._row = row + len(raw)
        if after > self._next_offset:
            self._next_offset = after
            self._extent = Extent(max(self._extent.entries, self._row), max(self._extent.size, end))
        return LogSlice(view.data(start, end - start), np.frombuffer(b"".join(raw), ENTRY), base, after)

    def _view_at(self, offset: int) -> SegmentView:
        """The view of the segment that holds `offset`, with `_extent` reaching over it."""
        view = self._view
        if view is not None and self._base <= offset:
            if offset < self._next_offset:
                return view
            with contextlib.suppress(FileNotFoundError):  # deleted: the segments that are left tell what that means
                self._refresh(view)
            if offset < self._next_offset:
                return view
        view = self._find(offset)
        if offset >= self._next_offset:
            raise StorageError(
                f"the log in {self._directory} has no offset {offset} although the leader says so; ask the leader again"
            )
        return view

    def _find(self, offset: int) -> SegmentView:
        bases = segment_bases(self._files.list_directory(self._directory) or [])
        if not bases:
            raise StorageError(f"there is no log in {self._directory} (any more); ask the leader again")
        at = bisect.bisect_right(bases, offset) - 1
        if at < 0:
            raise OffsetOutOfRange(f"offset {offset} is below the first one on disk, {bases[0]}: records were deleted")
        view = SegmentView(self._files, self._directory, bases[at], self._check_identity)
        self._base = bases[at]
        self._paths = view.data_path, view.index_path
        self._extent = self._room = Extent(0, 0)
        self._row = 0
        self._identity = _identity(view)
        self._view = view
        self._next_offset = bases[at]
        self._refresh(view)
        return view

    def _refresh(self, view: SegmentView) -> None:
        """Looks how far the segment reaches now."""
        # The index first: what it has entries for, the data file holds by then.
        data_path, index_path = self._paths
        index, data = os.stat(index_path), os.stat(data_path)
        if (data.st_ino, index.st_ino) != self._identity:
            raise self._written_anew()
        count = index.st_size // ENTRY_SIZE
        self._extent = Extent(count, data.st_size)
        self._room = Extent(_page_end(index.st_size) // ENTRY_SIZE, _page_end(data.st_size))
        if count:
            self._next_offset = int(view.entries(count)[-1]["last_offset"]) + 1

    def _check_identity(self) -> None:
        """A file that has just been mapped may be a shorter one than was looked at: it must not be touched."""
        data_path, index_path = self._paths
        if (os.stat(data_path).st_ino, os.stat(index_path).st_ino) != self._identity:
            raise self._written_anew()

    def _written_anew(self) -> StorageError:
        return StorageError(f"{self._paths[1]} was written anew; ask the leader for the log's generation")

    def close(self) -> None:
        """Lets go of the mappings; slices handed out keep theirs."""
        self._closed = True
        self._view = None


def _identity(view: SegmentView) -> tuple[int, int]:
    """Inode numbers of the segment's files, which tell an appended file from a replaced one."""
    return os.stat(view.data_path).st_ino, os.stat(view.index_path).st_ino
