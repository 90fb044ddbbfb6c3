"""What `produce_batch` takes, made into record batches with the topic's log schema."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayqueue.client.accumulator import RECORD_OVERHEAD
from rayqueue.client.io.casts import cast_column
from rayqueue.client.io.dicts import Encoding, check_serialized, table_of_dicts
from rayqueue.client.io.records import check_range
from rayqueue.errors import RecordTooLarge, SchemaMismatch
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE

# They stand in what a consumer reads; a table read from one topic can be produced to another.
IGNORED_COLUMNS = frozenset({"topic", "partition", "offset", "timestamp_type"})

_ONLY_VALUES = ["value"]
_ABSENT_ROWS_MAX = 64 * 1024  # columns of nulls that are kept for the next table: 12 bytes a row


def as_table(data: Any, schema: pa.Schema, topic: str, encoding: Encoding | None = None) -> pa.Table:
    """The data as an Arrow table.

    Args:
        data: a Table or RecordBatch, a pandas DataFrame, a list of dicts, or anything with `__arrow_c_stream__`.
        schema: the topic's log schema, which says how the dicts' values are meant.
        topic: its name, for messages.
        encoding: the serializers of an untyped topic; None: there are none.

    Raises:
        SchemaMismatch: it is nothing of the kind, or dict values do not fit their column.
        SerializationError: a serializer refused a dict's value, or is set and the data is a table whose column it would
            be needed for.
    """
    encoding = Encoding() if encoding is None else encoding
    if isinstance(data, (list, tuple)):
        return table_of_dicts(data, schema, topic, encoding)
    table = _arrow_table(data)
    check_serialized(table, encoding)
    return table


def _arrow_table(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if type(data).__module__.split(".")[0] == "pandas" and hasattr(data, "columns"):
        try:
            return pa.Table.from_pandas(data, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise SchemaMismatch(f"the DataFrame does not fit Arrow columns: {error}") from error
    why: Exception | None = None
    if hasattr(data, "__arrow_c_stream__"):
        try:
            return pa.table(data)
        except (pa.ArrowException, TypeError, ValueError) as error:  # one column, such as a pandas Series
            why = error
    raise SchemaMismatch(
        f"produce_batch takes a pyarrow Table or RecordBatch, a pandas DataFrame or a list of dicts, not "
        f"{type(data).__name__}; use produce() for one record"
    ) from why


def fit_table(
    table: pa.Table, schema: pa.Schema, topic: str, now_ms: int, *, typed: bool, key_column: str | None
) -> pa.RecordBatch:
    """The table as one record batch with the topic's log schema: columns in order, cast, completed.

    Args:
        schema: the log schema. typed: whether its columns are the user's.
        now_ms: the timestamp of rows that have none.
        key_column: on an untyped topic, the column whose values are the keys (text, bytes, or integers as 8 bytes
            big-endian).

    Raises:
        SchemaMismatch: a column is missing, unknown, doubled, of another type, or null where it must not be.
        SerializationError: a timestamp is out of range.
    """
    if not typed and key_column is None and table.column_names == _ONLY_VALUES:
        plain = _values_alone(table.column(0), schema, now_ms)
        if plain is not None:
            return plain
    names = [name for name in table.column_names if name not in IGNORED_COLUMNS]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SchemaMismatch(f"column {doubled[0]!r} stands twice in the table: rename one")
    columns = {name: table.column(name) for name in names}
    if not typed:
        if key_column is not None and key_column != "key":
            _rename_key(columns, key_column, topic)
        if "value" not in columns:
            raise SchemaMismatch(
                f"topic {topic!r} has no schema, so a table for it needs a column 'value'; columns of your own need a "
                "topic created with schema="
            )
    unknown = sorted(columns.keys() - set(schema.names))
    if unknown:
        hint = "" if typed else " (a topic without schema has key, value, headers, timestamp)"
        raise SchemaMismatch(
            f"topic {topic!r} has no column {unknown[0]!r}{hint}: drop it, or create a topic that has it"
        )
    arrays = [_column(columns.get(field.name), field, table.num_rows, topic, now_ms) for field in schema]
    return pa.RecordBatch.from_arrays([_one(array) for array in arrays], schema=schema)


def _values_alone(values: pa.ChunkedArray, schema: pa.Schema, now_ms: int) -> pa.RecordBatch | None:
    """The commonest table, of values and nothing else in one piece, the shortest way; None for any other."""
    rows = len(values)
    if values.num_chunks != 1 or values.type != pa.binary() or rows > _ABSENT_ROWS_MAX:
        return None
    key, headers = _absent(rows)
    return pa.RecordBatch.from_arrays([key, values.chunk(0), headers, _now(rows, now_ms)], schema=schema)


@functools.lru_cache(maxsize=8)
def _absent(rows: int) -> tuple[pa.Array, pa.Array]:
    """No keys and no headers, as columns: tables of one producer often have the same number of rows."""
    # Not `pa.nulls`: it gives every buffer of the column the same zeros, those without a value too, and all are sent.
    absent, nowhere = pa.py_buffer(bytes(-(-rows // 8))), pa.py_buffer(bytes(4 * (rows + 1)))
    entries = pa.array([], pa.struct([HEADERS_TYPE.key_field, HEADERS_TYPE.item_field]))
    return (
        pa.Array.from_buffers(pa.binary(), rows, [absent, nowhere, pa.py_buffer(b"")], rows),
        pa.Array.from_buffers(HEADERS_TYPE, rows, [absent, nowhere], rows, children=[entries]),
    )


def _now(rows: int, now_ms: int) -> pa.Array:
    return pa.Array.from_buffers(TIMESTAMP_TYPE, rows, [None, pa.py_buffer(np.full(rows, now_ms, dtype=np.int64))])


def _rename_key(columns: dict[str, pa.ChunkedArray], key_column: str, topic: str) -> None:
    if key_column not in columns:
        raise SchemaMismatch(f"key_column={key_column!r} is not a column of the table ({', '.join(columns)})")
    if "key" in columns:
        raise SchemaMismatch(f"the table has a column 'key' and key_column={key_column!r}: leave one of the two out")
    column = columns[key_column] if key_column == "value" else columns.pop(key_column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        column = pa.chunked_array([_big_endian(chunk) for chunk in column.chunks], pa.binary())
    columns["key"] = cast_column(column, DEFAULT_SCHEMA.field("key").with_name(key_column), topic)


def _big_endian(column: pa.Array) -> pa.Array:
    wide = ">u8" if pa.types.is_uint64(column.type) else ">i8"
    data = column.fill_null(0).to_numpy(zero_copy_only=False).astype(wide)
    fixed = pa.Array.from_buffers(pa.binary(8), len(column), [None, pa.py_buffer(data.tobytes())]).cast(pa.binary())
    return pc.if_else(column.is_valid(), fixed, pa.scalar(None, pa.binary())) if column.null_count else fixed


def _column(given: pa.ChunkedArray | None, field: pa.Field, rows: int, topic: str, now_ms: int) -> Any:
    if field.name == "timestamp":
        return _timestamps(given, field, rows, topic, now_ms)
    if given is None:
        if not field.nullable:
            raise SchemaMismatch(
                f"the table lacks column {field.name!r} ({field.type}), which topic {topic!r} requires"
            )
        return pa.nulls(rows, field.type)
    if field.type == HEADERS_TYPE and pa.types.is_map(given.type):
        try:
            return given.cast(HEADERS_TYPE)
        except pa.ArrowException as error:
            raise SchemaMismatch(f"column 'headers' is {given.type}, not {HEADERS_TYPE}: {error}") from error
    return cast_column(given, field, topic)


def _timestamps(given: pa.ChunkedArray | None, field: pa.Field, rows: int, topic: str, now_ms: int) -> Any:
    if given is None:
        return _now(rows, now_ms)
    try:
        if pa.types.is_integer(given.type):
            given = given.cast(pa.int64()).cast(TIMESTAMP_TYPE)  # ms since the epoch, as produce() takes it
        elif pa.types.is_timestamp(given.type):
            # Event times come in micro- and nanoseconds; a record's timestamp has milliseconds, as Kafka's.
            given = pc.floor_temporal(given, unit="millisecond").cast(TIMESTAMP_TYPE)
    except pa.ArrowException as error:
        raise SchemaMismatch(f"column 'timestamp' is {given.type}, which is not {TIMESTAMP_TYPE}: {error}") from error
    if given.null_count:
        given = given.fill_null(pa.scalar(now_ms, TIMESTAMP_TYPE))
    made = cast_column(given, field, topic)
    if rows:
        ends = pc.min_max(made.cast(pa.int64()))
        check_range(ends["min"].as_py())
        check_range(ends["max"].as_py())
    return made


def _one(array: Any) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks == 1:
            return array.chunk(0)
        combined = array.combine_chunks()
        if isinstance(combined, pa.ChunkedArray):  # more than an array of its type can hold
            raise SchemaMismatch(f"a column of {array.nbytes} bytes does not fit one array: produce the table in parts")
        return combined
    return array


def row_sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of each row, overhead included: exact for flat columns, nested ones by what their rows hold."""
    sizes = np.full(batch.num_rows, RECORD_OVERHEAD, dtype=np.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    return sizes


def _sizes(column: pa.Array) -> npt.NDArray[np.int64]:
    kind, types, count = column.type, pa.types, len(column)
    if column.null_count == count:
        return np.zeros(count, dtype=np.int64)
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        width = np.int64 if types.is_large_string(kind) or types.is_large_binary(kind) else np.int32
        ends = np.frombuffer(column.buffers()[1], width, count + 1, column.offset * np.dtype(width).itemsize)
        return np.diff(ends).astype(np.int64)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        offsets = np.asarray(column.offsets.to_numpy(zero_copy_only=False), dtype=np.int64)
        values = (
            pa.StructArray.from_arrays([column.keys, column.items], ["k", "v"]) if types.is_map(kind) else column.values
        )
        totals = np.concatenate([[0], np.cumsum(_sizes(values))]).astype(np.int64)
        return np.asarray(totals[offsets[1:]] - totals[offsets[:-1]], dtype=np.int64)
    if types.is_struct(kind):
        total = np.zeros(count, dtype=np.int64)
        for child in column.flatten():
            total += _sizes(child)
        return total
    return np.full(count, -(-column.nbytes // max(1, count)), dtype=np.int64)


def check_sizes(batch: pa.RecordBatch, limit: int, topic: str) -> None:
    """Looks for a record above the topic's `max.message.bytes`.

    Raises:
        RecordTooLarge: there is one; says which row.
    """
    if batch.num_rows == 0 or _fits(batch, limit - RECORD_OVERHEAD):
        return
    sizes = row_sizes(batch)
    if int(sizes.max()) > limit:
        row = int(sizes.argmax())
        raise too_large(f"row {row} of the table", int(sizes[row]), limit, topic)


def _fits(batch: pa.RecordBatch, limit: int) -> bool:
    """Whether the batch has at most `limit` bytes; asks first what is known at once: the size of its whole buffers."""
    return bool(batch.get_total_buffer_size() <= limit or batch.nbytes <= limit)


def too_large(what: str, size: int, limit: int, topic: str) -> RecordTooLarge:
    """The error for a record of `size` bytes."""
    return RecordTooLarge(
        f"{what} has {size} bytes, above max.message.bytes={limit} of topic {topic!r}: send less in one record, or "
        f"raise it with `rayqueue topic alter-config {topic} max.message.bytes=...`"
    )


def pieces(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """Consecutive slices of about `limit` bytes at most, none empty; shares memory."""
    if batch.num_rows <= 1 or _fits(batch, limit):
        if batch.num_rows:
            yield batch
        return
    parts = -(-batch.nbytes // limit)
    step = max(1, -(-batch.num_rows // parts))
    for start in range(0, batch.num_rows, step):
        piece = batch.slice(start, step)
        if piece.num_rows > 1 and piece.nbytes > 2 * limit:
            yield from pieces(piece, limit)  # uneven rows
        else:
            yield piece
