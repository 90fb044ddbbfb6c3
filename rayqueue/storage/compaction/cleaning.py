"""One segment's batches, cleaned: which records go, and what is written instead of each batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rayqueue.protocol import ipc, sparse
from rayqueue.protocol.batches import ENTRY_FIELDS
from rayqueue.protocol.messages import CONTROL_BATCH, DELETE_HORIZON, NO_PRODUCER, SPARSE_BATCH
from rayqueue.storage.compaction.key_map import KeyMap
from rayqueue.storage.compaction.reading import Chunk, Flags
from rayqueue.storage.compaction.writing import SegmentWriter
from rayqueue.storage.index import Entries, batch_header


class Rules(NamedTuple):
    """What a round of compaction goes by.

    Attributes:
        newest: offsets of the dirty part's keys.
        end: batches that end above this offset are left as they are.
        now_ms: wall clock. delete_retention_ms: how long tombstones stay from now on.
        kept: base offsets of batches of which the header has to stay: each producer's last.
    """

    newest: KeyMap
    end: int
    now_ms: int
    delete_retention_ms: int
    kept: frozenset[int]


class Cleaned(NamedTuple):
    """What becomes of a chunk's batches.

    Attributes:
        keep: which records stay, bool[r]. counts: how many of each batch.
        horizon: which batches get a horizon for the tombstones that stay. over: which lose theirs, having no more
            tombstones. Of each batch.
        cleaned: which batches are looked at at all.
        changed: whether anything is to be written anew.
    """

    keep: Flags
    counts: list[int]
    horizon: list[bool]
    over: list[bool]
    cleaned: list[bool]
    changed: bool


def clean(chunk: Chunk, rules: Rules) -> Cleaned:
    """Decides on the records of a chunk."""
    entries, starts = chunk.entries, chunk.starts
    attributes = entries["attributes"]
    rows = np.diff(starts)
    cleaned = (entries["last_offset"] < rules.end) & (attributes & CONTROL_BATCH == 0)
    dated = attributes & DELETE_HORIZON != 0
    over = dated & (entries["min_timestamp"] <= rules.now_ms)
    drop = rules.newest.superseded(chunk.keys, chunk.offsets) | (chunk.tombstones & np.repeat(over, rows))
    keep = ~(drop & np.repeat(cleaned, rows))
    counts = _sums(keep, starts)
    tombstones = _sums(keep & chunk.tombstones, starts)
    horizon, undated = cleaned & ~dated & (tombstones > 0), cleaned & dated & (tombstones == 0)
    # A batch without rows is a filler, or the last of its producer as long as that lasts.
    fillers = (entries["record_count"] == 0) & (entries["producer_id"] == NO_PRODUCER)
    emptied = cleaned & (rows == 0) & ~fillers & ~np.isin(entries["base_offset"], np.fromiter(rules.kept, np.int64))
    changed = bool((counts != rows).any() or horizon.any() or undated.any() or emptied.any())
    return Cleaned(keep, counts.tolist(), horizon.tolist(), undated.tolist(), cleaned.tolist(), changed)


def _sums(flags: Flags, starts: sparse.Offsets) -> sparse.Offsets:
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(flags)])
    return np.asarray(total[starts[1:]] - total[starts[:-1]])


def write(chunk: Chunk, cleaned: Cleaned, rules: Rules, schema: pa.Schema, writer: SegmentWriter) -> None:
    """Writes what is left of a chunk. schema: of the segment it stands in."""
    verbatim = 0  # batches before this one, back to the last that was written, are copied as they are
    is_sparse = sparse.OFFSET_COLUMN in schema.names
    starts = chunk.starts.tolist()
    for row, fields in enumerate(ENTRY_FIELDS.iter_unpack(chunk.entries.tobytes())):
        rows, count = starts[row + 1] - starts[row], cleaned.counts[row]
        gone = not count and cleaned.cleaned[row] and fields[0] not in rules.kept
        if is_sparse and not gone and count == rows and not (cleaned.horizon[row] or cleaned.over[row]):
            continue
        if verbatim < row:
            writer.copy(chunk.entries[verbatim:row], chunk.data)
        verbatim = row + 1
        if gone:
            base, last, _, _, max_timestamp, _, _, _, _, _, leader_epoch, _, _, _, _ = fields
            writer.drop(base, last, leader_epoch, max_timestamp)
        else:
            _write_batch(chunk, row, cleaned, rules, schema, writer)
    if verbatim < len(chunk.entries):
        writer.copy(chunk.entries[verbatim:], chunk.data)


def copy(is_sparse: bool, entries: Entries, data: pa.Buffer, writer: SegmentWriter) -> None:
    """Writes batches that have not changed, of a segment that is sparse or is not."""
    if is_sparse:
        writer.copy(entries, data)
        return
    for entry in entries:
        header = batch_header(entry)
        header.attributes |= SPARSE_BATCH
        message = ipc.split_message(data.slice(int(entry["position"]), int(entry["length"])))
        offsets = np.arange(header.base_offset, header.base_offset + message.length)
        writer.add(header, sparse.with_offsets(message, offsets))


def _write_batch(
    chunk: Chunk, row: int, cleaned: Cleaned, rules: Rules, schema: pa.Schema, writer: SegmentWriter
) -> None:
    """A batch of which something stays, if only its header."""
    entry = chunk.entries[row]
    header = batch_header(entry)
    if cleaned.horizon[row]:
        header.attributes |= DELETE_HORIZON
        header.min_timestamp = rules.now_ms + rules.delete_retention_ms
    elif cleaned.over[row]:
        header.attributes &= ~DELETE_HORIZON
        header.min_timestamp = header.max_timestamp  # the least one is not known any more
    is_sparse = bool(header.attributes & SPARSE_BATCH)
    header.attributes |= SPARSE_BATCH
    message = chunk.data.slice(int(entry["position"]), int(entry["length"]))
    start, stop = int(chunk.starts[row]), int(chunk.starts[row + 1])
    offsets = chunk.offsets[start:stop]
    if cleaned.counts[row] == stop - start:
        whole = ipc.split_message(message)
        writer.add(header, whole if is_sparse else sparse.with_offsets(whole, offsets))
        return
    keep = cleaned.keep[start:stop]
    rows = pa.ipc.read_record_batch(message, schema)
    left = rows.filter(_mask(keep))
    if not is_sparse:
        column = pa.Array.from_buffers(pa.int64(), len(left), [None, pa.py_buffer(offsets[keep])])
        left = pa.RecordBatch.from_arrays([*left.columns, column], schema=sparse.sparse_schema(schema))
    writer.add(header, sparse.message_of(left, sparse.codec_of(header.attributes)))


def _mask(keep: Flags) -> pa.Array:
    bits = np.packbits(keep, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(keep), [None, pa.py_buffer(bits)])
