"""Cutting a log back: what a follower does with records that its leader does not have.

A reader may have mapped the bytes, so no file is shortened: the segment that is cut is written anew and swapped in,
those behind it are unlinked, and the log has a new generation. The order is such that a crash at any point leaves the
old log, or a prefix of it that is not shorter than the cut:

1. the checkpoint: nothing at or above the cut counts as durable any more, and the new generation;
2. the cut segment's data, then its index (recovery cuts an index that knows more than the data);
3. the segments behind it, last one first (recovery drops what does not follow on the one before it).
"""

from __future__ import annotations

from bisect import bisect_right

from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage import snapshots
from rayqueue.storage.durability import Durability
from rayqueue.storage.index import Entries, sound_entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, Extent
from rayqueue.storage.segment import Segment
from rayqueue.storage.state import LogState


def truncate(state: LogState, durability: Durability, offset: int) -> None:
    """See `Log.truncate`."""
    if offset >= state.log_end:
        return
    row = bisect_right(state.segments, offset, key=lambda segment: segment.base_offset) - 1
    if row < 0:
        reset(state, durability, offset)
        return
    segment = state.segments[row]
    try:
        kept = _entries_below(segment, offset)
    except OSError as error:
        raise StorageError(f"cannot read the log in {state.directory}: {error}") from error
    end = int(kept[-1]["last_offset"]) + 1 if len(kept) else segment.base_offset
    if end <= state.log_start:
        reset(state, durability, end)
        return
    with durability.cutting(end, state.log_start):
        left = state.segments[:row]
        if len(kept):
            left = (*left, _rewritten(state, segment, kept))
        _drop(state, state.segments[len(left) :], end)
        state.segments = left
        state.epochs = [epoch for epoch in state.epochs if epoch[1] < end]
        state.log_end = end


def reset(state: LogState, durability: Durability, start: int) -> None:
    """See `Log.reset`."""
    with durability.cutting(start, start):
        _drop(state, state.segments, -1)
        state.segments = ()
        state.epochs = []
        state.log_end = start


def _entries_below(segment: Segment, offset: int) -> Entries:
    """The entries of the batches that lie wholly below an offset of the segment."""
    entries = segment.entries()
    row = segment.view().row_of(offset, len(entries))
    if sound_entries(entries[: row + 1]) < min(row + 1, len(entries)):
        raise CorruptRecord(f"{segment.path(INDEX_SUFFIX)} is damaged: restart the replica actor to rebuild it")
    return entries[:row]


def _rewritten(state: LogState, segment: Segment, kept: Entries) -> Segment:
    """A segment with these entries of it and their data, in new files; open for writing."""
    size = int(kept[-1]["position"]) + int(kept[-1]["length"])
    index = kept.tobytes()
    checkpoints.replace_file(state.files, segment.path(DATA_SUFFIX), segment.pin().data(0, size))
    checkpoints.replace_file(state.files, segment.path(INDEX_SUFFIX), index)
    end = int(kept[-1]["last_offset"]) + 1
    made = Segment(state.files, state.directory, segment.base_offset, end, Extent(len(kept), size))
    made.created_ms = segment.created_ms
    segment.removed = True
    segment.release_writers()
    return made


def _drop(state: LogState, segments: tuple[Segment, ...], end: int) -> None:
    """Unlinks segments, last one first, and the snapshots above `end`."""
    for segment in reversed(segments):
        segment.replace_files()
    snapshots.remove_above(state.files, state.directory, end)
    if state.files.list_directory(state.directory) is not None:
        state.files.sync_directory(state.directory)
