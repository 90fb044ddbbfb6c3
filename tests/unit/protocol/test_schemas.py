"""The schemas of topics, and rows on the wire."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.schemas import (
    DEFAULT_SCHEMA,
    MAX_COLUMNS,
    MAX_DEPTH,
    RESERVED_COLUMNS,
    TIMESTAMP_TYPE,
    deserialize_schema,
    serialize_schema,
    storable_type,
    typed_log_schema,
)


def test_a_typed_topic_gets_a_timestamp_last() -> None:
    schema = typed_log_schema(pa.schema([pa.field("a", pa.int8(), nullable=False), pa.field("b", pa.string())]))
    assert schema.names == ["a", "b", "timestamp"]
    assert schema.field("timestamp").type == TIMESTAMP_TYPE
    assert not schema.field("timestamp").nullable and not schema.field("a").nullable


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.null(), pa.string(), pa.large_string(),
        pa.binary(), pa.binary(7), pa.large_binary(), pa.date32(), pa.time64("us"), pa.timestamp("ns", "UTC"),
        pa.duration("s"), pa.decimal128(10, 2), pa.decimal256(40, 2), pa.list_(pa.int8()), pa.large_list(pa.string()),
        pa.list_(pa.float32(), 3), pa.struct([("x", pa.int8())]), pa.map_(pa.string(), pa.list_(pa.int64())),
    ],
    ids=str,
)  # fmt: skip
def test_these_types_are_stored_as_they_are(kind: pa.DataType) -> None:
    assert storable_type(kind) == kind


def test_dictionaries_are_stored_decoded_wherever_they_stand() -> None:
    words = pa.dictionary(pa.int8(), pa.string())
    assert storable_type(words) == pa.string()
    assert storable_type(pa.list_(words)) == pa.list_(pa.string())
    assert storable_type(pa.struct([("x", words)])) == pa.struct([("x", pa.string())])
    assert storable_type(pa.map_(pa.string(), words)) == pa.map_(pa.string(), pa.string())


@pytest.mark.parametrize(
    "kind", [pa.sparse_union([pa.field("a", pa.int8())]), pa.run_end_encoded(pa.int32(), pa.int8()), pa.string_view()]
)
def test_these_types_are_not_stored(kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="cannot be stored"):
        storable_type(kind)


def test_nesting_is_bounded() -> None:
    kind = pa.int8()
    for _ in range(MAX_DEPTH + 1):
        kind = pa.list_(kind)
    with pytest.raises(SchemaMismatch, match="flatten"):
        storable_type(kind)


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(SchemaMismatch, match=f"{name} are reserved: rename"):
        typed_log_schema(pa.schema([(name, pa.int8())]))


def test_doubled_missing_and_too_many_columns_are_refused() -> None:
    with pytest.raises(SchemaMismatch, match="a stand twice"):
        typed_log_schema(pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.int8())]))
    with pytest.raises(SchemaMismatch, match="not 0"):
        typed_log_schema(pa.schema([]))
    with pytest.raises(SchemaMismatch, match=f"not {MAX_COLUMNS + 1}"):
        typed_log_schema(pa.schema([(f"c{i}", pa.int8()) for i in range(MAX_COLUMNS + 1)]))


def test_a_schema_reads_as_it_was_written_without_its_metadata() -> None:
    assert deserialize_schema(serialize_schema(DEFAULT_SCHEMA)).equals(DEFAULT_SCHEMA)
    assert serialize_schema(DEFAULT_SCHEMA.with_metadata({"a": "b"})) == serialize_schema(DEFAULT_SCHEMA)
    assert len(serialize_schema(DEFAULT_SCHEMA)) % 8 == 0


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 64, b"\xff\xff\xff\xff\x10\0\0\0" + b"\0" * 16])
def test_other_bytes_are_no_schema(data: bytes) -> None:
    with pytest.raises(SchemaMismatch, match="are not one"):
        deserialize_schema(data)
