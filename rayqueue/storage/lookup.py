"""Finding records in a log: by offset, by timestamp, and index entries in order. From any thread.

A producer's timestamps need not ascend, so the first record at or after a time is found by a vectorised pass over the
batches' largest timestamps, not by a binary search.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rayqueue.errors import CorruptRecord, OffsetOutOfRange, RayQueueError, StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.messages import SPARSE_BATCH
from rayqueue.protocol.sparse import OFFSET_COLUMN, offsets_of
from rayqueue.storage.durability import Durability
from rayqueue.storage.index import Entries, sound_entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, IndexDamaged, LogSlice
from rayqueue.storage.segment import Segment
from rayqueue.storage.state import LogState


class Lookup:
    """The read side of a log in the writer's process."""

    def __init__(self, state: LogState, durability: Durability) -> None:
        self._state = state
        self._durability = durability

    def read(self, offset: int, max_bytes: int, limit: int) -> LogSlice | None:
        """See `Log.read`."""
        state = self._state
        state.check_online()
        end = state.log_end
        if not state.log_start <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {offset} is outside of the log, which goes from {state.log_start} up to {end}: seek there"
            )
        limit = min(limit, end)
        if offset >= limit:
            return None
        state.used = True
        segment = self._segment_of(offset)
        try:
            try:
                return segment.view().slice(offset, max_bytes, limit, segment.extent)
            except IndexDamaged:
                self._repair(segment)
                segment = self._segment_of(offset)  # it may have been cut and written anew meanwhile
                return segment.view().slice(offset, max_bytes, limit, segment.extent)
        except IndexDamaged:
            raise CorruptRecord(
                f"{segment.path(DATA_SUFFIX)} is damaged at offset {offset}: seek behind it, or bring back a copy"
            ) from None
        except OSError as error:
            raise self._unreadable(offset, error) from error

    def _segment_of(self, offset: int) -> Segment:
        segments = self._state.segments
        row = len(segments) - 1
        if row >= 0 and offset < segments[row].base_offset:
            row = bisect_right(segments, offset, key=_base_offset) - 1
        if row < 0:  # deleted since the caller looked at the log start
            raise OffsetOutOfRange(f"offset {offset} was deleted; the log starts at {self._state.log_start}")
        segment = segments[row]
        if offset >= segment.next_offset:
            raise CorruptRecord(
                f"offsets from {segment.next_offset} on are missing from {segment.path(DATA_SUFFIX)}: "
                f"seek behind them, or bring the file back from a copy"
            )
        return segment

    def _repair(self, segment: Segment) -> None:
        """Makes a closed segment's index anew; the writer's own waits for the next start."""
        if not segment.closed:
            raise CorruptRecord(f"{segment.path(INDEX_SUFFIX)} is damaged: restart the replica actor to rebuild it")
        self._durability.repair_index(segment)

    def _unreadable(self, offset: int, error: OSError) -> RayQueueError:
        if offset < self._state.log_start:
            return OffsetOutOfRange(f"offset {offset} was deleted; the log starts at {self._state.log_start}")
        return StorageError(f"cannot read the log in {self._state.directory}: {error}")

    def offset_for_timestamp(self, timestamp: int, limit: int) -> tuple[int, int] | None:
        """See `Log.offset_for_timestamp`."""
        state = self._state
        state.check_online()
        state.used = True
        for segment in state.segments:
            if segment.base_offset >= limit:
                break
            try:
                found = self._first_in(segment, timestamp, limit)
            except FileNotFoundError:
                continue  # deleted meanwhile: its records are below the log start
            except OSError as error:
                raise StorageError(f"cannot read the log in {state.directory}: {error}") from error
            if found is not None:
                return found
        return None

    def _first_in(self, segment: Segment, timestamp: int, limit: int) -> tuple[int, int] | None:
        """The first record of a segment at or after `timestamp`, with its timestamp."""
        if segment.largest_timestamp() < timestamp:
            return None
        start = self._state.log_start
        entries = segment.entries()
        last_offsets = entries["last_offset"]
        hits = (entries["max_timestamp"] >= timestamp) & (last_offsets >= start) & (last_offsets < limit)
        hits &= entries["record_count"] > 0
        for row in np.flatnonzero(hits).tolist():
            entry = entries[row : row + 1]
            position, length = int(entry["position"][0]), int(entry["length"][0])
            if position + length > segment.extent.size:
                raise CorruptRecord(f"{segment.path(DATA_SUFFIX)} is cut short at byte {segment.extent.size}")
            found = self._first_row(segment.view().data(position, length), entry, timestamp, start)
            if found is not None:
                return found
        return None

    def _first_row(self, data: pa.Buffer, entry: Entries, timestamp: int, start: int) -> tuple[int, int] | None:
        """The first record of a batch from offset `start` on at or after `timestamp`, with its timestamp."""
        sparse = bool(entry["attributes"][0] & SPARSE_BATCH)
        (batch,) = decode(data, entry, self._state.schema, ["timestamp", OFFSET_COLUMN] if sparse else ["timestamp"])
        if not batch.num_rows:
            return None
        column = batch.column(0)
        values = np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)
        base = int(entry["base_offset"][0])
        offsets = offsets_of(batch) if sparse else np.arange(base, base + len(values))
        rows = np.flatnonzero((values >= timestamp) & (offsets >= start))
        return (int(offsets[rows[0]]), int(values[rows[0]])) if len(rows) else None

    def entries_from(self, offset: int) -> Iterator[Entries]:
        """See `Log.entries_from`."""
        state = self._state
        state.check_online()
        for segment in state.segments:
            if segment.next_offset <= offset or not segment.extent.entries:
                continue
            try:
                entries = segment.entries()
                if sound_entries(entries) < len(entries):
                    self._repair(segment)
                    entries = segment.entries()
                yield entries[segment.view().row_of(offset, len(entries)) :]
            except OSError as error:
                raise StorageError(f"cannot read the log in {state.directory}: {error}") from error


def _base_offset(segment: Segment) -> int:
    return segment.base_offset
