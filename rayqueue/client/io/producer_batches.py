"""Chunks and tables into batches: split over the partitions, cut to size, serialised, with their CRC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.client.accumulator import RECORD_OVERHEAD, Chunk
from rayqueue.client.io.future import Part, Receipt
from rayqueue.client.io.keys import Hashes, hash_column
from rayqueue.client.io.rows import rows_to_columns
from rayqueue.client.io.shared_memory import BATCH_BYTES_MIN, ClientMemory
from rayqueue.client.io.tables import pieces
from rayqueue.client.io.topics import ProducerTopic
from rayqueue.client.lanes import Batch, Lane
from rayqueue.client.partitioner import Rows
from rayqueue.client.slicing import cut
from rayqueue.errors import RecordTooLarge
from rayqueue.protocol.ipc import PREFIX_SIZE
from rayqueue.protocol.messages import COMPRESSION_CODES
from rayqueue.protocol.schemas import HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.protocol.small_batches import BYTES_MAX, WRITE_RECORDS_MAX, write_message

Times = npt.NDArray[np.int64]
MemoryOf = Callable[[Lane], "ClientMemory | None"]  # what a lane's leader shares with this process

_NS_PER_MS = 1_000_000
_END_OF_STREAM = 8  # bytes
# Keys are hashed one by one on the way of small batches; from about twice so many on, all together are faster.
KEYED_MAX = 64


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


def seal(batch: pa.RecordBatch, codec: str, memory: ClientMemory | None = None) -> tuple[pa.Buffer, int]:
    """The IPC message of a batch, and its CRC32C as it travels beside it (`ipc.wire_crc`).

    Args:
        batch: rows with the log schema.
        codec: "none", "lz4" or "zstd".
        memory: shared with the server; used where it is worth it and there is room.
    """
    if codec == "none":
        message = None
        if memory is not None and batch.get_total_buffer_size() >= BATCH_BYTES_MIN:
            message = memory.write(batch)
        if message is None:
            message = batch.serialize()
    else:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_batch(batch)
        stream = sink.getvalue()
        begins = batch.schema.serialize().size
        message = stream.slice(begins, stream.size - begins - _END_OF_STREAM)
    body_at = PREFIX_SIZE + int.from_bytes(message[4:8], "little")
    header = message.slice(0, body_at).to_pybytes()
    return message, google_crc32c.extend(google_crc32c.value(message.slice(body_at)), header)


def no_memory(lane: Lane) -> None:
    """Batches are to be sent."""


def chunk_to_batches(chunk: Chunk, batch_size: int, deadline_ms: float, memory_of: MemoryOf = no_memory) -> list[Batch]:
    """Splits a closed chunk over its topic's lanes and places its receipt.

    Returns:
        The batches, in the order in which they are to be added to their lanes.
    """
    topic: ProducerTopic = chunk.topic
    count = chunk.count
    if _is_small(topic, chunk, batch_size):
        return _few_to_batches(chunk, deadline_ms)
    times: Times = np.fromiter(chunk.times, np.int64, count) // _NS_PER_MS
    everything = range(count)
    table: pa.RecordBatch | None = None  # all rows, made when rows are picked out of it
    hashes = keyed = None
    if topic.partitions > 1 and topic.partitioner.uses_keys and _is_keyed(topic, chunk):
        table = _rows_of(chunk, everything, times)
        hashes, keyed = _hashes(topic, table)
    explicit = None if chunk.partitions is None else np.array(chunk.partitions[:count], dtype=np.int64)
    routes = topic.partitioner.route(count, topic.partitions, topic.available, hashes, keyed, explicit)
    share = _Share(chunk.size, count)
    batches: list[Batch] = []
    for partition, rows in routes:
        if isinstance(rows, range):
            selected = table if table is not None and rows == everything else _rows_of(chunk, rows, times)
        else:
            table = table if table is not None else _rows_of(chunk, everything, times)
            selected = table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)]))
        chosen = times[_index(rows)]
        for start, end in _cut(selected, chunk.size, batch_size):
            part = Part(chunk.receipt, partition, rows[start:end], share.of(end - start))
            piece = selected if end - start == len(rows) else selected.slice(start, end - start)
            batches.append(_batch(topic, part, piece, chosen[start:end], deadline_ms, memory_of))
    chunk.receipt.place([batch.part for batch in batches], times)
    return batches


def _is_small(topic: ProducerTopic, chunk: Chunk, batch_size: int) -> bool:
    """Whether the chunk goes the way of small batches: Arrow's is slower for it."""
    hashed = chunk.keys is not None and topic.partitions > 1
    records = KEYED_MAX if hashed else WRITE_RECORDS_MAX
    return topic.plain_log and chunk.count <= records and chunk.size <= min(BYTES_MAX, batch_size)


