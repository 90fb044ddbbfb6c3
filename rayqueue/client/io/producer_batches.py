"""Chunks and tables into batches: split over the partitions, cut to size, serialised, with their CRC."""

from __future__ import annotations

from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.client.accumulator import RECORD_OVERHEAD, Chunk
from rayqueue.client.io.future import Part, Receipt
from rayqueue.client.io.keys import hash_column
from rayqueue.client.io.rows import rows_to_columns
from rayqueue.client.io.tables import pieces
from rayqueue.client.io.topics import ProducerTopic
from rayqueue.client.lanes import Batch
from rayqueue.client.partitioner import Rows
from rayqueue.client.slicing import cut
from rayqueue.protocol.ipc import split_message, wire_crc
from rayqueue.protocol.messages import COMPRESSION_CODES
from rayqueue.protocol.schemas import HEADERS_TYPE, TIMESTAMP_TYPE

Times = npt.NDArray[np.int64]

_NS_PER_MS = 1_000_000
_END_OF_STREAM = 8  # bytes


class TablePiece(NamedTuple):
    """Part of a `produce_batch` call: rows with the log schema.

    Attributes:
        batch: None ends a call that was cut short.
        whole: [the partition] of a call whose rows stay together, empty until the first piece got one; None: by key.
        explicit: int64 a row, what the caller's own partitioner chose; None: no such.
        reserved: bytes of buffer.memory. last: no more pieces follow.
    """

    topic: ProducerTopic
    receipt: Receipt
    batch: pa.RecordBatch | None
    whole: list[int] | None
    explicit: npt.NDArray[np.int64] | None
    reserved: int
    last: bool
    opened_ms: float


def seal(batch: pa.RecordBatch, codec: str) -> tuple[pa.Buffer, int]:
    """The IPC message of a batch, and its CRC32C as it travels beside it.

    Args:
        batch: rows with the log schema.
        codec: "none", "lz4" or "zstd".
    """
    if codec == "none":
        message = batch.serialize()
    else:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue()
        begins = batch.schema.serialize().size
        message = stream.slice(begins, stream.size - begins - _END_OF_STREAM)
    parts = split_message(message)
    return message, wire_crc(parts, google_crc32c.value(parts.body))


def chunk_to_batches(chunk: Chunk, batch_size: int, deadline_ms: float) -> list[Batch]:
    """Splits a closed chunk over its topic's lanes and places its receipt.

    Returns:
        The batches, in the order in which they are to be added to their lanes.
    """
    topic: ProducerTopic = chunk.topic
    count = chunk.count
    times: Times = _array(chunk.times, pa.int64(), count).to_numpy() // _NS_PER_MS
    columns = _chunk_columns(chunk, topic, times)
    hashes = keyed = None
    if topic.partitions > 1 and topic.partitioner.uses_keys and topic.function is None:
        column = _route_column(topic, chunk, columns)
        if column is not None:
            hashes, keyed = hash_column(column, topic.route_column or "key")
    explicit = None if chunk.partitions is None else np.array(chunk.partitions[:count], dtype=np.int64)
    routes = topic.partitioner.route(count, topic.partitions, topic.available, hashes, keyed, explicit)
    table = pa.RecordBatch.from_arrays(columns, schema=topic.schema)
    share = _Share(chunk.size, count)
    batches: list[Batch] = []
    for partition, rows in routes:
        for some in _cut_rows(table, rows, chunk.size, count, batch_size):
            part = Part(chunk.receipt, partition, some, share.of(len(some)))
            batches.append(_batch(topic, part, _select(table, some), times[_index(some)], deadline_ms))
    chunk.receipt.place([batch.part for batch in batches], times)
    return batches


def _chunk_columns(chunk: Chunk, topic: ProducerTopic, times: Times) -> list[pa.Array]:
    stamps = pa.Array.from_buffers(TIMESTAMP_TYPE, len(times), [None, pa.py_buffer(times)])
    if topic.typed:
        return [*rows_to_columns(chunk.values[: chunk.count], topic.schema), stamps]
    return [
        _array(chunk.keys, pa.binary(), chunk.count),
        _array(chunk.values, pa.binary(), chunk.count),
        _array(chunk.headers, HEADERS_TYPE, chunk.count),
        stamps,
    ]


