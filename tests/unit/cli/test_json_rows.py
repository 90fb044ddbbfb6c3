"""JSON lines as the columns of a typed topic."""

import datetime
import decimal

import pyarrow as pa
import pytest

from rayqueue.cli.json_rows import parse_rows
from rayqueue.cli.record_format import compile_format, render_json
from rayqueue.cli.record_sinks import rows
from rayqueue.errors import SchemaMismatch

COLUMNS = pa.schema([("carrier", pa.string()), ("delay", pa.float64()), ("day", pa.date32())])


def test_rows_and_missing_columns():
    table = parse_rows(b'{"carrier":"UA","delay":1,"day":"2013-01-01"}\n\n{"delay":2.5}\n', COLUMNS, 1)
    assert table.schema.equals(COLUMNS)
    assert table.to_pylist() == [
        {"carrier": "UA", "delay": 1.0, "day": datetime.date(2013, 1, 1)},
        {"carrier": None, "delay": 2.5, "day": None},
    ]


@pytest.mark.parametrize(
    "stamp", [b"1356998400000", b'"2013-01-01T00:00:00Z"', b'"2013-01-01T00:00:00"', b'"2013-01-01T01:00:00+01:00"']
)
def test_rows_may_bring_their_timestamps(stamp):
    table = parse_rows(b'{"delay":1,"timestamp":' + stamp + b"}", COLUMNS, 1)
    assert table["timestamp"].cast(pa.int64()).to_pylist() == [1356998400000]


def test_all_or_no_rows_have_timestamps():
    with pytest.raises(SchemaMismatch, match="all or none"):
        parse_rows(b'{"delay":1,"timestamp":1}\n{"delay":1}', COLUMNS, 1)


@pytest.mark.parametrize(
    ("line", "about"),
    [
        (b'{"delay":"late"}', "'late' does not fit column 'delay', double"),
        (b'{"day":"soon"}', "'soon' does not fit column 'day'"),
        (b'{"day":5}', "'5' does not fit column 'day'"),
        (b'{"dealy":1}', "did you mean 'delay'"),
        (b"no json", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"carrier":"\xff"}', "not JSON"),
    ],
)
def test_rows_that_do_not_fit_name_line_and_column(line, about):
    with pytest.raises(SchemaMismatch, match=about) as caught:
        parse_rows(b'{"delay":1}\n' + line + b"\n", COLUMNS, 7)
    assert "line 8" in str(caught.value)


def test_a_column_that_must_not_be_null():
    with pytest.raises(SchemaMismatch, match="line 2: column 'id' must not be null"):
        parse_rows(b'{"id":1}\n{}\n', pa.schema([pa.field("id", pa.int64(), nullable=False)]), 1)


UTC = datetime.timezone.utc
VALUES = [
    (pa.int8(), -5),
    (pa.uint64(), 2**64 - 1),
    (pa.bool_(), True),
    (pa.string(), "é"),
    (pa.binary(), b"text"),
    (pa.binary(), b"\xff\x00"),
    (pa.binary(2), b"xy"),
    (pa.decimal128(7, 2), decimal.Decimal("12.50")),
    (pa.date32(), datetime.date(2013, 1, 1)),
    (pa.time64("us"), datetime.time(5, 6, 7, 8)),
    (pa.duration("ms"), datetime.timedelta(hours=1, milliseconds=3)),
    (pa.timestamp("us"), datetime.datetime(2013, 1, 1, 5, 0, 0, 12)),
    (pa.timestamp("ms", "UTC"), datetime.datetime(2013, 1, 1, 5, tzinfo=UTC)),
    (pa.list_(pa.date32()), [datetime.date(2013, 1, 1), None]),
    (pa.struct([("a", pa.decimal128(5, 1)), ("b", pa.string())]), {"a": decimal.Decimal("1.5"), "b": None}),
    (pa.map_(pa.string(), pa.int64()), [("x", 1), ("y", 2)]),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[f"{kind}-{value!r}" for kind, value in VALUES])
