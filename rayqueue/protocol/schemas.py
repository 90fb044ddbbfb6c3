"""The Arrow schemas of topics.

A topic's *log schema* is what stands on disk: for a default topic Kafka's record (`key`, `value`, `headers`,
`timestamp`), for a typed topic the user's columns and `timestamp` last. `timestamp` is always int64 milliseconds
(Arrow timestamp[ms, UTC]).
"""

from __future__ import annotations

import pyarrow as pa

from rayqueue.errors import SchemaMismatch

TIMESTAMP_TYPE = pa.timestamp("ms", tz="UTC")
HEADERS_TYPE = pa.map_(pa.string(), pa.binary())
DEFAULT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS_TYPE),
        pa.field("timestamp", TIMESTAMP_TYPE, nullable=False),
    ]
)
RESERVED_COLUMNS = frozenset({"topic", "partition", "offset", "timestamp", "timestamp_type", "key", "headers"})
MAX_TIMESTAMP_MS = 9_000_000_000_000  # in the year 2255: fits Python's datetime and Arrow's nanoseconds
MAX_COLUMNS = 1000
MAX_DEPTH = 16


def storable_type(kind: pa.DataType, depth: int = 0) -> pa.DataType:
    """The type a column has in the log: as given, dictionaries decoded (no dictionary batches stand in the log).

    Raises:
        SchemaMismatch: the type is not on the list of types a log may hold.
    """
    types = pa.types
    if depth > MAX_DEPTH:
        raise SchemaMismatch(f"the type is nested deeper than {MAX_DEPTH} levels: flatten it")
    if types.is_dictionary(kind):
        return storable_type(kind.value_type, depth + 1)
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([f.with_type(storable_type(f.type, depth + 1)) for f in fields])
    if types.is_map(kind):
        return pa.map_(storable_type(kind.key_type, depth + 1), storable_type(kind.item_type, depth + 1))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(storable_type(kind.value_type, depth + 1)), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(storable_type(kind.value_type, depth + 1)))
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(storable_type(kind.value_type, depth + 1)))
    if _is_plain(kind):
        return kind
    raise SchemaMismatch(
        f"columns of type {kind} cannot be stored; use a plain, temporal, decimal, list, struct or map type"
    )


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_primitive(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
        or types.is_decimal(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_fixed_size_binary(kind)
    )


def typed_log_schema(schema: pa.Schema) -> pa.Schema:
    """The log schema of a typed topic with the user's `schema`.

    Raises:
        SchemaMismatch: a column's name is reserved or doubled, its type cannot be stored, or there are none.
    """
    names = schema.names
    if not names or len(names) > MAX_COLUMNS:
        raise SchemaMismatch(f"a typed topic has 1 to {MAX_COLUMNS} columns, not {len(names)}")
    reserved = sorted(RESERVED_COLUMNS.intersection(names))
    if reserved:
        raise SchemaMismatch(f"column names {', '.join(reserved)} are reserved: rename them")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SchemaMismatch(f"column names {', '.join(doubled)} stand twice: rename them")
    fields = [pa.field(f.name, storable_type(f.type), f.nullable) for f in schema]
    return pa.schema([*fields, pa.field("timestamp", TIMESTAMP_TYPE, nullable=False)])


def serialize_schema(schema: pa.Schema) -> bytes:
    """The schema as an IPC message, without its metadata."""
    return bytes(schema.remove_metadata().serialize())


def deserialize_schema(data: bytes) -> pa.Schema:
    """The schema of such a message.

    Raises:
        SchemaMismatch: the bytes are no schema.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaMismatch(f"the bytes given as a schema are not one: {error}") from error