def _array(column: list[Any] | None, kind: pa.DataType, count: int) -> pa.Array:
    """A column of the chunk's `count` records, without what its owner may have appended after it was closed."""
    if column is None:
        return pa.nulls(count, kind)
    array = pa.array(column, kind)
    return array if len(array) == count else array.slice(0, count)


def _route_column(topic: ProducerTopic, chunk: Chunk, columns: list[pa.Array]) -> pa.Array | None:
    if topic.route_column is None or (not topic.typed and chunk.keys is None):
        return None
    return columns[topic.schema.get_field_index(topic.route_column)]


class _Share:
    """Hands out a reservation in proportion to the records, to the last byte."""

    def __init__(self, size: int, count: int) -> None:
        self._size, self._count, self._seen, self._given = size, count, 0, 0

    def of(self, count: int) -> int:
        self._seen += count
        given = self._size * self._seen // self._count
        share, self._given = given - self._given, given
        return share


def _index(rows: Rows) -> Any:
    return slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _select(table: pa.RecordBatch, rows: Rows) -> pa.RecordBatch:
    if isinstance(rows, range):
        if rows.step == 1:
            return table.slice(rows.start, len(rows))
        rows = np.arange(rows.start, rows.stop, rows.step)
    return table.take(pa.array(rows))


def _cut_rows(table: pa.RecordBatch, rows: Rows, size: int, count: int, limit: int) -> list[Rows]:
    """The rows of one partition, in pieces of about `limit` bytes. size, count: of the whole chunk."""
    if size <= limit or len(rows) == 1:
        return [rows]
    if table.schema.get_field_index("value") >= 0 and pa.types.is_binary(table.schema.field("value").type):
        value = table.column(table.schema.get_field_index("value"))
        ends = np.frombuffer(value.buffers()[1], np.int32, count + 1, value.offset * 4)
        sizes = np.diff(ends)[_index(rows)].astype(np.int64) + RECORD_OVERHEAD
    else:
        sizes = np.full(len(rows), -(-size // count), dtype=np.int64)
    return [rows[start:end] for start, end in cut(sizes, limit)]


def _batch(topic: ProducerTopic, part: Part, rows: pa.RecordBatch, times: Times, deadline_ms: float) -> Batch:
    message, crc = seal(rows, topic.codec)
    return Batch(
        topic.lanes[part.partition],
        rows.num_rows,
        message.size,
        deadline_ms,
        min_timestamp=int(times.min()),
        max_timestamp=int(times.max()),
        attributes=COMPRESSION_CODES[topic.codec],
        crc=crc,
        message=message,
        part=part,
    )


def piece_to_batches(piece: TablePiece, batch_size: int, deadline_ms: float) -> list[Batch]:
    """Splits a piece of a table over its topic's lanes and places it in its receipt."""
    topic, table = piece.topic, piece.batch
    batches: list[Batch] = []
    if table is not None and table.num_rows:
        share = _Share(piece.reserved, table.num_rows)
        for partition, rows in _table_routes(piece, table):
            for some in pieces(_select(table, rows), batch_size):
                stamps = some.column(some.num_columns - 1)
                times = np.frombuffer(stamps.buffers()[1], np.int64, some.num_rows, stamps.offset * 8)
                part = Part(piece.receipt, partition, range(some.num_rows), share.of(some.num_rows))
                batches.append(_batch(topic, part, some, times, deadline_ms))
    piece.receipt.place([batch.part for batch in batches], last=piece.last)
    return batches


def _table_routes(piece: TablePiece, table: pa.RecordBatch) -> list[tuple[int, Rows]]:
    topic = piece.topic
    if topic.partitions == 1:
        return [(0, range(table.num_rows))]
    if piece.whole is not None:
        if not piece.whole:
            piece.whole.append(topic.partitioner.whole(topic.partitions, topic.available))
        return [(piece.whole[0], range(table.num_rows))]
    if piece.explicit is not None:
        return topic.partitioner.route(table.num_rows, topic.partitions, topic.available, explicit=piece.explicit)
    assert topic.route_column is not None, "a table by key has a column for it"
    column = table.column(topic.schema.get_field_index(topic.route_column))
    hashes, keyed = hash_column(column, topic.route_column)
    return topic.partitioner.route(table.num_rows, topic.partitions, topic.available, hashes, keyed)
