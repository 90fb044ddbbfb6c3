"""Batches as they stand in the log, and their way back to Arrow: index entries and `decode`.

Runs of batches travel and lie together as two things: `data`, the IPC messages back to back, and `entries`, one
`ENTRY` each, which says where in `data` a message is and what it holds. `entries[i].position` counts from the start of
the segment; within `data` message i starts at ``entries[i].position - entries[0].position``.
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.errors import CorruptRecord, SchemaMismatch
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import COMPRESSION_MASK, CONTROL_BATCH, LOG_APPEND_TIME, SPARSE_BATCH
from rayqueue.protocol.schemas import TIMESTAMP_TYPE, serialize_schema

# One entry of a segment's index: little endian, packed, 80 bytes.
ENTRY = np.dtype(
    [
        ("base_offset", "<i8"),
        ("last_offset", "<i8"),
        ("position", "<i8"),  # of the message, from the start of the segment file, bytes
        ("min_timestamp", "<i8"),  # ms since the epoch
        ("max_timestamp", "<i8"),
        ("producer_id", "<i8"),
        ("length", "<u4"),  # of the whole message, bytes
        ("header_length", "<u4"),  # of its prefix and metadata, bytes
        ("record_count", "<i4"),
        ("crc", "<u4"),  # `ipc.message_crc`
        ("leader_epoch", "<i4"),
        ("base_sequence", "<i4"),
        ("producer_epoch", "<i2"),
        ("attributes", "<u2"),
        ("entry_crc", "<u4"),  # CRC32C of the 76 bytes before it
    ]
)
ENTRY_SIZE = ENTRY.itemsize
_CHECKED = ENTRY_SIZE - 4

Entries = npt.NDArray[np.void]


def sound_entries(entries: Entries) -> int:
    """How many entries from the first on carry the right `entry_crc`."""
    raw = entries.tobytes()
    checksums = entries["entry_crc"].tolist()
    value = google_crc32c.value
    for i, expected in enumerate(checksums):
        at = i * ENTRY_SIZE
        if value(raw[at : at + _CHECKED]) != expected:
            return i
    return len(checksums)


def decode(
    data: pa.Buffer,
    entries: Entries,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    check_crc: bool = True,
) -> list[pa.RecordBatch]:
    """Opens a run of batches without copying them: the arrays share memory with `data` (compressed bodies excepted).

    Args:
        data: the messages of `entries`, back to back.
        entries: ENTRY[n], n >= 0.
        schema: the topic's log schema.
        columns: names of top-level columns wanted, in this order; None for all.
        check_crc: whether to compare each message and each entry with its CRC32C first.

    Returns:
        n record batches. A control batch has no rows. Where the batch says LogAppendTime, `timestamp` is its append
        time in every row.

    Raises:
        CorruptRecord: a message does not match its CRC32C, is cut short, or is no record batch of this schema; the
            text names its offsets.
        SchemaMismatch: a column of `columns` does not exist.
    """
    if check_crc and (sound := sound_entries(entries)) < len(entries):
        raise CorruptRecord(
            f"index entry {sound} of {len(entries)} (after offset {_before(entries, sound)}) does not match its CRC32C"
        )
    prefix = _projection(schema, columns) if columns is not None else None
    position = entries["position"]
    starts = (position - position[0]).tolist() if len(entries) else []
    lengths, header_lengths = entries["length"].tolist(), entries["header_length"].tolist()
    crcs = entries["crc"].tolist()
    counts, attributes = entries["record_count"].tolist(), entries["attributes"].tolist()
    batches = []
    for i, start in enumerate(starts):
        if start < 0 or start + lengths[i] > data.size or header_lengths[i] > lengths[i]:
            raise CorruptRecord(f"{_name(entries[i])} is cut short: {data.size} bytes hold less than its index says")
        message = data.slice(start, lengths[i])
        if check_crc:
            header = message.slice(0, header_lengths[i]).to_pybytes()
            crc = ipc.message_crc(header, message.slice(header_lengths[i]))
            if crc != crcs[i] or header[ipc.CRC_AT : ipc.CRC_END] != b"%08x" % crc:
                raise CorruptRecord(f"{_name(entries[i])} does not match its CRC32C: the data was damaged")
        try:
            if prefix is not None and attributes[i] & COMPRESSION_MASK:
                batch = _read_some(prefix, message)
            else:
                batch = pa.ipc.read_record_batch(message, schema)
        except (pa.ArrowException, OSError) as error:
            raise CorruptRecord(f"{_name(entries[i])} is not a record batch of its topic's schema: {error}") from error
        if batch.num_rows != counts[i] and not attributes[i] & (CONTROL_BATCH | SPARSE_BATCH):
            raise CorruptRecord(f"{_name(entries[i])} holds {batch.num_rows} rows where {counts[i]} should be")
        if attributes[i] & LOG_APPEND_TIME:
            batch = _with_timestamp(batch, int(entries[i]["max_timestamp"]))
        batches.append(batch if columns is None else batch.select(columns))
    return batches


def _projection(schema: pa.Schema, columns: Sequence[str]) -> tuple[bytes, list[int]]:
    """The schema message, and the wanted columns' places in it."""
    indices = [schema.get_field_index(name) for name in columns]
    missing = [name for name, index in zip(columns, indices, strict=True) if index < 0]
    if missing:
        raise SchemaMismatch(f"there is no column {', '.join(missing)}; the columns are {', '.join(schema.names)}")
    return serialize_schema(schema), sorted(set(indices))


def _read_some(prefix: tuple[bytes, list[int]], message: pa.Buffer) -> pa.RecordBatch:
    """Some columns of a compressed batch. `read_record_batch` would decompress them all; a stream reader does not, and
    copying a compressed message into one costs less than that."""
    schema, indices = prefix
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=indices)
    with pa.ipc.open_stream(pa.py_buffer(schema + message.to_pybytes()), options=options) as stream:
        return stream.read_next_batch()


def _with_timestamp(batch: pa.RecordBatch, timestamp: int) -> pa.RecordBatch:
    at = batch.schema.get_field_index("timestamp")
    if at < 0:
        return batch
    values = np.full(batch.num_rows, timestamp, np.int64)
    column = pa.Array.from_buffers(TIMESTAMP_TYPE, batch.num_rows, [None, pa.py_buffer(values)])
    return batch.set_column(at, batch.schema.field(at), column)


def _name(entry: np.void) -> str:
    return f"the batch of offsets {entry['base_offset']} to {entry['last_offset']}"


def _before(entries: Entries, row: int) -> int:
    return int(entries[row - 1]["last_offset"]) if row else -1