def _few_to_batches(chunk: Chunk, deadline_ms: float) -> list[Batch]:
    """`chunk_to_batches` of a small chunk of a default topic, without Arrow and NumPy: a lone record's latency."""
    topic: ProducerTopic = chunk.topic
    count, partitions = chunk.count, topic.partitions
    times = [at // _NS_PER_MS for at in chunk.times[:count]]
    routes: Sequence[tuple[int, Rows]]
    if partitions == 1:
        routes = ((0, range(count)),)
    else:
        keys = chunk.keys if topic.function is None else None
        routes = topic.partitioner.route_few(count, partitions, topic.available, keys, chunk.partitions)
    share = _Share(chunk.size, count)
    batches = []
    for partition, rows in routes:
        stamps = times if len(rows) == count else [times[row] for row in rows]
        message, crc = write_message(
            None if chunk.keys is None else _pick(chunk.keys, rows, count),
            _pick(chunk.values, rows, count),
            None if chunk.headers is None else _pick(chunk.headers, rows, count),
            stamps,
        )
        batches.append(
            Batch(
                topic.lanes[partition],
                len(rows),
                len(message),
                deadline_ms,
                min_timestamp=min(stamps),
                max_timestamp=max(stamps),
                crc=crc,
                message=pa.py_buffer(message),
                part=Part(chunk.receipt, partition, rows, share.of(len(rows))),
            )
        )
    chunk.receipt.place([batch.part for batch in batches], times)
    return batches


def _pick(column: list[Any], rows: Rows, count: int) -> list[Any]:
    """Some rows of a column; what was appended after the chunk was closed is never among them."""
    return column[:count] if len(rows) == count else [column[row] for row in rows]


def _hashes(topic: ProducerTopic, table: pa.RecordBatch) -> tuple[Hashes, npt.NDArray[np.bool_] | None]:
    assert topic.route_column is not None, "records that go by key have a column for it"
    return hash_column(table.column(topic.schema.get_field_index(topic.route_column)), topic.route_column)


def _is_keyed(topic: ProducerTopic, chunk: Chunk) -> bool:
    return topic.function is None and topic.route_column is not None and (topic.typed or chunk.keys is not None)


def _rows_of(chunk: Chunk, rows: range, times: Times) -> pa.RecordBatch:
    """Some of a chunk's rows as a record batch; what was appended after the chunk was closed is never among them."""
    topic: ProducerTopic = chunk.topic
    at = _index(rows)
    count = len(rows)
    stamps = pa.Array.from_buffers(TIMESTAMP_TYPE, count, [None, pa.py_buffer(np.ascontiguousarray(times[at]))])
    if topic.typed:
        columns = rows_to_columns(chunk.values[at], topic.schema)
    else:
        columns = [
            pa.nulls(count, pa.binary()) if chunk.keys is None else binary_array(chunk.keys[at]),
            binary_array(chunk.values[at]),
            pa.nulls(count, HEADERS_TYPE) if chunk.headers is None else pa.array(chunk.headers[at], HEADERS_TYPE),
        ]
    return pa.RecordBatch.from_arrays([*columns, stamps], schema=topic.schema)


def binary_array(values: list[bytes | None]) -> pa.Array:
    """The values as Arrow's binary. (`pa.array` would do; but its first call imports pandas, for half a second.)"""
    count = len(values)
    bitmap, nulls = None, 0
    try:
        data = b"".join(values)  # type: ignore[arg-type]
    except TypeError:
        valid = np.fromiter((value is not None for value in values), np.bool_, count)
        bitmap, nulls = pa.py_buffer(np.packbits(valid, bitorder="little")), count - int(np.count_nonzero(valid))
        values = [value or b"" for value in values]
        data = b"".join(values)  # type: ignore[arg-type]
    if count == 1:  # the lone record is what latency is about
        offsets = np.array((0, len(data)))
    else:
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, values), np.int64, count), out=offsets[1:])  # type: ignore[arg-type]
    if offsets[-1] >= 1 << 31:
        raise RecordTooLarge(
            f"{offsets[-1]} bytes are more than a batch can hold: lower buffer.memory, or send less at once"
        )
    buffers = [bitmap, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), count, buffers, nulls)


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


