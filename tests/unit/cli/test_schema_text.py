"""Schemas on the command line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayqueue.cli.schema_text import parse_schema, parse_type, read_schema_file
from rayqueue.errors import ConfigError


def test_columns_with_simple_types():
    assert parse_schema("tailnum:string, delay: double,day:date32") == pa.schema(
        [("tailnum", pa.string()), ("delay", pa.float64()), ("day", pa.date32())]
    )


def test_not_null():
    assert parse_schema("id:int64 not null").field("id").nullable is False


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.binary(16),
        pa.date32(),
        pa.timestamp("ms"),
        pa.timestamp("us", tz="UTC"),
        pa.timestamp("ns", tz="Europe/Berlin"),
        pa.time64("us"),
        pa.duration("ms"),
        pa.decimal128(12, 2),
        pa.decimal256(40, 3),
        pa.list_(pa.int64()),
        pa.map_(pa.string(), pa.list_(pa.float64())),
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.struct([("c", pa.decimal128(5, 1))])))]),
    ],
    ids=str,
)
def test_every_type_is_read_back_from_its_own_name(kind):
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("carrier", "name:type"),
        ("carrier:", "name:type"),
        (":string", "name:type"),
        ("carrier:strnig", "strnig"),
        ("a:list<int64,int64>", "list<int64,int64>"),
        ("a:decimal(99,2)", "not possible"),
    ],
)
def test_what_is_no_schema_says_what_is_wrong(text, about):
    with pytest.raises(ConfigError, match=about):
        parse_schema(text)


SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.list_(pa.string()))])


def test_files(tmp_path):
    table = SCHEMA.empty_table()
    pq.write_table(table, tmp_path / "one.parquet")
    with pa.ipc.new_file(tmp_path / "one.arrow", SCHEMA):
        pass
    with pa.ipc.new_stream(tmp_path / "stream.arrow", SCHEMA):
        pass
    (tmp_path / "message").write_bytes(SCHEMA.serialize())
    (tmp_path / "map.json").write_text(json.dumps({"a": "int64", "b": "list<string>"}))
    (tmp_path / "list.json").write_text(
        json.dumps([{"name": "a", "type": "int64"}, {"name": "b", "type": "list<string>"}])
    )
    for path in sorted(tmp_path.iterdir()):
        assert read_schema_file(str(path)).equals(SCHEMA), path


def test_the_logs_own_timestamp_is_left_out(tmp_path):
    pq.write_table(
        SCHEMA.append(pa.field("timestamp", pa.timestamp("ms", "UTC"))).empty_table(), tmp_path / "log.parquet"
    )
    assert read_schema_file(str(tmp_path / "log.parquet")).equals(SCHEMA)


def test_a_file_without_a_schema(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(ConfigError, match="neither Parquet, Arrow nor JSON"):
        read_schema_file(str(tmp_path / "x"))
    (tmp_path / "y").write_text('["a"]')
    with pytest.raises(ConfigError, match="JSON schema"):
        read_schema_file(str(tmp_path / "y"))
