"""Compaction of a log: a map of the newest offsets, then every segment cleaned by it, a few neighbours at a time.

It runs on a thread of its own beside the writer, who goes on appending and deleting. A group of segments is read and
written anew beside the old ones without any lock; then the new one takes their place, which excludes flushes, cuts and
moves of the log start. The order of that is such that a crash at any point leaves the old segments or the new one:

1. the new files are durable, under temporary names that a recovery removes;
2. the index of the first old segment goes, durably: new data must never stand beside an old index, nor the other way;
3. the new data takes the first one's name, durably, then the new index. Recovery makes a missing one again;
4. the other old segments go, last one first. Recovery drops segments that begin before the one before them ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import StorageError
from rayqueue.protocol.messages import NO_PRODUCER
from rayqueue.storage.compaction import plan as plans
from rayqueue.storage.compaction.cleaning import Cleaned, Rules, clean, copy, write
from rayqueue.storage.compaction.key_map import ENTRY_BYTES, KeyMap
from rayqueue.storage.compaction.reading import Chunk, KeyColumns, chunks
from rayqueue.storage.compaction.writing import SegmentWriter
from rayqueue.storage.durability import Durability
from rayqueue.storage.index import Entries
from rayqueue.storage.reader import Extent
from rayqueue.storage.segment import Segment
from rayqueue.storage.state import LogState


class Stopped(Exception):
    """The log is being cut, closed or deleted, or a part of it was: compaction ends where it is."""


class Compacted(NamedTuple):
    """What a round did.

    Attributes:
        end: below it the log is compacted now.
        read, written: bytes.
        segments: that were written anew.
        finished: False where it was stopped.
    """

    end: int
    read: int
    written: int
    segments: int
    finished: bool


class Work(NamedTuple):
    """How a round is to be done.

    Attributes:
        now_ms: wall clock.
        columns: where the keys stand.
        seed: two random words of 64 bits, for the hashes of keys.
        producers: ids of those whose last batch has to stay, as a header at least; None: all.
        memory: for the map of keys, bytes.
        wait_s: how long to wait before so many bytes are read or written, s.
    """

    now_ms: int
    columns: KeyColumns
    seed: tuple[int, int]
    producers: Collection[int] | None = None
    memory: int = 128 << 20
    wait_s: Callable[[int], float] = lambda size: 0.0


def facts(segments: Sequence[Segment]) -> list[plans.SegmentFacts]:
    """What the decisions need to know of closed segments."""
    return [
        plans.SegmentFacts(
            one.base_offset,
            one.next_offset,
            one.extent.size,
            one.oldest_timestamp(),
            max(one.largest_timestamp(), one.created_ms),
            one.waiting_horizon(),
        )
        for one in segments
    ]


def due(state: LogState, config: TopicConfig, now_ms: int, high_watermark: int) -> plans.Plan | None:
    """See `Log.compaction_due`."""
    state.check_online()
    if not config.compacted:
        return None
    try:
        closed = facts([segment for segment in state.segments if segment.closed and segment.extent.entries])
    except OSError as error:
        raise StorageError(f"cannot read the log in {state.directory}: {error}") from error
    return plans.plan(closed, state.compacted, high_watermark, now_ms, config)


def compact(state: LogState, durability: Durability, config: TopicConfig, what: plans.Plan, work: Work) -> Compacted:
    """See `Log.compact`."""
    with state.cleaning.running():
        state.check_online()
        try:
            return _Compaction(state, durability, config, work).run(what)
        except OSError as error:
            raise StorageError(f"the log in {state.directory} cannot be compacted: {error}; it is as it was") from error


class _Compaction:
    """One round over a log."""

    def __init__(self, state: LogState, durability: Durability, config: TopicConfig, work: Work) -> None:
        self._state = state
        self._durability = durability
        self._config = config
        self._work = work
        self._columns, self._seed = work.columns, work.seed
        self._read = self._written = self._segments = 0

    def run(self, what: plans.Plan) -> Compacted:
        """Does what is due; with more keys than the map takes, in several passes."""
        finished, dirty = True, what.dirty
        try:
            while True:
                dirty = self._pass(dirty, what.end)
                if dirty >= what.end:
                    break
        except Stopped:
            finished = False
        return Compacted(self._state.compacted, self._read, self._written, self._segments, finished)

    def _pass(self, dirty: int, end: int) -> int:
        closed = [one for one in self._state.segments if one.closed and one.base_offset < end]
        newest, end = self._newest(closed, dirty, end)
        closed = [one for one in closed if one.base_offset < end]
        rules = Rules(newest, end, self._work.now_ms, self._config.delete_retention_ms, self._last_batches())
        for count in plans.groups(facts(closed), self._config.segment_bytes):
            group, closed = closed[:count], closed[count:]
            self._clean(group, rules)
        self._durability.note_compacted(end)
        return end

    def _pace(self, size: int) -> None:
        if self._state.cleaning.stopped(self._work.wait_s(size)):
            raise Stopped

    def _newest(self, segments: Sequence[Segment], dirty: int, end: int) -> tuple[KeyMap, int]:
        """The map of the dirty part, as far as it fits, and the offset up to which it goes."""
        newest = KeyMap(max(1, self._work.memory // ENTRY_BYTES))
        for segment in segments:
            if segment.next_offset <= dirty:
                continue
            for chunk in chunks(segment, self._columns, self._seed, dirty):
                self._pace(_size(chunk))
                self._read += _size(chunk)
                if newest.fits(len(chunk.offsets)):
                    newest.add(chunk.keys, chunk.offsets)
                    continue
                for row, count in enumerate(np.diff(chunk.starts).tolist()):
                    if not newest.fits(count):
                        return newest, int(chunk.entries["base_offset"][row])
                    start, stop = int(chunk.starts[row]), int(chunk.starts[row + 1])
                    newest.add(chunk.keys.slice(start, stop), chunk.offsets[start:stop])
        return newest, end

    def _last_batches(self) -> frozenset[int]:
        """Base offsets of the last batch of each producer that still counts."""
        last: dict[int, int] = {}
        for segment in self._state.segments:
            entries = segment.entries()
            rows = np.flatnonzero(entries["producer_id"] != NO_PRODUCER)[::-1]
            ids, first = np.unique(entries["producer_id"][rows], return_index=True)
            last.update(zip(ids.tolist(), entries["base_offset"][rows[first]].tolist(), strict=True))
        wanted = self._work.producers
        return frozenset(base for producer, base in last.items() if wanted is None or producer in wanted)

    # --- a group of segments ---------------------------------------------------------------------------------------

    def _clean(self, group: Sequence[Segment], rules: Rules) -> None:
        """Cleans neighbouring segments into one; where nothing changes, nothing is written."""
        output = _Output(self._state, group, rules, self._pace)
        try:
            for segment in group:
                for chunk in chunks(segment, self._columns, self._seed):
                    self._pace(_size(chunk))
                    self._read += _size(chunk)
                    output.take(segment, chunk, clean(chunk, rules))
            made = output.finish()
            if made is not None:
                self._swap(group, *made)
        except FileNotFoundError as error:
            if self._there(group):
                raise
            raise Stopped from error
        finally:
            output.discard()

    def _there(self, group: Sequence[Segment]) -> bool:
        """Whether none of them has been deleted."""
        present = {id(one) for one in self._state.segments}
        return all(id(one) in present for one in group)

    def _swap(self, group: Sequence[Segment], writer: SegmentWriter, extent: Extent) -> None:
        """Puts a new segment in the place of a group, unless some of that has been deleted meanwhile."""
        state, files = self._state, self._state.files
        made = Segment(files, state.directory, group[0].base_offset, writer.next_offset, extent)
        made.closed = True
        made.created_ms = max(one.created_ms for one in group)
        with self._durability.alone():
            if not self._there(group):
                # Not even the groups behind it are cleaned: a tombstone must not go before what it deletes.
                raise Stopped
            for one in group:
                one.pin()
            try:
                files.remove(writer.paths[1])
                files.sync_directory(state.directory)
                for beside, path in zip(writer.beside, writer.paths, strict=True):
                    files.replace(beside, path)
                    files.sync_directory(state.directory)
                group[0].removed = True
                group[0].release_writers()
                for one in reversed(group[1:]):
                    one.replace_files()
            except OSError as error:
                raise state.go_offline(error) from error
            state.replace_segments(group, made)
            state.generation += 1
        self._segments += 1
        self._written += extent.size


class _Output:
    """The new segment of a group, begun with the first change: until then what was read is only remembered."""

    def __init__(self, state: LogState, group: Sequence[Segment], rules: Rules, pace: Callable[[int], None]) -> None:
        self._state = state
        self._group = group
        self._rules = rules
        self._pace = pace
        self._unchanged: list[tuple[bool, Entries, pa.Buffer]] = []
        self._writer: SegmentWriter | None = None

    def take(self, segment: Segment, chunk: Chunk, cleaned: Cleaned) -> None:
        if self._writer is None:
            if len(self._group) == 1 and not cleaned.changed:
                self._unchanged.append((bool(segment.sparse), chunk.entries, chunk.data))
                return
            state = self._state
            self._writer = SegmentWriter(
                state.files, state.directory, self._group[0].base_offset, state.schema, self._pace
            )
            for unchanged in self._unchanged:
                copy(*unchanged, self._writer)
            self._unchanged.clear()
        write(chunk, cleaned, self._rules, self._state.stored_schema(bool(segment.sparse)), self._writer)

    def finish(self) -> tuple[SegmentWriter, Extent] | None:
        """What is to be swapped in; None: nothing has changed."""
        return None if self._writer is None else (self._writer, self._writer.finish())

    def discard(self) -> None:
        """Removes what was not swapped in."""
        if self._writer is not None:
            self._writer.discard()


def _size(chunk: Chunk) -> int:
    entries = chunk.entries
    return int(entries["position"][-1]) + int(entries["length"][-1]) - int(entries["position"][0])
