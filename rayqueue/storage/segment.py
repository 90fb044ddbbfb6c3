"""One segment of a log: a data file and its index, and how batches get into them.

::

    <partition directory>/
      00000000000000000000.arrow      closed segment: offsets 0 to 4180
      00000000000000000000.index
      00000000000000004181.arrow      active segment
      00000000000000004181.index
      00000000000000004181.snapshot   producer state up to offset 4181 (checkpoint.py, snapshots.py)
      checkpoint                      log start, recovery point, generation, leader epochs

    .arrow: a plain Arrow IPC stream                 .index: one ENTRY of 80 bytes a batch
    +--------------------------------------+         +-------------------------------------------+
    | schema message                       |         | base, last offset | position | timestamps |
    +--------------------------------------+ <-------| producer | length | header length | count |
    | batch: prefix, metadata | body       |         | crc | epoch | sequence | ... | entry crc  |
    +--------------------------------------+         +-------------------------------------------+
    | batch                                | <-------| ...                                       |
    +--------------------------------------+         +-------------------------------------------+
    | end of stream (8 bytes): closed only |
    +--------------------------------------+

    metadata of a batch: rayqueue.protocol.ipc

A segment is named by the first offset it may hold. Data is written before its index entry; both are only ever appended
to. What failed to be written is cut off again before anybody can have read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.messages import DELETE_HORIZON, SPARSE_BATCH
from rayqueue.storage.files import AppendFile, FileSystem, Piece
from rayqueue.storage.index import ENTRY_SIZE, Entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, Extent, SegmentView, segment_path

NO_TIMESTAMP = -1
NO_HORIZON = 1 << 62

# Large writes are cheaper where the disk has set room aside: a fourth of what the segment has, up to so much.
RESERVE_ABOVE = 128 * 1024
RESERVE_MAX = 16 << 20


class CutBackFailed(Exception):
    """What a failed write left behind could not be removed: the files may hold bytes nobody acked."""


class Segment:
    """A segment. Written by one thread; `extent` and what hangs on it may be read by any.

    Attributes:
        base_offset: the first offset it may hold.
        next_offset: the offset after its last record. Invariant: base_offset <= next_offset.
        extent: index entries and data bytes that are published; the end-of-stream marker is not counted.
        max_timestamp: largest of its batches, ms; None: not looked up yet.
        created_ms: when its first batch was appended, ms; NO_TIMESTAMP: not known.
        closed: nothing more is appended to it.
        unsynced, unsynced_index: written to since the last fsync of the data file, the index, began. Set after the
            bytes are written and before they are published, cleared before an fsync begins: so whoever sees published
            bytes and no flag knows that an fsync which began later than they were written covers them.
        removed: its files are unlinked, or about to be.
        oldest: the largest timestamp of its first batch, ms; None: not looked up yet.
        horizon: when its first tombstones may go, ms; NO_HORIZON: it has none that wait; None: not looked up yet.
    """

    __slots__ = (
        "_data",
        "_directory",
        "_files",
        "_index",
        "_sparse",
        "_view",
        "base_offset",
        "closed",
        "created_ms",
        "extent",
        "horizon",
        "max_timestamp",
        "next_offset",
        "oldest",
        "removed",
        "unsynced",
        "unsynced_index",
    )

    def __init__(self, files: FileSystem, directory: str, base_offset: int, next_offset: int, extent: Extent) -> None:
        self._files = files
        self._directory = directory
        self._data: AppendFile | None = None
        self._index: AppendFile | None = None
        self._view = SegmentView(files, directory, base_offset)
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.extent = extent
        self.max_timestamp: int | None = None
        self.created_ms = NO_TIMESTAMP
        self.closed = False
        self.unsynced = False
        self.unsynced_index = False
        self.removed = False
        self._sparse: int | None = None
        self.oldest: int | None = None
        self.horizon: int | None = None

    @classmethod
    def create(cls, files: FileSystem, directory: str, base_offset: int, schema: bytes) -> Segment:
        """A new segment on disk, with the schema message and nothing else.

        Raises:
            OSError: it was not made; what there was of it is removed.
        """
        segment = cls(files, directory, base_offset, base_offset, Extent(0, len(schema)))
        segment.unsynced = segment.unsynced_index = True
        segment.max_timestamp = NO_TIMESTAMP
        try:
            files.remove(segment.path(INDEX_SUFFIX))
            files.remove(segment.path(DATA_SUFFIX))
            data, _ = segment._open()
            files.append(data, [schema], len(schema))
        except OSError:
            segment.remove_files()
            raise
        return segment

    def path(self, suffix: str) -> str:
        return segment_path(self._directory, self.base_offset, suffix)

    def _open(self, create: bool = True) -> tuple[AppendFile, AppendFile]:
        data, index = self._data, self._index
        if data is None or index is None:
            data = self._data = self._files.open_append(self.path(DATA_SUFFIX), create)
            index = self._index = self._files.open_append(self.path(INDEX_SUFFIX), create)
        return data, index

    def write(self, pieces: Sequence[Piece], total: int, entries: bytes) -> None:
        """Appends messages (`total` bytes in all) and their index entries. Not published: see `publish`.

        Raises:
            OSError: nothing was written (what was has been cut off again).
            CutBackFailed: and it could not be cut off.
        """
        data, index = self._open()
        end = self.extent.size + total
        if total >= RESERVE_ABOVE and end > data.reserved:
            self._files.reserve(data, end + min(end // 4, RESERVE_MAX))
        try:
            self._files.append(data, pieces, total)
            self._files.append(index, [entries], len(entries))
        except OSError:
            self.cut_back()
            raise
        self.unsynced = self.unsynced_index = True

    def cut_back(self) -> None:
        """Removes what was written after the published extent.

        Raises:
            CutBackFailed: it could not be removed.
        """
        try:
            data, index = self._open()
            self._files.truncate(index, self.extent.entries * ENTRY_SIZE)
            self._files.truncate(data, self.extent.size)
        except OSError as error:
            raise CutBackFailed(str(error)) from error
        self.unsynced = self.unsynced_index = True

    def publish(self, extent: Extent, next_offset: int, max_timestamp: int) -> None:
        """Lets readers see what was written up to `extent`."""
        if self.max_timestamp is not None and max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
        self.extent = extent
        self.next_offset = next_offset

    def end_stream(self) -> None:
        """Writes the end-of-stream marker: the segment is closed.

        Raises:
            OSError: it was not written.
            CutBackFailed: it was partly written and could not be removed.
        """
        data, _ = self._open()
        try:
            self._files.append(data, [END_OF_STREAM], len(END_OF_STREAM))
            self._files.give_back(data)  # room may be set aside, perhaps by a process before us
        except OSError:
            self.cut_back()
            raise
        self.unsynced = True

    def sync(self, index: bool) -> None:
        """Makes what is published durable, the index too if asked. Callable beside `write` (what is written meanwhile
        may or may not be durable) and beside `remove_files` (then there is nothing left to be).

        Raises:
            OSError: it failed; nothing is known of what is durable any more.
        """
        if self.removed or not (self.unsynced or (index and self.unsynced_index)):
            return
        try:
            # Never makes a file: one that was unlinked meanwhile would stand there again, empty.
            data_file, index_file = self._open(create=False)
        except FileNotFoundError:
            if self.removed:
                return
            raise
        if self.unsynced:
            self.unsynced = False
            self._files.sync(data_file)
        if index and self.unsynced_index:
            self.unsynced_index = False
            self._files.sync(index_file)

    def view(self) -> SegmentView:
        """The segment's read side."""
        return self._view

    def entries(self) -> Entries:
        """All published index entries, ENTRY[n]."""
        return self.view().entries(self.extent.entries)

    def largest_timestamp(self) -> int:
        """The largest timestamp in the segment, ms; NO_TIMESTAMP when it is empty."""
        if self.max_timestamp is None:
            entries = self.entries()
            self.max_timestamp = int(np.max(entries["max_timestamp"])) if len(entries) else NO_TIMESTAMP
        return self.max_timestamp

    @property
    def sparse(self) -> int:
        """SPARSE_BATCH where its batches are sparse, else 0. Meaningless while it has none."""
        if self._sparse is None:
            self._sparse = int(self.entries()["attributes"][0]) & SPARSE_BATCH if self.extent.entries else 0
        return self._sparse

    @sparse.setter
    def sparse(self, value: int) -> None:
        self._sparse = value

    def begin_anew(self, schema: bytes) -> None:
        """Gives a segment without batches another schema.

        Raises:
            CutBackFailed: nobody knows what stands in it now.
        """
        data, _ = self._open()
        try:
            self._files.truncate(data, 0)
            self._files.append(data, [schema], len(schema))
        except OSError as error:
            raise CutBackFailed(str(error)) from error
        self.unsynced = True
        self.extent = Extent(0, len(schema))

    def oldest_timestamp(self) -> int:
        """The largest timestamp of the first batch, ms; NO_TIMESTAMP when there is none."""
        if self.oldest is None:
            self.oldest = int(self.entries()["max_timestamp"][0]) if self.extent.entries else NO_TIMESTAMP
        return self.oldest

    def waiting_horizon(self) -> int:
        """When its first tombstones may go, ms; NO_HORIZON where none wait. Of a closed segment."""
        if self.horizon is None:
            entries = self.entries()
            waiting = entries["min_timestamp"][entries["attributes"] & DELETE_HORIZON != 0]
            self.horizon = int(waiting.min()) if len(waiting) else NO_HORIZON
        return self.horizon

    def release_writers(self) -> None:
        """Closes the files for writing; they open again when needed."""
        data = self._data
        if data is not None and data.reserved:
            with contextlib.suppress(OSError):  # the room is given back some other time
                self._files.give_back(data)
        self._data = self._index = None

    def release(self) -> None:
        """Closes the files and lets go of the mappings, once nobody uses them."""
        self.release_writers()
        self._view.release()

    def pin(self) -> SegmentView:
        """Maps all of it. A reader that holds this segment then goes on reading these very files, whatever stands
        under their names later: in shorter ones it would touch bytes beyond the end."""
        self._view.pin(self.extent)
        return self._view

    def remove_files(self) -> None:
        """Unlinks the segment; readers that have it mapped keep it.

        Raises:
            OSError: a file could not be unlinked.
        """
        self._unlink()
        self.release()

    def replace_files(self) -> None:
        """Unlinks the segment to make room for another of its name; see `pin`.

        Raises:
            OSError: a file could not be mapped or unlinked.
        """
        self.pin()
        self._unlink()
        self.release_writers()

    def _unlink(self) -> None:
        self.removed = True
        self._files.remove(self.path(DATA_SUFFIX))
        self._files.remove(self.path(INDEX_SUFFIX))
