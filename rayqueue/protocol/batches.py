"""Batches as they stand in the log, and their way back to Arrow: index entries and `decode`.

Runs of batches travel and lie together as two things: `data`, the IPC messages back to back, and `entries`, one
`ENTRY` each, which says where in `data` a message is and what it holds. `entries[i].position` counts from the start of
the segment; within `data` message i starts at ``entries[i].position - entries[0].position``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.errors import CorruptRecord, SchemaMismatch
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import COMPRESSION_MASK, CONTROL_BATCH, LOG_APPEND_TIME, SPARSE_BATCH
from rayqueue.protocol.schemas import TIMESTAMP_TYPE, serialize_schema
from rayqueue.protocol.small_batches import BYTES_MAX, READ_RECORDS_MAX, Records, read_batch
from rayqueue.protocol.sparse import sparse_schema

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
# The same, field by field, for a few entries: there NumPy costs more than the work.
ENTRY_FIELDS = struct.Struct("<6qIIiIiihHI")
assert ENTRY_FIELDS.size == ENTRY_SIZE
_CHECKED = ENTRY_SIZE - 4
# What is not read as a small batch.
_NOT_SMALL = COMPRESSION_MASK | CONTROL_BATCH | SPARSE_BATCH

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


def is_sound(entry: bytes) -> bool:
    """Whether one entry carries the right `entry_crc`."""
    return bool(google_crc32c.value(entry[:_CHECKED]) == int.from_bytes(entry[_CHECKED:], "little"))


def read_records(data: pa.Buffer, start: int, entry: Sequence[Any], check_crc: bool = True) -> Records | None:
    """The records of one small batch of the default schema, copied out of `data`; no Arrow is needed for them.

    Args:
        data: messages back to back; this one begins at `start`.
        entry: its sound index entry, as ENTRY_FIELDS unpacks it.
        check_crc: whether to compare the message with its CRC32C first.

    Returns:
        None where the batch is none that can be read so: `decode` it.

    Raises:
        CorruptRecord: as `decode`.
    """
    base, last, _, _, max_timestamp, _, length, header_length, count, crc, _, _, _, attributes, _ = entry
    if attributes & _NOT_SMALL or count > READ_RECORDS_MAX or length > BYTES_MAX:
        return None
    if start < 0 or start + length > data.size or header_length > length:
        raise CorruptRecord(f"{_name(base, last)} is cut short: {data.size} bytes hold less than its index says")
    message = data.slice(start, length).to_pybytes()
    if check_crc and not _matches(message[:header_length], message[header_length:], crc):
        raise CorruptRecord(f"{_name(base, last)} does not match its CRC32C: the data was damaged")
    try:
        records = read_batch(message, header_length, count)
    except CorruptRecord as error:
        raise CorruptRecord(f"{_name(base, last)} is damaged: {error}") from error
    if records is not None and attributes & LOG_APPEND_TIME:
        return records._replace(times=[max_timestamp] * count)
    return records


def _message(data: pa.Buffer, start: int, length: int, header_length: int) -> pa.Buffer | None:
    """A message; None where the data does not hold it."""
    if start < 0 or start + length > data.size or header_length > length:
        return None
    return data.slice(start, length)


def check_crc(data: pa.Buffer, start: int, entry: Sequence[Any]) -> None:
    """Compares one message with its CRC32C.

    Args:
        data: messages back to back; this one begins at `start`.
        entry: its sound index entry, as ENTRY_FIELDS unpacks it.

    Raises:
        CorruptRecord: as `decode`.
    """
    base, last, _, _, _, _, length, header_length, _, crc, _, _, _, _, _ = entry
    message = _message(data, start, length, header_length)
    if message is None:
        raise CorruptRecord(f"{_name(base, last)} is cut short: {data.size} bytes hold less than its index says")
    if not _matches(message.slice(0, header_length).to_pybytes(), message.slice(header_length), crc):
        raise CorruptRecord(f"{_name(base, last)} does not match its CRC32C: the data was damaged")


def _matches(header: bytes, body: pa.Buffer | bytes, crc: int) -> bool:
    """Whether a message has this CRC32C, in its header too."""
    return ipc.message_crc(header, body) == crc and header[ipc.CRC_AT : ipc.CRC_END] == b"%08x" % crc


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
        entries: ENTRY[n], n >= 0; all sparse, or none.
        schema: the topic's log schema.
        columns: names of top-level columns wanted, in this order; None for all. Sparse batches have one more,
            `offset`.
        check_crc: whether to compare each message, and each entry, with its CRC32C first.

    Returns:
        n record batches. A control batch has no rows, a sparse one has what compaction left of it. Where the batch
        says LogAppendTime, `timestamp` is its append time in every row.

    Raises:
        CorruptRecord: a message does not match its CRC32C, is cut short, or is no record batch of this schema; the
            text names its offsets.
        SchemaMismatch: a column of `columns` does not exist.
    """
    if check_crc and (sound := sound_entries(entries)) < len(entries):
        raise CorruptRecord(
            f"index entry {sound} of {len(entries)} (after offset {_before(entries, sound)}) does not match its CRC32C"
        )
    if len(entries) and int(entries["attributes"][0]) & SPARSE_BATCH:  # all of a segment are, or none
        schema = sparse_schema(schema)
    prefix = _projection(schema, columns) if columns is not None else None
    position = entries["position"]
    starts = (position - position[0]).tolist() if len(entries) else []
    lengths, header_lengths = entries["length"].tolist(), entries["header_length"].tolist()
    crcs = entries["crc"].tolist()
    counts, attributes = entries["record_count"].tolist(), entries["attributes"].tolist()
    batches = []
    for i, start in enumerate(starts):
        message = _message(data, start, lengths[i], header_lengths[i])
        if message is None:
            raise CorruptRecord(f"{_named(entries[i])} is cut short: {data.size} bytes hold less than its index says")
        if check_crc:
            header = message.slice(0, header_lengths[i]).to_pybytes()
            if not _matches(header, message.slice(header_lengths[i]), crcs[i]):
                raise CorruptRecord(f"{_named(entries[i])} does not match its CRC32C: the data was damaged")
        try:
            if prefix is not None and attributes[i] & COMPRESSION_MASK:
                batch = _read_some(prefix, message)
            else:
                batch = pa.ipc.read_record_batch(message, schema)
        except (pa.ArrowException, OSError) as error:
            raise CorruptRecord(f"{_named(entries[i])} is not a record batch of its topic's schema: {error}") from error
        if batch.num_rows != counts[i] and not attributes[i] & (CONTROL_BATCH | SPARSE_BATCH):
            raise CorruptRecord(f"{_named(entries[i])} holds {batch.num_rows} rows where {counts[i]} should be")
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


def _named(entry: np.void) -> str:
    return _name(entry["base_offset"], entry["last_offset"])


def _name(base_offset: int, last_offset: int) -> str:
    return f"the batch of offsets {base_offset} to {last_offset}"


def _before(entries: Entries, row: int) -> int:
    return int(entries[row - 1]["last_offset"]) if row else -1
