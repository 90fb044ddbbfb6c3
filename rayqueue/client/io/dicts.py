"""A list of dicts for `produce_batch`, as a table: each value as `produce` would take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from rayqueue.client.io.records import timestamp_ms
from rayqueue.client.io.values import exact_array
from rayqueue.client.serializers import Serializer
from rayqueue.errors import SchemaMismatch, SerializationError
from rayqueue.protocol.schemas import TIMESTAMP_TYPE


class Encoding(NamedTuple):
    """How an untyped topic's keys and values become bytes.

    Attributes:
        value, key: the serializers, None where none was set.
        key_column: the column that holds the keys.
    """

    value: Serializer | None = None
    key: Serializer | None = None
    key_column: str | None = None

    def of(self, name: str) -> Serializer | None:
        """The serializer of a column."""
        if name == "value":
            return self.value
        return self.key if name in ("key", self.key_column) else None


def table_of_dicts(rows: Sequence[Any], schema: pa.Schema, topic: str, encoding: Encoding) -> pa.Table:
    """The rows as a table; what a row lacks is null.

    Args:
        schema: the topic's log schema. encoding: for an untyped topic; an empty one for a typed topic.

    Raises:
        SchemaMismatch: a row is no dict, or a value does not fit its column.
        SerializationError: a serializer refused a value, or a timestamp is out of range.
    """
    if not rows:
        return schema.empty_table()
    if encoding.key is not None and encoding.key_column == "value":
        raise SerializationError("key_column='value' with a key_serializer: give the keys as a column 'key'")
    names: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, Mapping):
            raise SchemaMismatch(f"a list for produce_batch holds dicts, not {type(row).__name__}")
        names.update(dict.fromkeys(row))
    columns = {name: _column(name, [row.get(name) for row in rows], schema, topic, encoding) for name in names}
    _complete(columns, len(rows), schema, encoding)
    return pa.table(columns)


def _column(name: str, values: list[Any], schema: pa.Schema, topic: str, encoding: Encoding) -> pa.Array:
    if name == "timestamp":
        return pa.array([None if at is None else timestamp_ms(at) for at in values], TIMESTAMP_TYPE)
    serialize = encoding.of(name)
    if serialize is not None:
        return pa.array([serialize(value) for value in values], pa.binary())
    kind = schema.field(name).type if name in schema.names else None
    try:
        return exact_array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise SchemaMismatch(f"column {name!r} of topic {topic!r} is {kind}: {error}") from error


def _complete(columns: dict[str, Any], count: int, schema: pa.Schema, encoding: Encoding) -> None:
    """A value, or any column, of nulls where no row has one, as `produce` without it: a table needs it to have rows."""
    name = "value" if "value" in schema.names else schema.names[0]
    known = columns.keys() <= {*schema.names, encoding.key_column}
    if not columns or (known and name not in columns and schema.field(name).nullable):
        columns[name] = pa.nulls(count, schema.field(name).type)


def check_serialized(table: pa.Table, encoding: Encoding) -> None:
    """Refuses columns of a table that a serializer would have to make bytes of; text and bytes stay as they are.

    Raises:
        SerializationError: there is one. Says what to do.
    """
    for name in table.column_names:
        if encoding.of(name) is None:
            continue
        kind = table.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_null(kind) or _is_bytes(kind)):
            what = "value" if name == "value" else "key"
            raise SerializationError(
                f"the {what}_serializer takes Python values, column {name!r} of the table is {kind}: produce a list of "
                "dicts (table.to_pylist()), or make the column bytes or text first, which is sent as it is"
            )


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )
