"""Opening a log's directory: what is there, what of it can be trusted, and what has to be cut or made again.

Below the recovery point of the checkpoint every byte was verified and fsynced: only the edges of the indexes are
looked at, and damage found later is an error for whoever reads it, never dropped in silence. From the recovery point
on, what a crash can have left is put right:

* an index entry that is missing or damaged is made again from the data file;
* the first batch that is torn, damaged or out of sequence ends the log; it and all after it is cut off.

A file is only shortened in place where no reader can have mapped the bytes: behind the last index entry. Otherwise
the kept part is written anew and swapped in, under a new generation.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import serialize_schema
from rayqueue.protocol.sparse import sparse_schema
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage import scan, snapshots
from rayqueue.storage.checkpoint import Checkpoint
from rayqueue.storage.files import PASSING, FileSystem
from rayqueue.storage.index import ENTRY, ENTRY_SIZE, Entries, pack_entry, sound_entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, Extent, segment_bases, segment_path
from rayqueue.storage.segment import NO_TIMESTAMP, Segment

_log = logging.getLogger(__name__)


@dataclass
class Recovered:
    """What `recover` found.

    Attributes:
        segments: ascending; only the last may be written to.
        log_start_offset, log_end_offset: where the log begins and ends now.
        recovery_point: below it everything is durable and verified.
        generation: counts how often bytes below the log end were rewritten.
        leader_epochs: (epoch, its first offset), ascending.
        committed: as the checkpoint has it, but not above the end; -1: not known.
        compacted: below it the log has been compacted.
        repairs: what was put right, in words.
    """

    segments: list[Segment] = field(default_factory=list)
    log_start_offset: int = 0
    log_end_offset: int = 0
    recovery_point: int = 0
    generation: int = 0
    leader_epochs: list[tuple[int, int]] = field(default_factory=list)
    committed: int = -1
    compacted: int = 0
    repairs: list[str] = field(default_factory=list)


@dataclass
class _Found:
    """The sound part of a segment: `entries` (ENTRY[n]) and `size` bytes of data."""

    entries: Entries
    size: int
    reason: str = ""  # why it does not go on


class Recovery:
    """One pass over a log's directory."""

    def __init__(self, files: FileSystem, directory: str, schema: pa.Schema, recovery_point: int = 0) -> None:
        self._files = files
        self._directory = directory
        # Of a segment whose batches are not sparse, and of one whose are.
        self._schema, self._sparse = serialize_schema(schema), serialize_schema(sparse_schema(schema))
        self._result = Recovered(recovery_point=recovery_point)
        self._rewritten = False

    def run(self) -> Recovered:
        """Recovers the log.

        Raises:
            OSError: the directory cannot be read or repaired.
        """
        names = self._files.list_directory(self._directory)
        result = self._result
        if names is None:
            return result
        checkpoint = checkpoints.read(self._files, self._directory)
        if checkpoint is not None:
            result.log_start_offset = checkpoint.log_start_offset
            result.recovery_point = checkpoint.recovery_point
            result.generation = checkpoint.generation
        bases = self._tidy(names)
        if bases:
            result.log_start_offset = max(result.log_start_offset, bases[0])
        while bases:
            base, *bases = bases
            segment, whole = self._segment(base, bases)
            result.segments.append(segment)
            bases = self._replaced(bases, segment.next_offset)
            if not whole:
                self._drop(bases, segment.next_offset)
                break
        self._finish(checkpoint)
        return result

    def _tidy(self, names: list[str]) -> list[int]:
        """Removes leftovers of interrupted work; the base offsets of the segments that remain."""
        bases = segment_bases(names)
        start = self._result.log_start_offset
        # A segment is gone when the next one begins at or below the log start.
        keep = [base for i, base in enumerate(bases) if i + 1 == len(bases) or bases[i + 1] > start]
        for base in set(bases).difference(keep):
            self._files.remove(segment_path(self._directory, base, DATA_SUFFIX))
        stems = {f"{base:020d}" for base in keep}
        for name in names:
            stray = name.endswith(INDEX_SUFFIX) and name[: -len(INDEX_SUFFIX)] not in stems
            if stray or name.endswith(checkpoints.TEMPORARY):
                self._files.remove(os.path.join(self._directory, name))
        return keep

    def _replaced(self, bases: list[int], end: int) -> list[int]:
        """Removes segments that begin before the one before them ends, at `end`: compaction has put that one in their
        place, and did not come to removing all of them. Those that are left."""
        for base in [base for base in reversed(bases) if base < end]:
            self._files.remove(segment_path(self._directory, base, DATA_SUFFIX))
            self._files.remove(segment_path(self._directory, base, INDEX_SUFFIX))
            self._rewritten = True
        return [base for base in bases if base >= end]

    def _segment(self, base: int, others: list[int]) -> tuple[Segment, bool]:
        """Recovers one segment. Returns it, and whether the log goes on after it with one of the `others`."""
        following = others[0] if others else None
        data_size = self._files.size(segment_path(self._directory, base, DATA_SUFFIX)) or 0
        index_size = self._files.size(segment_path(self._directory, base, INDEX_SUFFIX)) or 0
        if following is not None and following <= self._result.recovery_point:
            found = self._edges(base, index_size, data_size)
            if found is not None:
                if not found.reason and data_size < found.size + len(END_OF_STREAM):
                    self._cut(segment_path(self._directory, base, DATA_SUFFIX), found.size, closed=True)
                return self._made(base, found.entries, found.size, True, index_size // ENTRY_SIZE), True
        stored = self._stored_entries(base)
        data = self._files.map(segment_path(self._directory, base, DATA_SUFFIX), data_size) if data_size else None
        found = self._scan(base, stored, data)
        if following is not None and following <= self._result.recovery_point:
            # Once durable: keep the file as it is; reading what is missing from it is an error.
            self._store_index(base, stored, found)
            return self._made(base, found.entries, found.size, True), True
        end = int(found.entries[-1]["last_offset"]) + 1 if len(found.entries) else base
        following = next((other for other in others if other >= end), None)
        whole = following is None or end == following
        # The data first: interrupted in between, the next recovery still sees that indexed batches are gone.
        closed = following is not None and whole
        self._store_data(base, found, data_size, len(stored), closed)
        self._store_index(base, stored, found)
        return self._made(base, found.entries, found.size, closed), whole

    def _made(self, base: int, entries: Entries, size: int, closed: bool, count: int | None = None) -> Segment:
        next_offset = int(entries[-1]["last_offset"]) + 1 if len(entries) else base
        extent = Extent(len(entries) if count is None else count, size)
        segment = Segment(self._files, self._directory, base, next_offset, extent)
        segment.closed = closed
        segment.unsynced = segment.unsynced_index = next_offset > self._result.recovery_point
        return segment

    def _edges(self, base: int, index_size: int, data_size: int) -> _Found | None:
        """The first and last entry of a closed, durable segment's index, where they fit each other and the name."""
        count, rest = divmod(index_size, ENTRY_SIZE)
        if rest or not count:
            return None
        path = segment_path(self._directory, base, INDEX_SUFFIX)
        raw = self._files.read(path, 0, ENTRY_SIZE) + self._files.read(path, index_size - ENTRY_SIZE, ENTRY_SIZE)
        entries = np.frombuffer(raw, ENTRY)
        if sound_entries(entries) < 2 or entries["base_offset"][0] != base:
            return None
        end = int(entries["position"][1]) + int(entries["length"][1])
        if end + len(END_OF_STREAM) < data_size:
            return None  # there is more data than this index knows of
        if end > data_size:
            _log.warning("%s%s is cut short: reading its last records fails", path[: -len(INDEX_SUFFIX)], DATA_SUFFIX)
        return _Found(entries, min(end, data_size), "cut short" if end > data_size else "")

    def _stored_entries(self, base: int) -> Entries:
        """The entries on disk up to the first that does not hold together with those before it, ENTRY[n]."""
        path = segment_path(self._directory, base, INDEX_SUFFIX)
        if self._files.size(path) is None:
            return np.empty(0, ENTRY)
        raw = self._files.read(path)
        entries = np.frombuffer(raw[: len(raw) // ENTRY_SIZE * ENTRY_SIZE], ENTRY)
        entries = entries[: sound_entries(entries)]
        if not len(entries) or entries["base_offset"][0] != base:
            return entries[:0]
        lengths = entries["length"].astype(np.int64)
        follows = (entries["base_offset"][1:] == entries["last_offset"][:-1] + 1) & (
            entries["position"][1:] == entries["position"][:-1] + lengths[:-1]
        )
        return entries[: 1 + int(np.argmin(follows))] if not follows.all() else entries

    def found(self, base: int, data: pa.Buffer) -> _Found:
        """What the data file of a segment holds, read without its index."""
        return self._scan(base, np.empty(0, ENTRY), data)

    def _scan(self, base: int, stored: Entries, data: pa.Buffer | None) -> _Found:
        """The sound part of a segment: stored entries below the recovery point as they are, the rest from the data."""
        if data is None:
            return _Found(np.empty(0, ENTRY), 0, "the data file is empty")
        point = self._result.recovery_point
        ends = stored["position"] + stored["length"].astype(np.int64)
        trusted = int(np.count_nonzero((stored["last_offset"] < point) & (ends <= data.size)))
        try:
            position = int(ends[trusted - 1]) if trusted else scan.schema_end(data, self._schema, self._sparse)
        except scan.Torn as torn:
            return self._without_schema(stored, data, torn)
        offset = int(stored["last_offset"][trusted - 1]) + 1 if trusted else base
        return self._scan_from(stored[:trusted], data, position, offset)

    def _without_schema(self, stored: Entries, data: pa.Buffer, torn: scan.Torn) -> _Found:
        """A damaged schema message does not cost the batches behind it: it is written again."""
        for schema in (self._schema, self._sparse):
            try:
                first = scan.scan_batch(data, len(schema))
            except scan.Torn:
                continue
            path = segment_path(self._directory, first.header.base_offset, DATA_SUFFIX)
            self._files.overwrite(path, 0, schema)
            self._result.repairs.append(f"wrote the schema of {path} again: {torn}")
            return self._scan_from(stored[:0], data, len(schema), first.header.base_offset)
        return _Found(np.empty(0, ENTRY), 0, str(torn))

    def _scan_from(self, kept: Entries, data: pa.Buffer, position: int, offset: int) -> _Found:
        packed: list[bytes] = []
        reason = ""
        try:
            for batch in scan.scan(data, position):
                header = batch.header
                if header.base_offset != offset or header.last_offset < offset:
                    reason = f"offset {header.base_offset} stands where {offset} should be"
                elif not batch.sound and header.last_offset >= self._result.recovery_point:
                    reason = f"the batch at offset {offset} does not match its CRC32C"
                if reason:
                    break
                packed.append(pack_entry(header, batch.position, batch.length, batch.header_length))
                position += batch.length
                offset = header.last_offset + 1
        except scan.Torn as torn:
            reason = str(torn)
        scanned = np.frombuffer(b"".join(packed), ENTRY)
        return _Found(np.concatenate([kept, scanned]) if packed else kept, position, reason)

    def _store_index(self, base: int, stored: Entries, found: _Found) -> None:
        """Brings the index file to what was found: by appending what is missing where that is all, else anew."""
        path = segment_path(self._directory, base, INDEX_SUFFIX)
        wanted = found.entries.tobytes()
        if self._files.size(path) == len(wanted) and stored.tobytes() == wanted:
            return
        self._result.repairs.append(f"made the index {path} again")
        present = self._files.size(path) or 0
        kept = stored.tobytes()
        if present - present % ENTRY_SIZE == len(kept) and wanted.startswith(kept):
            file = self._files.open_append(path)
            self._files.truncate(file, len(kept))
            self._files.append(file, [wanted[len(kept) :]], len(wanted) - len(kept))
            self._files.sync(file)
        else:
            checkpoints.replace_file(self._files, path, wanted)
            self._rewritten = True

    def _store_data(self, base: int, found: _Found, data_size: int, stored: int, closed: bool) -> None:
        """Cuts off what is not sound, and ends the stream of a segment that is closed."""
        path = segment_path(self._directory, base, DATA_SUFFIX)
        if found.size == 0:
            # Not even a schema: the crash came while the segment was made.
            checkpoints.replace_file(self._files, path, self._schema)
            found.size = len(self._schema)
            return
        if closed and data_size == found.size + len(END_OF_STREAM):
            return
        if data_size == found.size and not closed:
            return
        if found.reason:
            lost = data_size - found.size
            self._result.repairs.append(f"cut {lost} bytes off {path} at byte {found.size}: {found.reason}")
            _log.warning("recovery cut %d bytes off %s at byte %d: %s", lost, path, found.size, found.reason)
        if stored > len(found.entries):
            checkpoints.replace_file(self._files, path, self._files.map(path, found.size))
            self._rewritten = True
        self._cut(path, found.size, closed)

    def _cut(self, path: str, size: int, closed: bool) -> None:
        """Shortens a data file in place, and ends its stream if the segment is closed."""
        file = self._files.open_append(path)
        self._files.truncate(file, size)
        if closed:
            self._files.append(file, [END_OF_STREAM], len(END_OF_STREAM))
        self._files.sync(file)

    def _drop(self, bases: list[int], end: int) -> None:
        """Removes the segments after a cut, last one first, so that a crash here leaves no hole."""
        for base in reversed(bases):
            self._files.remove(segment_path(self._directory, base, DATA_SUFFIX))
            self._files.remove(segment_path(self._directory, base, INDEX_SUFFIX))
            self._rewritten = True
        if bases:
            self._result.repairs.append(f"removed {len(bases)} segments after the cut at offset {end}")
            _log.warning("recovery removed %d segments of %s after offset %d", len(bases), self._directory, end)

    def _finish(self, checkpoint: Checkpoint | None) -> None:
        """Settles start, end and epochs, and makes repairs durable."""
        result = self._result
        end = result.segments[-1].next_offset if result.segments else result.log_start_offset
        if end < result.log_start_offset:
            # The checkpoint outlived data that was deleted anyway.
            for segment in result.segments:
                segment.remove_files()
            result.segments.clear()
            end = result.log_start_offset
        result.log_end_offset = end
        snapshots.remove_above(self._files, self._directory, end)
        result.recovery_point = min(result.recovery_point, end)
        result.committed = -1 if checkpoint is None else min(checkpoint.committed, end)
        result.compacted = 0 if checkpoint is None else min(checkpoint.compacted, end)
        if result.segments and checkpoint is not None and result.segments[-1].base_offset <= checkpoint.recovery_point:
            result.segments[-1].created_ms = checkpoint.segment_created_ms
        known = checkpoint.leader_epochs if checkpoint is not None else []
        result.leader_epochs = self._epochs(known)
        if self._rewritten:
            result.generation += 1
        beyond = checkpoint is not None and max(checkpoint.committed, checkpoint.recovery_point) > end
        if result.repairs or self._rewritten or beyond:
            self._files.sync_directory(self._directory)
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        """Keeps the new generation. A full disk is no reason not to open: the old checkpoint still holds."""
        result = self._result
        checkpoint = Checkpoint(
            log_start_offset=result.log_start_offset,
            recovery_point=result.recovery_point,
            generation=result.generation,
            leader_epochs=[epoch for epoch in result.leader_epochs if epoch[1] < result.recovery_point],
            segment_created_ms=result.segments[-1].created_ms if result.segments else NO_TIMESTAMP,
            committed=result.committed,
            compacted=result.compacted,
        )
        try:
            checkpoints.write(self._files, self._directory, checkpoint)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            _log.warning("no room for a checkpoint in %s", self._directory)

    def _epochs(self, known: list[tuple[int, int]]) -> list[tuple[int, int]]:
        result = self._result
        epochs = [(epoch, start) for epoch, start in known if start < result.recovery_point]
        for segment in result.segments:
            if segment.next_offset <= result.recovery_point and known:
                continue
            epochs = with_epochs(epochs, segment.entries())
            segment.release()
        return epochs


def with_epochs(epochs: list[tuple[int, int]], entries: Entries) -> list[tuple[int, int]]:
    """The list of (leader epoch, first offset), ascending, with what further entries (ENTRY[n]) add to it."""
    if not len(entries):
        return epochs
    column = entries["leader_epoch"]
    changes = np.flatnonzero(np.diff(column)) + 1
    added = list(epochs)
    for row in [0, *changes.tolist()]:
        epoch = int(column[row])
        if not added or epoch > added[-1][0]:
            added.append((epoch, int(entries["base_offset"][row])))
    return added


def rebuild_index(files: FileSystem, segment: Segment, schema: pa.Schema) -> None:
    """Makes the index of a closed segment again from its data file, as far as that goes.

    Raises:
        OSError: the files cannot be read or written.
    """
    size = segment.extent.size
    recovery = Recovery(files, os.path.dirname(segment.path(DATA_SUFFIX)), schema, recovery_point=segment.next_offset)
    found = recovery.found(segment.base_offset, files.map(segment.path(DATA_SUFFIX), size))
    checkpoints.replace_file(files, segment.path(INDEX_SUFFIX), found.entries.tobytes())
    segment.release()
    last = int(found.entries[-1]["last_offset"]) + 1 if len(found.entries) else segment.base_offset
    segment.publish(Extent(len(found.entries), size), last, NO_TIMESTAMP)
