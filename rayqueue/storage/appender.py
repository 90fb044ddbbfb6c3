"""Appending batches to segments, all or none, over as many segments as they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import CorruptRecord, OffsetOutOfRange
from rayqueue.protocol.messages import SPARSE_BATCH, BatchHeader
from rayqueue.storage.files import Piece
from rayqueue.storage.index import pack_entry
from rayqueue.storage.reader import Extent
from rayqueue.storage.segment import NO_TIMESTAMP, CutBackFailed, Segment
from rayqueue.storage.state import LogState

_MAX_LENGTH = (1 << 32) - 1


class LogBatch(NamedTuple):
    """A batch to append.

    Attributes:
        entry: its header, offsets and CRC set.
        header: prefix and metadata of the message (`ipc.build_header`).
        body: the message's body.
    """

    entry: BatchHeader
    header: bytes
    body: pa.Buffer


class Appended(NamedTuple):
    """Attributes: created: segments that were begun; size: bytes of messages written."""

    created: list[Segment]
    size: int


class _Run:
    """Batches on their way into one segment."""

    __slots__ = ("count", "entries", "max_timestamp", "next_offset", "pieces", "position", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.pieces: list[Piece] = []
        self.entries: list[bytes] = []
        self.position = segment.extent.size
        self.count = segment.extent.entries
        self.next_offset = segment.next_offset
        self.max_timestamp = NO_TIMESTAMP

    def add(self, batch: LogBatch, length: int) -> None:
        entry, header, body = batch
        if not self.count:
            self.segment.sparse = entry.attributes & SPARSE_BATCH
        self.entries.append(pack_entry(entry, self.position, length, len(header)))
        self.pieces.append(header)
        if body.size:
            self.pieces.append(body)
        self.position += length
        self.count += 1
        self.next_offset = entry.last_offset + 1
        if entry.max_timestamp > self.max_timestamp:
            self.max_timestamp = entry.max_timestamp

    def write(self) -> None:
        self.segment.write(self.pieces, self.position - self.segment.extent.size, b"".join(self.entries))

    def publish(self, now_ms: int) -> None:
        if self.segment.created_ms == NO_TIMESTAMP:
            self.segment.created_ms = now_ms
        self.segment.publish(Extent(self.count, self.position), self.next_offset, self.max_timestamp)


def append(
    state: LogState, active: Segment | None, batches: Sequence[LogBatch], now_ms: int, config: TopicConfig
) -> Appended:
    """Writes and publishes batches; on an error none of them is in the files or seen by a reader.

    New segments are begun by size and age, and where sparse batches begin or end; the caller adds them to the log.

    Args:
        active: the segment to go on with; None to begin one.

    Raises:
        OffsetOutOfRange, CorruptRecord: the batches do not continue the log, or are no whole messages.
        OSError: nothing was appended.
        CutBackFailed: an error, and what had been written could not be removed.
    """
    lengths = _checked_lengths(batches, state.log_end)
    runs: list[_Run] = []
    created: list[Segment] = []
    run = None
    if active is not None and not active.extent.entries and active.extent.size != len(_schema(state, batches[0])):
        active.begin_anew(_schema(state, batches[0]))
    if active is not None and not _too_old(active, now_ms, config.segment_ms):
        run = _Run(active)
        runs.append(run)
    last = active
    try:
        for batch, length in zip(batches, lengths, strict=True):
            sparse = batch.entry.attributes & SPARSE_BATCH
            if run is None or (
                run.count and (run.position + length > config.segment_bytes or run.segment.sparse != sparse)
            ):
                if run is not None and run.pieces:
                    run.write()
                last = _begin(state, last, batch)
                created.append(last)
                run = _Run(last)
                runs.append(run)
            run.add(batch, length)
        if run is not None:
            run.write()
    except OSError:
        _undo(active, created)
        raise
    for run in runs:
        if run.pieces:
            run.publish(now_ms)
    if created and active is not None:
        active.closed = True
    for segment in created[:-1]:
        segment.closed = True
    return Appended(created, sum(lengths))


def _schema(state: LogState, batch: LogBatch) -> bytes:
    """What a segment that begins with this batch begins with."""
    return state.schema_message(bool(batch.entry.attributes & SPARSE_BATCH))


def _begin(state: LogState, last: Segment | None, batch: LogBatch) -> Segment:
    """A new segment, and the end of the one before it."""
    if last is None and not state.segments:
        state.files.make_directory(state.directory)
        state.anchored = False
    elif not state.anchored:
        # Nobody may have flushed yet. Lest after a power cut this segment has its name and the first has not: the log
        # would seem to start here. A later one that is missing ends the log before it.
        state.files.sync_directory(state.directory)
        state.anchored = True
    segment = Segment.create(state.files, state.directory, batch.entry.base_offset, _schema(state, batch))
    if last is not None:
        try:
            last.end_stream()
        except OSError:
            segment.remove_files()
            raise
    return segment


def _too_old(segment: Segment, now_ms: int, segment_ms: int) -> bool:
    if not segment.extent.entries or segment.created_ms == NO_TIMESTAMP:
        return False
    return now_ms - segment.created_ms >= segment_ms


def _checked_lengths(batches: Sequence[LogBatch], log_end: int) -> list[int]:
    """The lengths of the batches' messages, bytes; multiples of 8, so that every body in the file is aligned."""
    lengths = []
    for entry, header, body in batches:
        if entry.base_offset != log_end or entry.last_offset < log_end:
            raise OffsetOutOfRange(f"a batch from offset {entry.base_offset} cannot follow: {log_end} is next")
        log_end = entry.last_offset + 1
        length = len(header) + body.size
        if length % 8 or length > _MAX_LENGTH:
            raise CorruptRecord(f"a message of {length} bytes cannot be stored: Arrow pads messages to a multiple of 8")
        lengths.append(length)
    return lengths


def _undo(active: Segment | None, created: list[Segment]) -> None:
    """Takes back what was written of batches that are not appended after all, newest first."""
    try:
        for segment in reversed(created):
            segment.remove_files()
    except OSError as error:
        raise CutBackFailed(str(error)) from error
    if active is not None:
        active.cut_back()