def _cut(rows: pa.RecordBatch, size: int, limit: int) -> list[tuple[int, int]]:
    """Where to cut the rows of a partition into pieces of about `limit` bytes. size: an upper bound of them all."""
    count = rows.num_rows
    if size <= limit or count == 1:
        return [(0, count)]
    place = rows.schema.get_field_index("value")
    if place >= 0 and rows.schema.field(place).type == pa.binary():
        value = rows.column(place)
        ends = np.frombuffer(value.buffers()[1], np.int32, count + 1, value.offset * 4)
        sizes = np.diff(ends).astype(np.int64) + RECORD_OVERHEAD
    else:
        sizes = np.full(count, -(-rows.nbytes // count), dtype=np.int64)
    return cut(sizes, limit)


def _batch(
    topic: ProducerTopic, part: Part | list[Part], rows: pa.RecordBatch, times: Times, deadline_ms: float,
    memory_of: MemoryOf,
) -> Batch:  # fmt: skip
    lane = topic.lanes[part.partition if isinstance(part, Part) else part[0].partition]
    message, crc = seal(rows, topic.codec, memory_of(lane))
    return Batch(
        lane,
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


def pieces_to_batches(
    run: list[TablePiece], batch_size: int, deadline_ms: float, memory_of: MemoryOf = no_memory
) -> list[Batch]:
    """A piece of a table, split over its topic's lanes, or pieces for one lane, made one batch; places them."""
    if len(run) == 1:
        return piece_to_batches(run[0], batch_size, deadline_ms, memory_of)
    topic = run[0].topic
    partition = run[0].whole[0] if run[0].whole else 0  # else there is but one
    tables = [piece.batch for piece in run if piece.batch is not None]
    parts = [
        Part(piece.receipt, partition, range(table.num_rows), piece.reserved)
        for piece, table in zip(run, tables, strict=True)
    ]
    table = pa.concat_batches(tables)
    batch = _batch(topic, parts, table, _times_of(table), deadline_ms, memory_of)
    for piece, part in zip(run, parts, strict=True):
        piece.receipt.place([part], last=piece.last)
    return [batch]


def _times_of(rows: pa.RecordBatch) -> Times:
    stamps = rows.column(rows.num_columns - 1)
    return np.frombuffer(stamps.buffers()[1], np.int64, rows.num_rows, stamps.offset * 8)


def piece_to_batches(
    piece: TablePiece, batch_size: int, deadline_ms: float, memory_of: MemoryOf = no_memory
) -> list[Batch]:
    """Splits a piece of a table over its topic's lanes and places it in its receipt."""
    topic, table = piece.topic, piece.batch
    batches: list[Batch] = []
    if table is not None and table.num_rows:
        share = _Share(piece.reserved, table.num_rows)
        for partition, rows in _table_routes(piece, table):
            selected = table if len(rows) == table.num_rows else table.take(pa.array(np.asarray(rows)))
            for some in pieces(selected, batch_size):
                part = Part(piece.receipt, partition, range(some.num_rows), share.of(some.num_rows))
                batches.append(_batch(topic, part, some, _times_of(some), deadline_ms, memory_of))
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
    hashes, keyed = _hashes(topic, table)
    return topic.partitioner.route(table.num_rows, topic.partitions, topic.available, hashes, keyed)
