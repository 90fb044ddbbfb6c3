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
    columns = [
        pa.array(keys, pa.binary()),
        pa.array(values, pa.binary()),
        pa.nulls(len(records), HEADERS_TYPE),
        pa.array(np.full(len(records), wall_ms, np.int64)).cast(TIMESTAMP_TYPE),
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
        times = batch.column(2).cast(pa.int64()).to_numpy(zero_copy_only=False).tolist()
        latest.update(zip(keys, zip(values, times, strict=True), strict=True))
    return int(found[-1]["last_offset"]) + 1


def _values(column: pa.Array) -> list[Any]:
    """The values of a binary column: cut out of one copy of its bytes, which takes a tenth of what `to_pylist` does."""
    if not len(column):
        return []
    _, ends, data = column.buffers()
    at = np.frombuffer(ends, np.int32, len(column) + 1, column.offset * 4).tolist()
    raw = data.slice(at[0], at[-1] - at[0]).to_pybytes() if data is not None else b""
    base = at[0]
    cut = [raw[begin - base : end - base] for begin, end in zip(at, at[1:], strict=False)]
    if not column.null_count:
        return cut
    return [value if valid else None for value, valid in zip(cut, column.is_valid().to_pylist(), strict=True)]