def test_what_consume_prints_produce_takes_back(kind, value):
    columns = pa.schema([("x", kind)])
    table = pa.table({"x": pa.array([value, None], kind)}, schema=columns)
    consumed = (
        table.append_column("topic", pa.array(["t", "t"]))
        .append_column("partition", pa.array([0, 0], pa.int32()))
        .append_column("offset", pa.array([0, 1], pa.int64()))
        .append_column("timestamp", pa.array([0, 0], pa.timestamp("ms", "UTC")))
    )
    render = compile_format("%v\\n")
    printed = b"".join(render(row) for row in rows(consumed))
    assert parse_rows(printed, columns, 1).equals(table)


def test_maps_as_objects():
    columns = pa.schema([("x", pa.map_(pa.string(), pa.int64()))])
    assert parse_rows(b'{"x":{"a":1}}', columns, 1)["x"].to_pylist() == [[("a", 1)]]


KEYED = pa.table({"carrier": ["UA", None], "delay": [1.5, 2.0], "day": pa.array([None, None], pa.date32())}, COLUMNS)


def consumed(table):
    """The table as a consumer gives it."""
    count = table.num_rows
    return (
        table.append_column("topic", pa.array(["t"] * count))
        .append_column("partition", pa.array([1] * count, pa.int32()))
        .append_column("offset", pa.array(range(count), pa.int64()))
        .append_column("timestamp", pa.array([5] * count, pa.timestamp("ms", "UTC")))
    )


def test_whole_records_as_consume_prints_them_are_taken_back():
    printed = b"".join(map(render_json, rows(consumed(KEYED), lambda topic: "carrier")))
    assert b'"key":"UA"' in printed and b'"key":null' in printed
    taken = parse_rows(printed, COLUMNS, 1, "carrier")
    assert taken.select(COLUMNS.names).equals(KEYED)
    assert taken["timestamp"].cast(pa.int64()).to_pylist() == [5, 5]


def test_the_key_of_a_typed_topic_is_its_key_columns_value():
    render = compile_format("%k|%K ")
    assert b"".join(map(render, rows(consumed(KEYED), lambda topic: "carrier"))) == b"UA|2 |-1 "
    assert b"".join(map(render, rows(consumed(KEYED), lambda topic: ""))) == b"|-1 |-1 "


def test_topics_of_the_same_columns_in_one_table_have_their_own_keys():
    table = consumed(pa.table({"a": ["x", "y"], "b": [1, 2]}))
    table = table.set_column(table.column_names.index("topic"), "topic", pa.array(["t", "u"]))
    assert [row.key for row in rows(table, {"t": "a", "u": "b"}.__getitem__)] == ["x", 2]


def test_the_key_of_a_record_fills_the_key_column():
    line = b'{"key":"UA","value":{"delay":1}}'
    assert parse_rows(line, COLUMNS, 1, "carrier")["carrier"].to_pylist() == ["UA"]


def test_a_column_called_value_is_no_record():
    columns = pa.schema([("value", pa.struct([("a", pa.int64())]))])
    assert parse_rows(b'{"value":{"a":1}}', columns, 1).to_pylist() == [{"value": {"a": 1}}]
    assert parse_rows(b'{"offset":0,"value":{"value":{"a":1}}}', columns, 1).to_pylist() == [{"value": {"a": 1}}]


@pytest.mark.parametrize(
    ("line", "key_column", "about"),
    [
        (b'{"key":"UA","value":{"carrier":"AA"}}', "carrier", "is not what the key column 'carrier' has, 'AA'"),
        (b'{"key":"UA","value":{"delay":1}}', "", "the topic no key column"),
        (b'{"key":"UA","value":"text"}', "carrier", "its value is an object of carrier, delay, day"),
        (b'{"value":{"delay":1},"headers":[["a","b"]]}', "", "line 3 has headers"),
        (b'{"offset":1,"value":{"dealy":1}}', "", "did you mean 'delay'"),
        (b'{"key":"UA","valu":{"delay":1}}', "carrier", "line 3: 'key' is not a column"),
    ],
)
def test_records_that_do_not_fit_say_why(line, key_column, about):
    with pytest.raises(SchemaMismatch, match=about):
        parse_rows(line, COLUMNS, 3, key_column)
