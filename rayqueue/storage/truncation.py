"""Cutting a log back: what a follower does with records that its leader does not have.

A reader may have mapped the bytes, so no file is shortened: the segment that is cut is written anew and swapped in,
those behind it are unlinked, and the log has a new generation. What may find the disk full comes first, and changes
nothing: the new files are written beside the old ones. After that the order is such that a crash at any point leaves
the old log, or a prefix of it that is not shorter than the cut:

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
from rayqueue.storage.files import PASSING
from rayqueue.storage.index import Entries, sound_entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, Extent
from rayqueue.storage.segment import Segment
from rayqueue.storage.state import LogState


def truncate(state: LogState, durability: Durability, offset: int) -> None:
    """See `Log.truncate`."""
    with state.cleaning.halted(), durability.alone():
        if offset >= state.log_end:
            return
        row = bisect_right(state.segments, offset, key=lambda segment: segment.base_offset) - 1
        if row < 0:
            _empty(state, durability, offset, sound=-1)
            return
        segment = state.segments[row]
        try:
            kept = _entries_below(segment, offset)
        except OSError as error:
            raise _failed(state, error) from error
        end = int(kept[-1]["last_offset"]) + 1 if len(kept) else segment.base_offset
        if end <= state.log_start:
            # What was deleted below the start was committed: what was known of it stays true.
            _empty(state, durability, end, sound=end if end == state.log_start else -1)
        else:
            _cut(state, durability, row, kept, end)


def reset(state: LogState, durability: Durability, start: int) -> None:
    """See `Log.reset`."""
    with state.cleaning.halted(), durability.alone():
        _empty(state, durability, start, sound=-1)


def _cut(state: LogState, durability: Durability, row: int, kept: Entries, end: int) -> None:
    """Cuts the log back to `end`, within or at the start of the segment in this row, of which `kept` stays."""
    segment, beside = state.segments[row], dict[str, str]()
    left = state.segments[:row]
    try:
        _pin(state.segments[row:])
        if len(kept):
            _write_anew(state, segment, kept, beside)
        durability.note_cut(end, state.log_start, end)
    except OSError as error:
        raise _failed(state, error, beside) from error
    try:
        for path, temporary in beside.items():
            state.files.replace(temporary, path)
        if len(kept):
            left = (*left, _swapped(state, segment, kept))
        _drop(state, state.segments[len(left) :], end)
    except OSError as error:
        raise state.go_offline(error) from error
    state.segments = left
    state.log_end = end


def _empty(state: LogState, durability: Durability, start: int, sound: int) -> None:
    try:
        _pin(state.segments)
        durability.note_cut(start, start, sound)
    except OSError as error:
        raise _failed(state, error) from error
    try:
        _drop(state, state.segments, sound)
    except OSError as error:
        raise state.go_offline(error) from error
    state.segments = ()
    state.log_end = start


def _failed(state: LogState, error: OSError, beside: dict[str, str] | None = None) -> StorageError:
    """Before anything was cut: on a full disk, or without a descriptor left, the log is as it was."""
    if error.errno not in PASSING:
        return state.go_offline(error)
    for segment in state.segments:
        segment.view().unpin()
    try:
        for temporary in (beside or {}).values():
            state.files.remove(temporary)
    except OSError as failure:
        return state.go_offline(failure)
    return StorageError(f"the log in {state.directory} cannot be cut back: {error.strerror}; nothing has changed")


def _entries_below(segment: Segment, offset: int) -> Entries:
    """The entries of the batches that lie wholly below an offset of the segment."""
    entries = segment.entries()
    row = segment.view().row_of(offset, len(entries))
    if sound_entries(entries[: row + 1]) < min(row + 1, len(entries)):
        raise CorruptRecord(f"{segment.path(INDEX_SUFFIX)} is damaged: restart the replica actor to rebuild it")
    return entries[:row]


def _pin(segments: tuple[Segment, ...]) -> None:
    """Maps what will be replaced, see `Segment.pin`: a process without a descriptor left finds out before the cut."""
    for segment in segments:
        segment.pin()


def _write_anew(state: LogState, segment: Segment, kept: Entries, beside: dict[str, str]) -> None:
    """Writes new files for a segment, its data first; `beside`: under which names, by those they are to have."""
    size = int(kept[-1]["position"]) + int(kept[-1]["length"])
    for suffix, content in ((DATA_SUFFIX, segment.pin().data(0, size)), (INDEX_SUFFIX, kept.tobytes())):
        path = segment.path(suffix)
        beside[path] = checkpoints.write_beside(state.files, path, content)


def _swapped(state: LogState, segment: Segment, kept: Entries) -> Segment:
    """The segment whose new files have taken the place of the old; open for writing."""
    size = int(kept[-1]["position"]) + int(kept[-1]["length"])
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
