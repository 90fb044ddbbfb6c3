"""Sparse batches: what compaction leaves of a batch. Their rows' offsets stand in one more column, `offset`, the last.

A segment holds sparse batches only, or none, so that it stays an Arrow stream of one schema. Where nothing is left of
a run of batches, a *filler* stands for it: a batch without rows, records or producer, over the run's offsets, so that
batches follow each other without gaps. It never reaches over the beginning of a leader epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.protocol import ipc
from rayqueue.protocol.messages import (
    COMPRESSION_MASK,
    CONTROL_BATCH,
    NO_PRODUCER,
    SPARSE_BATCH,
    BatchHeader,
)

OFFSET_COLUMN = "offset"
_OFFSET_FIELD = pa.field(OFFSET_COLUMN, pa.int64(), nullable=False)
_NODE = struct.Struct("<qq")
_BUFFERS = struct.Struct("<qqqq")
_STORED_AS_IT_IS = struct.pack("<q", -1)  # before a buffer of a compressed body
CODECS = {0: None, 3: "lz4", 4: "zstd"}

Offsets = npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def sparse_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of a topic's sparse batches."""
    return schema.append(_OFFSET_FIELD)


def offsets_of(batch: pa.RecordBatch) -> Offsets:
    """The offsets of a sparse batch's rows."""
    return column_offsets(batch.column(batch.num_columns - 1))


def column_offsets(column: pa.Array) -> Offsets:
    """The values of such a column."""
    if not len(column):
        return np.empty(0, np.int64)
    return np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)


def with_offsets(message: ipc.IpcMessage, offsets: Offsets) -> ipc.IpcMessage:
    """A message of the plain schema, which keeps all its rows, as one of the sparse schema."""
    data = offsets.astype("<i8", copy=False).tobytes()
    if message.codec != "none" and data:
        data = _STORED_AS_IT_IS + data
    body = message.body.to_pybytes()
    at = len(body)
    return ipc.IpcMessage(
        message.length,
        message.nodes + _NODE.pack(message.length, 0),
        message.buffers + _BUFFERS.pack(at, 0, at, len(data)),
        message.codec,
        b"",
        pa.py_buffer(body + data),
    )


def message_of(batch: pa.RecordBatch, codec: str | None) -> ipc.IpcMessage:
    """A batch as a message."""
    if codec is None:
        return ipc.split_message(batch.serialize())
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
        end = sink.tell()
    start = batch.schema.serialize().size
    return ipc.split_message(sink.getvalue().slice(start, end - start))


def sealed(message: ipc.IpcMessage, header: BatchHeader) -> tuple[bytes, pa.Buffer]:
    """The message's header for the log, and its body; `header` gets its CRC."""
    raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
    return raw, message.body


def filler(first: int, last: int, leader_epoch: int, max_timestamp: int) -> BatchHeader:
    """The header of a filler; its message is `empty_message`."""
    return BatchHeader(first, last, 0, leader_epoch, NO_PRODUCER, -1, -1, max_timestamp, max_timestamp, SPARSE_BATCH, 0)


def empty_message(schema: pa.Schema) -> ipc.IpcMessage:
    """A message of the sparse schema without rows."""
    stored = sparse_schema(schema)
    rows = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in stored], schema=stored)
    return ipc.split_message(rows.serialize())


def is_filler(entry: Sequence[Any]) -> bool:
    """Whether an index entry, as ENTRY_FIELDS unpacks it, is a filler's."""
    _, _, _, _, _, producer, _, _, count, _, _, _, _, attributes, _ = entry
    return bool(producer == NO_PRODUCER and not count and attributes & (SPARSE_BATCH | CONTROL_BATCH) == SPARSE_BATCH)


def codec_of(attributes: int) -> str | None:
    """The compression that a batch's attributes name."""
    return CODECS[attributes & COMPRESSION_MASK]
