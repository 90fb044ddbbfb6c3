"""Records of a shard as they stand in the log of its partition: in batches of the default schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from rayqueue.protocol.batches import ENTRY, decode
from rayqueue.protocol.ipc import split_message, wire_crc
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.protocol.small_batches import WRITE_RECORDS_MAX, write_message

Encoded = tuple[bytes, "bytes | None"]
# Key → value (None: a tombstone) and timestamp in ms, of the last record with that key.
Latest = dict[bytes, tuple["bytes | None", int]]

_COLUMNS = ["key", "value", "timestamp"]


def encode_batch(records: Sequence[Encoded], wall_ms: int) -> tuple[pa.Buffer, int]:
    """The IPC message of a batch of records, and its CRC32C as it travels beside it (`ipc.wire_crc`)."""
    keys, values = [key for key, _ in records], [value for _, value in records]
    if len(records) <= WRITE_RECORDS_MAX:
        message, crc = write_message(keys, values, None, [wall_ms] * len(records))
        return pa.py_buffer(message), crc
    times = np.full(len(records), wall_ms, np.int64)
    columns = [
        _column(keys),
        _column(values),
        pa.nulls(len(records), HEADERS_TYPE),
        pa.Array.from_buffers(TIMESTAMP_TYPE, len(records), [None, pa.py_buffer(times)]),
    ]
    row = pa.RecordBatch.from_arrays(columns, schema=DEFAULT_SCHEMA).serialize()
    parts = split_message(row)
    return row, wire_crc(parts, google_crc32c.value(parts.body))


def read_batches(data: pa.Buffer, entries: bytes, latest: Latest) -> int:
    """Takes the records of a run of batches into `latest`, in order; gives the offset after the last.

    Args:
        data: messages back to back. entries: their index entries.

    Raises:
        CorruptRecord: the bytes are damaged.
    """
    found = np.frombuffer(entries, ENTRY)
    for batch in decode(data, found, DEFAULT_SCHEMA, _COLUMNS):
        keys, values = _values(batch.column(0)), _values(batch.column(1))
        stamps = batch.column(2)
        times = np.frombuffer(stamps.buffers()[1], np.int64, len(stamps), stamps.offset * 8).tolist()
        latest.update(zip(keys, zip(values, times, strict=True), strict=True))
    return int(found[-1]["last_offset"]) + 1


def _column(values: Sequence[bytes | None]) -> pa.Array:
    """A binary column. (`pyarrow.array` loads pandas and `pyarrow.compute`: 25 MB, and a part of the time to start.)"""
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) if value is not None else 0 for value in values], out=ends[1:])
    present = np.packbits([value is not None for value in values], bitorder="little")
    data = b"".join([value for value in values if value is not None])
    buffers = [pa.py_buffer(part) for part in (present, ends, data)]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def _values(column: pa.Array) -> list[Any]:
    """The values of a binary column: cut out of one copy of its bytes, which takes a tenth of what `to_pylist` does."""
    if not len(column):
        return []
    present, ends, data = column.buffers()
    at = np.frombuffer(ends, np.int32, len(column) + 1, column.offset * 4).tolist()
    raw = data.slice(at[0], at[-1] - at[0]).to_pybytes() if data is not None else b""
    base = at[0]
    cut = [raw[begin - base : end - base] for begin, end in zip(at, at[1:], strict=False)]
    if not column.null_count:
        return cut
    bits = np.unpackbits(np.frombuffer(present, np.uint8), bitorder="little")[column.offset :].tolist()
    return [value if there else None for value, there in zip(cut, bits, strict=False)]
