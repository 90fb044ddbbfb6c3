"""Reading a log from another process on the same host, through mappings of its files.

The writer appends data first and its index entries after it, and never changes either; so whatever whole entries the
index holds, their data is there. What may be read is told by the leader (`limit`, the high watermark). A log whose
bytes below its end were rewritten has a new generation and needs a new `MappedLog`.
"""

from __future__ import annotations

import bisect
import contextlib
import os

from rayqueue.errors import CorruptRecord, OffsetOutOfRange, StorageError
from rayqueue.storage.files import FileSystem, OsFiles
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.reader import Extent, IndexDamaged, LogSlice, SegmentView, segment_bases


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
        self._base = 0
        self._identity = (0, 0)
        self._extent = Extent(0, 0)
        self._next_offset = 0  # of what is known of the current segment

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
            view = self._view_at(offset)
            return view.slice(offset, max_bytes, limit, self._extent)
        except IndexDamaged:
            raise CorruptRecord(
                f"the index in {self._directory} is damaged around offset {offset}; read from the leader instead"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot map the log in {self._directory}: {error}; read from the leader") from error

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
        view = SegmentView(self._files, self._directory, bases[at])
        self._base = bases[at]
        self._identity = _identity(view)
        self._view = view
        self._next_offset = bases[at]
        self._refresh(view)
        return view

    def _refresh(self, view: SegmentView) -> None:
        """Looks how far the segment reaches now."""
        # The index first: what it has entries for, the data file holds by then.
        index, data = os.stat(view.index_path), os.stat(view.data_path)
        if (data.st_ino, index.st_ino) != self._identity:
            raise StorageError(f"{view.index_path} was written anew; ask the leader for the log's generation")
        count = index.st_size // ENTRY_SIZE
        self._extent = Extent(count, data.st_size)
        if count:
            self._next_offset = int(view.entries(count)[-1]["last_offset"]) + 1

    def close(self) -> None:
        """Lets go of the mappings; slices handed out keep theirs."""
        self._closed = True
        self._view = None


def _identity(view: SegmentView) -> tuple[int, int]:
    """Inode numbers of the segment's files, which tell an appended file from a replaced one."""
    return os.stat(view.data_path).st_ino, os.stat(view.index_path).st_ino
