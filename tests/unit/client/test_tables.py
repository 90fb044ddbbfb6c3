"""What `produce_batch` takes, and how it is made to fit."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rayqueue.client.accumulator import RECORD_OVERHEAD
from rayqueue.client.io.tables import as_table, check_sizes, fit_table, pieces, row_sizes
from rayqueue.errors import RecordTooLarge, SchemaMismatch
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE, typed_log_schema

USER = pa.schema([pa.field("name", pa.string(), nullable=False), ("delay", pa.int32()), ("speed", pa.float32())])
TYPED = typed_log_schema(USER)
NOW = 1_700_000_000_000


def fit(data: Any, schema: pa.Schema = TYPED, key_column: str | None = None) -> pa.RecordBatch:
    typed = schema is not DEFAULT_SCHEMA
    return fit_table(as_table(data, schema, "t"), schema, "t", NOW, typed=typed, key_column=key_column)


ROWS = [{"name": "a", "delay": 3, "speed": 1.5}, {"name": "b", "delay": None, "speed": None}]


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        pa.Table.from_pylist(ROWS),
        pa.RecordBatch.from_pylist(ROWS),
        pd.DataFrame(ROWS),
        pa.concat_tables(
            [pa.Table.from_pylist(ROWS[:1]), pa.Table.from_pylist(ROWS[1:], pa.Table.from_pylist(ROWS).schema)]
        ),
        pa.Table.from_pylist(ROWS).select(["speed", "delay", "name"]),
        pa.table({"name": pa.array(["a", "b"]).dictionary_encode(), "delay": [3, None], "speed": [1.5, None]}),
    ],
    ids=["dicts", "table", "batch", "pandas", "chunks", "other order", "dictionary"],
)
def test_all_forms_become_the_same_batch(data: Any) -> None:
    batch = fit(data)
    assert batch.schema == TYPED
    assert batch.select(USER.names).to_pylist() == ROWS
    assert batch.column("timestamp").cast(pa.int64()).to_pylist() == [NOW, NOW]


def test_any_arrow_stream_is_taken() -> None:
    class Foreign:
        def __arrow_c_stream__(self, requested: Any = None) -> Any:
            return pa.Table.from_pylist(ROWS).__arrow_c_stream__(requested)

    assert fit(Foreign()).num_rows == 2


@pytest.mark.parametrize("data", [5, "text", {"name": ["a"]}, [1, 2], None])
def test_anything_else_is_refused_by_its_type(data: Any) -> None:
    with pytest.raises(SchemaMismatch, match=r"produce_batch takes|holds dicts"):
        fit(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delay": ["x", "y"]}, r"'delay' is string, .* has int32"),
        ({"delay": [2**40, 1]}, r"'delay' is int64, .* has int32 .*not in range"),
        ({"delay": [1.5, 2.0]}, r"'delay' is double, .* has int32"),
        ({"speed": [0.1, 0.2]}, r"'speed' is double, .* has float .*lose digits"),
        ({"delay": [True, False]}, r"'delay' is bool"),
        ({"name": ["a", None]}, r"'name' has nulls"),
        ({"name": pa.array([b"\xff", b"a"])}, r"'name' is binary, .* has string"),
        ({"other": [1, 2]}, r"no column 'other'"),
        ({"key": [b"a", b"b"]}, r"no column 'key'"),
    ],
)
def test_what_does_not_fit_names_the_column_and_the_types(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {"name": ["a", "b"], "delay": [1, 2], "speed": pa.array([1, 2], pa.float32())}
    with pytest.raises(SchemaMismatch, match=message):
        fit(pa.table({**columns, **change}))


def test_casts_that_lose_nothing_are_done() -> None:
    table = pa.table({"name": pa.array([b"a", b"b"]), "delay": pa.array([1.0, math.nan]).fill_null(0), "speed": [1, 2]})
    with pytest.raises(SchemaMismatch, match="delay"):
        fit(table)
    good = fit(pa.table({"name": pa.array([b"a", b"b"]), "delay": [1.0, -2.0], "speed": [0.5, math.nan]}))
    assert good.column("delay").to_pylist() == [1, -2]
    assert good.column("speed")[0].as_py() == 0.5
    assert math.isnan(good.column("speed")[1].as_py())


def test_dict_values_of_the_wrong_type_name_the_column() -> None:
    for wrong in ("late", 1.5):
        with pytest.raises(SchemaMismatch, match="'delay'.*int32"):
            fit([{"name": "a", "delay": wrong}])


def test_missing_columns_become_null_or_are_refused() -> None:
    assert fit([{"name": "a"}]).column("delay").to_pylist() == [None]
    with pytest.raises(SchemaMismatch, match="lacks column 'name'"):
        fit([{"delay": 1}])


def test_columns_of_a_consumed_table_are_ignored() -> None:
    table = pa.table({"value": [b"v"], "topic": ["x"], "partition": [3], "offset": [9], "timestamp_type": [0]})
    assert fit(table, DEFAULT_SCHEMA).column("value").to_pylist() == [b"v"]


def test_doubled_columns_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array([b"a"])] * 2, names=["value", "value"])
    with pytest.raises(SchemaMismatch, match="'value' stands twice"):
        fit(table, DEFAULT_SCHEMA)


def test_untyped_tables_have_value_and_text_is_bytes() -> None:
    batch = fit(
        [{"value": "é", "key": "k", "headers": {"h": "1"}}, {"value": None, "headers": [("a", b"")]}], DEFAULT_SCHEMA
    )
    assert batch.schema == DEFAULT_SCHEMA
    assert batch.column("value").to_pylist() == ["é".encode(), None]
    assert batch.column("key").to_pylist() == [b"k", None]
    assert batch.column("headers").to_pylist() == [[("h", b"1")], [("a", b"")]]
    with pytest.raises(SchemaMismatch, match="needs a column 'value'"):
        fit([{"carrier": "UA"}], DEFAULT_SCHEMA)
    with pytest.raises(SchemaMismatch, match="no column 'carrier'"):
        fit([{"carrier": "UA", "value": b""}], DEFAULT_SCHEMA)


def test_headers_of_text_are_taken() -> None:
    headers = pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))
    batch = fit(pa.table({"value": [b"v"], "headers": headers}), DEFAULT_SCHEMA)
    assert batch.column("headers").type == HEADERS_TYPE
    assert batch.column("headers").to_pylist() == [[("a", b"b")]]


def test_key_column_of_an_untyped_topic() -> None:
    rows = [{"value": "v", "carrier": "UA", "n": 1}, {"value": "w", "carrier": None, "n": 2}]
    table = pa.Table.from_pylist(rows)
    assert fit(table.drop_columns("n"), DEFAULT_SCHEMA, "carrier").column("key").to_pylist() == [b"UA", None]
    keys = fit(table.drop_columns("carrier"), DEFAULT_SCHEMA, "n").column("key").to_pylist()
    assert keys == [b"\0" * 7 + b"\1", b"\0" * 7 + b"\2"]
    both = table.select(["value", "carrier"]).append_column("key", pa.array([b"x", b"y"]))
    with pytest.raises(SchemaMismatch, match="leave one of the two out"):
        fit(both, DEFAULT_SCHEMA, "carrier")
    with pytest.raises(SchemaMismatch, match="not a column"):
        fit(table, DEFAULT_SCHEMA, "nothing")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NOW + 5, None]),
        pa.array([NOW + 5, None], TIMESTAMP_TYPE),
        pa.array([(NOW + 5) * 1000 + 999, None], pa.timestamp("us")),
        pa.array([datetime.datetime.fromtimestamp((NOW + 5) / 1000, datetime.timezone.utc), None]),
    ],
    ids=["ms", "log", "us, naive is UTC", "datetime"],
)
def test_timestamps_are_milliseconds_and_nulls_are_now(column: pa.Array) -> None:
    batch = fit(pa.table({"value": [b"a", b"b"], "timestamp": column}), DEFAULT_SCHEMA)
    assert batch.column("timestamp").cast(pa.int64()).to_pylist() == [NOW + 5, NOW]


def test_row_sizes_count_what_a_row_holds() -> None:
    schema = typed_log_schema(
        pa.schema([("s", pa.string()), ("l", pa.list_(pa.int32())), ("n", pa.struct([("b", pa.binary())]))])
    )
    batch = fit_table(
        pa.Table.from_pylist(
            [{"s": "abc", "l": [1, 2], "n": {"b": b"xx"}}, {"s": None, "l": [], "n": {"b": b"y" * 50}}]
        ),
        schema, "t", NOW, typed=True, key_column=None,
    )  # fmt: skip
    small, large = (int(size) - RECORD_OVERHEAD - 8 for size in row_sizes(batch))
    assert (small, large) == (3 + 8 + 2, 50)
    assert (row_sizes(batch.slice(1))[0]) == large + RECORD_OVERHEAD + 8


def test_a_row_above_the_limit_is_found() -> None:
    batch = fit([{"value": b"x"}, {"value": b"x" * 2000}], DEFAULT_SCHEMA)
    check_sizes(batch, 5000, "t")
    with pytest.raises(RecordTooLarge, match=r"row 1 .*max.message.bytes=1000 .*alter-config t"):
        check_sizes(batch, 1000, "t")
    many = fit([{"value": b"x" * 100}] * 100, DEFAULT_SCHEMA)
    check_sizes(many, 1000, "t")


def test_pieces_are_consecutive_and_about_the_limit() -> None:
    batch = fit([{"value": b"x" * 10}] * 500 + [{"value": b"x" * 5000}] * 3, DEFAULT_SCHEMA)
    found = list(pieces(batch, 4000))
    assert pa.Table.from_batches(found).equals(pa.Table.from_batches([batch]))
    assert all(piece.num_rows == 1 or piece.nbytes <= 2 * 4000 for piece in found)
    assert all(piece.num_rows for piece in found)
    assert list(pieces(batch.slice(0, 0), 10)) == []
