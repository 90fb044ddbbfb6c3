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
    found = plans.plan(closed, state.compacted, high_watermark, now_ms, config)
    return None if found is None else found._replace(cuts=state.cuts)


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
            if what.cuts != self._state.cuts:  # what was to be cleaned may be gone, and what stands there not committed
                raise Stopped
            while True:
                dirty = self._pass(dirty, what.end)
                if dirty >= what.end:
                    break
        except Stopped:
            finished = False
        return Compacted(self._state.compacted, self._read, self._written, self._segments, finished)

    def _pass(self, dirty: int, end: int) -> int:
        rules = None
        while rules is None:
            rules = self._rules(dirty, end)
        closed = [one for one in self._state.segments if one.closed and one.base_offset < rules.end]
        for count in plans.groups(facts(closed), self._config.segment_bytes):
            group, closed = closed[:count], closed[count:]
            # Retention may take the oldest meanwhile. What is gone is no value that a tombstone still has to hide.
            while left := self._present(group):
                if self._clean(left, rules):
                    break
        self._durability.note_compacted(rules.end)
        return rules.end

    def _rules(self, dirty: int, end: int) -> Rules | None:
        """By what a pass goes; None: segments were deleted while they were read."""
        closed = [one for one in self._state.segments if one.closed and one.base_offset < end]
        try:
            newest, end = self._newest(closed, dirty, end)
            return Rules(newest, end, self._work.now_ms, self._config.delete_retention_ms, self._last_batches())
        except FileNotFoundError:
            if len(self._present(closed)) == len(closed):
                raise
            return None

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

    def _clean(self, group: Sequence[Segment], rules: Rules) -> bool:
        """Cleans neighbouring segments into one; where nothing changes, nothing is written. False: some of them have
        been deleted meanwhile, and nothing has changed."""
        output = _Output(self._state, group, rules, self._pace)
        try:
            for segment in group:
                for chunk in chunks(segment, self._columns, self._seed):
                    self._pace(_size(chunk))
                    self._read += _size(chunk)
                    output.take(segment, chunk, clean(chunk, rules))
            made = output.finish()
            return made is None or self._swap(group, *made)
        except FileNotFoundError:
            if len(self._present(group)) == len(group):
                raise
            return False
        finally:
            output.discard()

    def _present(self, group: Sequence[Segment]) -> list[Segment]:
        """Those of them that have not been deleted."""
        present = {id(one) for one in self._state.segments}
        return [one for one in group if id(one) in present]

    def _swap(self, group: Sequence[Segment], writer: SegmentWriter, extent: Extent) -> bool:
        """Puts a new segment in the place of a group; False: some of that has been deleted meanwhile."""
        state, files = self._state, self._state.files
        made = Segment(files, state.directory, group[0].base_offset, writer.next_offset, extent)
        made.closed = True
        made.created_ms = max(one.created_ms for one in group)
        with self._durability.alone():
            if len(self._present(group)) < len(group):
                return False
            for one in group:
                one.pin()
            # Durably, before anything changes: a process that starts after a crash must not give this number again, to
            # other bytes, while somebody has these files mapped under it.
            self._durability.raise_generation()
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
                if len(group) > 1:  # else the log start could be durable beyond them, and they be there again
                    files.sync_directory(state.directory)
            except OSError as error:
                raise state.go_offline(error) from error
            state.replace_segments(group, made)
        self._segments += 1
        self._written += extent.size
        return True


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
