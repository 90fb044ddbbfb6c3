"""Reading a segment for compaction: keys, offsets and tombstones of many batches at once, in arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.batches import ENTRY_FIELDS, check_crc
from rayqueue.protocol.schemas import serialize_schema
from rayqueue.protocol.sparse import OFFSET_COLUMN, Offsets, column_offsets
from rayqueue.storage.compaction.key_map import Keys, flags, hash_keys
from rayqueue.storage.index import Entries, sound_entries
from rayqueue.storage.segment import Segment

CHUNK_BYTES = 8 << 20
CHUNK_BATCHES = 16_384

Flags = npt.NDArray[np.bool_]


class KeyColumns(NamedTuple):
    """Where a topic's keys stand.

    Attributes:
        key: the key's column.
        values: a record is a tombstone when all of these are null; none: there are no tombstones.
    """

    key: str
    values: tuple[str, ...]


def key_columns(schema: pa.Schema, typed: bool, key_column: str) -> KeyColumns | None:
    """Where the keys of a topic with this log schema stand; None where it has none."""
    if not typed:
        return KeyColumns("key", ("value",))
    if not key_column:
        return None
    return KeyColumns(key_column, tuple(name for name in schema.names if name not in (key_column, "timestamp")))


class Chunk(NamedTuple):
    """Consecutive batches of a segment, r records in all.

    Attributes:
        first: row of the first one's index entry. entries: ENTRY[n] of theirs.
        data: the whole segment's.
        starts: where each batch's records begin among the r, int64[n + 1].
        offsets: of the records, int64[r]. keys: theirs.
        tombstones: which are; what has no key is none. bool[r].
    """

    first: int
    entries: Entries
    data: pa.Buffer
    starts: Offsets
    offsets: Offsets
    keys: Keys
    tombstones: Flags


def chunks(segment: Segment, columns: KeyColumns, seed: tuple[int, int], dirty: int = 0) -> Iterator[Chunk]:
    """The batches of a closed segment, about CHUNK_BYTES at a time.

    Args:
        dirty: batches that end below this offset are left out.

    Raises:
        CorruptRecord: a batch or an index entry is damaged.
        OSError: the files cannot be read; the segment may have been deleted.
    """
    extent = segment.extent
    entries, data = segment.entries(), segment.view().data(0, extent.size)
    if sound_entries(entries) < len(entries):
        raise CorruptRecord(f"{segment.path('.index')} is damaged")
    with pa.ipc.open_stream(data) as whole:
        schema = whole.schema
    sparse = OFFSET_COLUMN in schema.names
    wanted = [columns.key, *columns.values, *([OFFSET_COLUMN] if sparse else [])]
    indices = sorted(schema.get_field_index(name) for name in wanted)
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=indices)
    head = serialize_schema(schema)
    row = int(np.searchsorted(entries["last_offset"], dirty)) if dirty else 0
    ends = entries["position"] + entries["length"]
    while row < len(entries):
        start = int(entries["position"][row])
        stop = min(max(row + 1, int(np.searchsorted(ends, start + CHUNK_BYTES, side="right"))), row + CHUNK_BATCHES)
        chosen = entries[row:stop]
        _check(data, chosen)
        # A copy, so that Arrow reads all of it in one call: one for each batch would cost more.
        copied = pa.py_buffer(b"".join([head, data.slice(start, int(ends[stop - 1]) - start)]))
        try:
            with pa.ipc.open_stream(copied, options=options) as stream:
                table = stream.read_all()
        except (pa.ArrowException, OSError) as error:
            raise CorruptRecord(f"{segment.path('.arrow')} does not hold what its index says: {error}") from error
        yield _chunk(row, chosen, data, table, columns, seed, sparse)
        row = stop


def _check(data: pa.Buffer, entries: Entries) -> None:
    for fields in ENTRY_FIELDS.iter_unpack(entries.tobytes()):
        check_crc(data, fields[2], fields)


def _chunk(
    row: int,
    entries: Entries,
    data: pa.Buffer,
    table: pa.Table,
    columns: KeyColumns,
    seed: tuple[int, int],
    sparse: bool,
) -> Chunk:
    column = table.column(columns.key)
    counts = np.array([len(piece) for piece in column.chunks], np.int64)
    if len(counts) != len(entries):
        raise CorruptRecord(f"{len(entries)} batches from offset {entries['base_offset'][0]} on are {len(counts)}")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    if sparse:
        offsets = column_offsets(pa.concat_arrays(table.column(OFFSET_COLUMN).chunks))
    else:
        offsets = np.repeat(entries["base_offset"] - starts[:-1], counts) + np.arange(starts[-1])
    keys = hash_keys(pa.concat_arrays(column.chunks), seed)
    tombstones = _tombstones(table, columns.values)
    if keys.keyed is not None:
        tombstones &= keys.keyed
    return Chunk(row, entries, data, starts, offsets, keys, tombstones)


def _tombstones(table: pa.Table, values: tuple[str, ...]) -> Flags:
    columns = [table.column(name) for name in values]
    if not columns or not all(column.null_count for column in columns):
        return np.zeros(table.num_rows, np.bool_)
    valid = [pa.concat_arrays(column.is_valid().chunks) for column in columns]
    return ~np.logical_or.reduce([flags(one) for one in valid])
