"""Lines of JSON as Arrow columns: what `topic consume` prints of a typed topic (`--json`, or `-f %v`), and what people
write."""

from __future__ import annotations

import base64
import datetime
import decimal
import difflib
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa

from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.schemas import TIMESTAMP_TYPE

Convert = Callable[[Any], Any]

# The names of a record; but for `value` and `timestamp` no column may be called so (RESERVED_COLUMNS).
_RECORD_ONLY = frozenset({"topic", "partition", "offset", "key", "headers"})
_RECORD = _RECORD_ONLY | {"value", "timestamp"}

_decode_json = msgspec.json.Decoder().decode
# What pyarrow raises for a value that is not of the type, and what the converters below raise.
_UNFIT = (pa.ArrowException, TypeError, ValueError, ArithmeticError, AttributeError, msgspec.ValidationError)


def parse_rows(chunk: bytes, columns: pa.Schema, first: int, key_column: str = "") -> pa.Table:
    """Lines of JSON as a table of the topic's columns, and `timestamp` where the lines have one.

    A line is an object of columns, or a whole record as `topic consume --json` prints it, whose `value` is that object.
    Of a record, topic, partition and offset say where it stood, and are not used. A column that a line leaves out is
    null there.

    Args:
        chunk: whole lines, one object each; empty ones are skipped.
        columns: the user's columns.
        first: number of the first line, for messages.
        key_column: the topic's, "" where it has none.

    Raises:
        SchemaMismatch: a line is no object, or does not fit the columns; the message names line and column.
    """
    numbers, given = _objects(chunk, first)
    rows = [
        _unwrapped(row, number, columns, key_column) if _is_record(row, columns) else row
        for number, row in zip(numbers, given, strict=True)
    ]
    known = {*columns.names, "timestamp"}
    for number, row in zip(numbers, rows, strict=True):
        if not row.keys() <= known:
            raise _unknown_column(number, row, columns)
    arrays = {field.name: _column([row.get(field.name) for row in rows], field, numbers) for field in columns}
    table = pa.table(arrays, schema=columns)
    stamped = sum("timestamp" in row for row in rows)
    if not stamped:
        return table
    if stamped < len(rows):
        raise SchemaMismatch(
            f"some of the lines from {first} on have a timestamp and some have none: give all or none one"
        )
    field = pa.field("timestamp", TIMESTAMP_TYPE, nullable=False)
    return table.append_column(field, _column([row["timestamp"] for row in rows], field, numbers))


def _objects(chunk: bytes, first: int) -> tuple[list[int], list[dict[str, Any]]]:
    numbers, rows = [], []
    for number, line in enumerate(chunk.split(b"\n"), first):
        if not line.strip():
            continue
        try:
            row = _decode_json(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SchemaMismatch(f"line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise SchemaMismatch(f"line {number} is not a JSON object with the topic's columns")
        numbers.append(number)
        rows.append(row)
    return numbers, rows


def _is_record(row: dict[str, Any], columns: pa.Schema) -> bool:
    """Whether a line is a whole record: it has a name that no column may have, or an object that is no column."""
    if "value" not in row or not row.keys() <= _RECORD:
        return False
    return not _RECORD_ONLY.isdisjoint(row) or ("value" not in columns.names and isinstance(row["value"], dict))


def _unwrapped(record: dict[str, Any], number: int, columns: pa.Schema, key_column: str) -> dict[str, Any]:
    """The columns of a record, with its timestamp; its key goes into the key column."""
    value, key = record["value"], record.get("key")
    if not isinstance(value, dict):
        raise SchemaMismatch(
            f"line {number}: the topic is typed, its value is an object of {', '.join(columns.names[:20])}, "
            f"not {str(value)[:60]!r}"
        )
    if record.get("headers"):
        raise SchemaMismatch(f"line {number} has headers, and records of a typed topic have none: leave them out")
    row = dict(value)
    if key is not None:
        if not key_column:
            raise SchemaMismatch(
                f"line {number} has the key {str(key)[:60]!r}, and the topic no key column: leave it out"
            )
        if row.setdefault(key_column, key) != key:
            raise SchemaMismatch(
                f"line {number}: the key {str(key)[:60]!r} is not what the key column {key_column!r} has, "
                f"{str(row[key_column])[:60]!r}: leave one of the two out"
            )
    if "timestamp" in record:
        row["timestamp"] = record["timestamp"]
    return row


def _unknown_column(number: int, row: dict[str, Any], columns: pa.Schema) -> SchemaMismatch:
    name = next(name for name in row if name not in columns.names and name != "timestamp")
    near = difflib.get_close_matches(name, columns.names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"columns are {', '.join(columns.names[:20])}"
    return SchemaMismatch(f"line {number}: {name!r} is not a column of the topic; {hint}")


def _column(values: list[Any], field: pa.Field, numbers: list[int]) -> pa.Array:
    """One column's values in its type."""
    convert = converter(field.type)
    try:
        array = pa.array([None if v is None else convert(v) for v in values] if convert else values, field.type)
    except _UNFIT:
        at, reason = _culprit(values, field, convert)
        raise SchemaMismatch(
            f"line {numbers[at]}: {str(values[at])[:60]!r} does not fit column {field.name!r}, {field.type}{reason}"
        ) from None
    if not field.nullable and array.null_count:
        raise SchemaMismatch(f"line {numbers[values.index(None)]}: column {field.name!r} must not be null")
    return array


def _culprit(values: list[Any], field: pa.Field, convert: Convert | None) -> tuple[int, str]:
    """The first value that does not fit, and why."""
    for at, value in enumerate(values):
        try:
            pa.array([convert(value) if convert and value is not None else value], field.type)
        except _UNFIT as error:
            return at, f" ({error})"
    return 0, ""


def converter(kind: pa.DataType) -> Convert | None:
    """From what JSON has to what `pa.array` takes for this type; None where that is the same."""
    types = pa.types
    if types.is_timestamp(kind):
        return lambda value: _timestamp(value, kind)
    if types.is_date(kind):
        return datetime.date.fromisoformat
    if types.is_time(kind):
        return datetime.time.fromisoformat
    if types.is_duration(kind):
        return lambda value: msgspec.convert(value, datetime.timedelta) if isinstance(value, str) else value
    if types.is_decimal(kind):
        return lambda value: decimal.Decimal(str(value))
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _binary
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _each(converter(kind.value_type))
    if types.is_map(kind):
        return _map(converter(kind.key_type), converter(kind.item_type))
    if types.is_struct(kind):
        inner = {kind.field(i).name: converter(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: {name: _apply(inner.get(name), item) for name, item in value.items()}
    return None


def _apply(convert: Convert | None, value: Any) -> Any:
    return value if convert is None or value is None else convert(value)


def _each(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: [_apply(convert, item) for item in value]


def _map(key: Convert | None, item: Convert | None) -> Convert:
    def convert(value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else value
        return [(_apply(key, name), _apply(item, content)) for name, content in pairs]

    return convert


def _timestamp(value: Any, kind: pa.DataType) -> Any:
    """Text in ISO 8601, without a zone in the column's (UTC); numbers count the column's unit."""
    if not isinstance(value, str):
        return value
    moment = datetime.datetime.fromisoformat(value[:-1] + "+00:00" if value[-1:] in ("Z", "z") else value)
    if kind.tz is None:
        if moment.tzinfo is not None:
            raise ValueError("the column has no time zone, the value has one")
        return moment
    # Arrow keeps UTC; a value without a zone is taken as UTC, as Arrow's own readers do.
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _binary(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"], validate=True)
    return value.encode()  # type: ignore[no-any-return]
