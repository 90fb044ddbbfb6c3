"""JSON lines as the columns of a typed topic."""

import datetime
import decimal

import pyarrow as pa
import pytest

from rayqueue.cli.json_rows import parse_rows
from rayqueue.cli.record_format import compile_format
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
