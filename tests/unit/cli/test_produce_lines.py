"""Lines of standard input become records."""

import io

import pyarrow as pa
import pytest

from rayqueue.cli import produce, produce_lines
from rayqueue.cli.produce import Tally
from rayqueue.cli.produce_lines import send_json, send_plain, send_typed
from rayqueue.errors import SerializationError, StorageError
from rayqueue.types import RecordMetadata


class Done:
    """A future that is done."""

    def __init__(self, value, error=None):
        self.value = value
        self.error = error

    def done(self):
        return True

    def result(self):
        if self.error is not None:
            raise self.error
        return self.value


class FakeProducer:
    """Keeps what it is given; fails from record `fail_at` on."""

    def __init__(self, fail_at=None):
        self.records = []
        self.tables = []
        self.fail_at = fail_at

    def produce(self, topic, value, key=None, partition=None, headers=None, timestamp=None):
        self.records.append((value, key, partition, headers, timestamp))
        failed = self.fail_at is not None and len(self.records) >= self.fail_at
        where = RecordMetadata(topic, partition or 0, len(self.records) - 1, 0)
        return Done(where, StorageError("disk full") if failed else None)

    def produce_batch(self, topic, table):
        self.tables.append(table)
        return Done([(0, 0, table.num_rows)])


def tally():
    return Tally(lambda steps: None)


def plain(text, separator=None, partition=None, producer=None):
    producer = producer or FakeProducer()
    counted = tally()
    send_plain(producer, "t", io.BytesIO(text), counted, separator, partition)
    return producer.records, counted


def test_each_line_is_a_value():
    records, counted = plain(b"a\n\nc d\r\nlast")
    assert [value for value, *_ in records] == [b"a", b"", b"c d\r", b"last"]
    assert counted.total == 4


def test_keys_before_the_separator():
    records, _ = plain(b"u1::x::y\n", separator="::")
    assert records[0][:2] == (b"x::y", b"u1")


def test_a_line_without_separator_is_named():
    with pytest.raises(SerializationError, match="line 2"):
        plain(b"a:1\nb\nc:3\n", separator=":")


def test_reading_stops_at_the_first_error_of_a_delivery():
    producer = FakeProducer(fail_at=2)
    records, counted = plain(b"a\nb\nc\nd\n", producer=producer)
    assert len(records) == 2
    assert counted.total == 1 and counted.failed == 1 and isinstance(counted.error, StorageError)


class Pending(Done):
    """A future that is not done until it is waited for."""

    waited = False

    def done(self):
        return self.waited

    def result(self):
        self.waited = True
        return super().result()


def test_the_tally_waits_when_very_many_are_under_way(monkeypatch):
    monkeypatch.setattr(produce, "IN_FLIGHT", 10)
    counted, futures = tally(), [Pending(RecordMetadata("t", 0, n, 0)) for n in range(25)]
    for future in futures:
        counted.track(future)
    assert sum(not future.waited for future in futures) <= 10
    counted.collect()
    assert counted.total == 25


def test_the_tally_can_give_up():
    counted = tally()
    for future in (Done(RecordMetadata("t", 0, 0, 0)), Pending(RecordMetadata("t", 0, 1, 0))):
        counted.track(future)
    counted.give_up()
    counted.collect()
    assert counted.total == 1


def test_a_line_beyond_any_record(monkeypatch):
    monkeypatch.setattr(produce_lines, "MAX_LINE", 10)
    with pytest.raises(produce_lines.RecordTooLarge, match="line 2"):
        plain(b"short\nlonger than ten\n")


def test_the_tally_says_where_records_went():
    _, counted = plain(b"a\nb\n", partition=3)
    assert counted.text() == "2 records written: 2 to partition 3"
    assert counted.to_dict() == {"records": 2, "partitions": {"3": 2}, "failed": 0}


def json_lines(text, partition=None):
    producer = FakeProducer()
    send_json(producer, "t", io.BytesIO(text), tally(), partition)
    return producer.records


def test_json_records():
    line = b'{"key":"u1","value":"hi","headers":[["a","1"],["b",null]],"partition":2,"timestamp":5,"offset":9}\n'
    assert json_lines(line) == [(b"hi", b"u1", 2, [("a", b"1"), ("b", None)], 5)]


def test_json_values_that_are_no_text():
    lines = b'{"value":{"base64":"//4="}}\n\n{"value":null,"key":"k"}\n{"value":{"a":[1]},"headers":{"h":"x"}}\n'
    assert json_lines(lines) == [
        (b"\xff\xfe", None, None, None, None),
        (None, b"k", None, None, None),
        (b'{"a":[1]}', None, None, [("h", b"x")], None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[1]",
        b"{}",
        b'{"value":1,"headers":3}',
        b'{"value":1,"headers":["ab","c"]}',
        b'{"value":{"base64":"?"}}',
    ],
)
def test_what_is_no_json_record(line):
    with pytest.raises(SerializationError, match="line 2"):
        json_lines(b'{"value":"ok"}\n' + line + b"\n")


COLUMNS = pa.schema([("delay", pa.float64())])


def test_typed_lines_in_pieces():
    class Slow(io.RawIOBase):
        """Gives what was typed, piece by piece."""

        def __init__(self):
            self.pieces = [b'{"delay":1}\n{"del', b'ay":2}\n', b'{"delay":3}']

        def read1(self, size):
            return self.pieces.pop(0) if self.pieces else b""

    producer, counted = FakeProducer(), tally()
    send_typed(producer, "t", Slow(), counted, COLUMNS, None)
    assert [row["delay"] for table in producer.tables for row in table.to_pylist()] == [1.0, 2.0, 3.0]
    assert [table.num_rows for table in producer.tables] == [1, 1, 1]
    assert counted.total == 3
