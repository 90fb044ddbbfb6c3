"""Small batches without Arrow: what is written is what pyarrow reads, what is read is what pyarrow reads, and bytes
that contradict themselves are refused."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc, small_batches
from rayqueue.protocol.messages import BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, MAX_TIMESTAMP_MS, TIMESTAMP_TYPE
from rayqueue.protocol.small_batches import (
    READ_PAIRS_MAX,
    READ_RECORDS_MAX,
    WRITE_RECORDS_MAX,
    Records,
    read_batch,
    split_small,
    write_message,
)

BINARY = st.one_of(st.none(), st.just(b""), st.binary(max_size=40), st.binary(min_size=500, max_size=600))
HEADERS = st.one_of(st.none(), st.lists(st.tuples(st.text(max_size=9), BINARY), max_size=3))
RECORD = st.tuples(BINARY, BINARY, HEADERS, st.integers(0, MAX_TIMESTAMP_MS))
Columns = tuple[Any, list[Any], Any, list[int]]


@st.composite
def columns(draw: st.DrawFn, largest: int = 30) -> Columns:
    """Keys, values, headers, times; keys and headers may be left out."""
    keys, values, headers, times = map(list, zip(*draw(st.lists(RECORD, min_size=1, max_size=largest)), strict=True))
    return draw(st.sampled_from([keys, None])), values, draw(st.sampled_from([headers, None])), times


def arrow(given: Columns) -> pa.RecordBatch:
    """The same records as pyarrow makes a batch of them."""
    keys, values, headers, times = given
    count = len(values)
    return pa.record_batch(
        [
            pa.nulls(count, pa.binary()) if keys is None else pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
            pa.nulls(count, HEADERS_TYPE) if headers is None else pa.array(headers, HEADERS_TYPE),
            pa.array(times, TIMESTAMP_TYPE),
        ],
        schema=DEFAULT_SCHEMA,
    )


def in_log(message: pa.Buffer | bytes, count: int) -> bytes:
    """A message as it stands in the log."""
    split = ipc.split_message(pa.py_buffer(message))
    header = BatchHeader(0, count - 1, count, 1, -1, -1, -1, 0, 0, 0, 0)
    raw, _ = ipc.build_header(split, header, google_crc32c.value(split.body))
    return raw + split.body.to_pybytes()


def header_length(message: bytes) -> int:
    return ipc.PREFIX_SIZE + int.from_bytes(message[4:8], "little")


def read(message: bytes, count: int) -> Records | None:
    return read_batch(message, header_length(message), count)


def as_read(given: Columns) -> Columns:
    keys, values, headers, times = given
    return (
        keys or [None] * len(values),
        values,
        [[]] * len(values) if headers is None else [pairs or [] for pairs in headers],
        times,
    )


def plain(records: Records | None) -> Columns:
    assert records is not None
    headers = [[]] * len(records.values) if records.headers is None else records.headers
    return records.keys, records.values, headers, list(records.times)


def few_pairs(given: Columns) -> bool:
    return sum(len(pairs or ()) for pairs in given[2] or ()) <= READ_PAIRS_MAX


# --- writing -------------------------------------------------------------------------------------------------------


@given(columns())
def test_arrow_reads_what_was_written(given: Columns) -> None:
    message, crc = write_message(*given)
    found = pa.ipc.read_record_batch(pa.ipc.read_message(message), DEFAULT_SCHEMA)
    found.validate(full=True)
    assert found.equals(arrow(given))
    assert [column.null_count for column in found] == [column.null_count for column in arrow(given)]
    split = ipc.split_message(pa.py_buffer(message))
    assert split.codec == "none" and split.length == len(given[1])
    assert crc == ipc.wire_crc(split, google_crc32c.value(split.body))
    assert len(message) % 8 == len(split.header) % 8 == 0


@given(columns())
def test_the_body_is_byte_for_byte_that_of_arrow(given: Columns) -> None:
    keys, values, headers, times = given
    if headers is None:
        headers = [None] * len(values)  # `pa.nulls` shares one long buffer of zeros where a few bytes would do
    ours = ipc.split_message(pa.py_buffer(write_message(keys, values, headers, times)[0]))
    theirs = ipc.split_message(arrow((keys, values, headers, times)).serialize())
    assert (ours.nodes, ours.buffers) == (theirs.nodes, theirs.buffers)
    assert ours.body.equals(theirs.body)


def parts(message: ipc.IpcMessage) -> tuple[object, ...]:
    return message.length, message.nodes, message.buffers, message.codec, message.header, message.body.to_pybytes()


@given(columns())
def test_the_short_way_takes_a_message_apart_as_the_long_one_does(given: Columns) -> None:
    message = pa.py_buffer(write_message(*given)[0])
    short = split_small(message)
    assert short is not None and parts(short) == parts(ipc.split_message(message))
    theirs = arrow(given).serialize()
    short = split_small(theirs)
    assert short is None or parts(short) == parts(ipc.split_message(theirs))


def test_the_short_way_never_says_what_the_long_one_does_not() -> None:
    message = write_message([b"key"], [b"value"], [[("a", b"b")]], [5])[0]
    left = 0
    for place in range(len(message)):
        for flip in (1, 0x80):
            damaged = bytearray(message)
            damaged[place] ^= flip
            short = split_small(pa.py_buffer(bytes(damaged)))
            if short is None:
                left += 1
            else:
                assert parts(short) == parts(ipc.split_message(pa.py_buffer(bytes(damaged))))
    assert left, "no damage is seen"
    for size in range(len(message)):
        assert split_small(pa.py_buffer(message[:size])) is None


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63, 64, 65, WRITE_RECORDS_MAX])
def test_any_number_of_records(count: int) -> None:
    pairs: list[Any] = [[("name", b"v" * i)] * (i % 4) if i % 3 else None for i in range(count)]
    given: Columns = ([b"k"] * count, [b"v" * (i % 11) if i % 5 else None for i in range(count)], pairs, [7] * count)
    for keys, headers in ((given[0], given[2]), (None, None), ([None] * count, [[]] * count)):
        some: Columns = (keys, given[1], headers, given[3])
        found = pa.ipc.read_record_batch(pa.ipc.read_message(write_message(*some)[0]), DEFAULT_SCHEMA)
        found.validate(full=True)
        assert found.equals(arrow(some))


def test_large_and_unicode() -> None:
    given: Columns = ([b"\0" * 70_000], [b"x" * 150_000], [[("ключ", "значение".encode()), ("", None)]], [0])
    message, _ = write_message(*given)
    assert pa.ipc.read_record_batch(pa.ipc.read_message(message), DEFAULT_SCHEMA).equals(arrow(given))
    assert plain(read(in_log(message, 1), 1)) == as_read(given)


# --- reading -------------------------------------------------------------------------------------------------------


@given(columns())
def test_what_either_wrote_is_read_alike(given: Columns) -> None:
    count = len(given[1])
    for message in (write_message(*given)[0], arrow(given).serialize()):
        records = read(in_log(message, count), count)
        if few_pairs(given):
            assert plain(records) == as_read(given)
        else:
            assert records is None


@given(columns(), st.data())
def test_part_of_a_larger_batch(given: Columns, data: st.DataObject) -> None:
    """Arrow moves the offsets of a slice to zero, or leaves them: neither matters."""
    count = len(given[1])
    start = data.draw(st.integers(0, count - 1))
    length = data.draw(st.integers(1, count - start))
    records = read(in_log(arrow(given).slice(start, length).serialize(), length), length)
    if records is not None:
        assert plain(records) == tuple(column[start : start + length] for column in as_read(given))


def test_other_layouts_are_left_to_arrow() -> None:
    given: Columns = ([b"k"], [b"v"], None, [1])
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, DEFAULT_SCHEMA, options=options) as writer:
        writer.write_batch(arrow(given))
    schema = DEFAULT_SCHEMA.serialize().size
    compressed = sink.getvalue().slice(schema, sink.getvalue().size - schema - 8)
    assert read(in_log(compressed, 1), 1) is None
    assert read(arrow(given).serialize().to_pybytes(), 1) is None, "Arrow's own header"
    typed = pa.record_batch([pa.array([1])], names=["x"])
    assert read(in_log(typed.serialize(), 1), 1) is None
    many = READ_RECORDS_MAX + 1
    assert read(in_log(write_message(None, [b"v"] * many, None, [1] * many)[0], many), many) is None
    message = in_log(write_message(*given)[0], 1)
    for position in (20, 100, 245, 260, 395):
        assert read(message[:position] + bytes([message[position] ^ 4]) + message[position + 1 :], 1) is None, position
    assert read(message[:600], 1) is None
    for bytes_, length, rows in ((b"", 0, 1), (message, 664, 1), (message, header_length(message), 0)):
        assert read_batch(bytes_, length, rows) is None


def test_an_encoder_may_leave_out_what_says_nothing() -> None:
    """Arrow's format allows an empty array to have no offsets, and arrays to lie elsewhere than behind each other."""
    message = bytearray(in_log(write_message([b"key"], [b"value"], [None], [5])[0], 1))
    at = small_batches._BODY_AT - 16 * 17
    for buffer in (8, 9, 10, 11, 12, 13, 14):
        struct.pack_into("<qq", message, at + 16 * buffer, 0, 0)
    assert plain(read(bytes(message), 1)) == ([b"key"], [b"value"], [[]], [5])
    end = len(message) - small_batches._BODY_AT
    message += b"elsewhere" + bytes(7)
    struct.pack_into("<qq", message, at + 16 * 5, end + 4, 5)
    struct.pack_into("<q", message, ipc.BODY_LENGTH_AT, end + 16)
    assert plain(read(bytes(message), 1)) == ([b"key"], [b"where"], [[]], [5])


# --- hostile bytes ---------------------------------------------------------------------------------------------------

HOSTILE: Columns = (
    [b"first", None, b"third"],
    [b"one", b"two", None],
    [[("a", b"1"), ("b", None)], None, [("c", b"3")]],
    [1, 2, 3],
)
MESSAGE = in_log(write_message(*HOSTILE)[0], 3)
NODES_AT, BUFFERS_AT, BODY_AT = ipc.NODES_AT, small_batches._BODY_AT - 16 * 17, small_batches._BODY_AT
BUFFERS = list(struct.iter_unpack("<qq", MESSAGE[BUFFERS_AT:BODY_AT]))
LISTS, NAMES, CONTENTS, TIMES = 6, 9, 12, 15


def changed(layout: str, *changes: tuple[int, Any]) -> bytes:
    message = bytearray(MESSAGE)
    for at, value in changes:
        struct.pack_into(layout, message, at, value)
    return bytes(message)


def ends_at(column: int, place: int) -> int:
    """Where an offset of a column stands; columns by their first buffer."""
    return BODY_AT + BUFFERS[column + 1][0] + 4 * place


@pytest.mark.parametrize("column", [0, 3, LISTS, NAMES, CONTENTS])
@pytest.mark.parametrize(("place", "value"), [(0, -1), (0, 1000), (1, -5), (1, 1 << 30), (2, 0), (3, 1000), (3, -1)])
def test_offsets_that_do_not_ascend_within_the_data(column: int, place: int, value: int) -> None:
    message = changed("<i", (ends_at(column, place), value))
    if message != MESSAGE and not (value == 0 and column == LISTS):
        with pytest.raises(CorruptRecord, match="offsets"):
            read(message, 3)


@pytest.mark.parametrize("buffer", [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 16])
@pytest.mark.parametrize("value", [-1, -(1 << 63), 1 << 20, (1 << 63) - 1])
def test_buffers_outside_of_the_body(buffer: int, value: int) -> None:
    for field in (0, 8):
        with pytest.raises(CorruptRecord, match="buffer|offsets"):
            read(changed("<q", (BUFFERS_AT + 16 * buffer + field, value)), 3)


@pytest.mark.parametrize("node", [0, 1, 2, 6])
@pytest.mark.parametrize("value", [-1, 0, 2, 1 << 62])
def test_columns_of_another_length(node: int, value: int) -> None:
    with pytest.raises(CorruptRecord, match="rows where 3"):
        read(changed("<q", (NODES_AT + 16 * node, value)), 3)


@pytest.mark.parametrize("node", [0, 1, 2, 5])
@pytest.mark.parametrize("value", [-1, 2, 1 << 62])
def test_nulls_that_the_bitmap_does_not_have(node: int, value: int) -> None:
    with pytest.raises(CorruptRecord, match="nulls"):
        read(changed("<q", (NODES_AT + 16 * node + 8, value)), 3)


def test_timestamps_have_no_nulls() -> None:
    with pytest.raises(CorruptRecord, match="contradicts"):
        read(changed("<q", (NODES_AT + 16 * 6 + 8, 1)), 3)


@pytest.mark.parametrize("value", [-1, -(1 << 63), 1 << 30, 1 << 62])
def test_more_or_fewer_pairs_than_there_are(value: int) -> None:
    message = changed("<q", *((NODES_AT + 16 * node, value) for node in (3, 4, 5)))
    if value > READ_PAIRS_MAX:
        assert read(message, 3) is None
    else:
        with pytest.raises(CorruptRecord):
            read(message, 3)


@pytest.mark.parametrize(("node", "field"), [(3, 0), (4, 0), (5, 0), (3, 8), (4, 8)])
def test_odd_pairs_are_left_to_arrow(node: int, field: int) -> None:
    """Names that may be null, and more names than pairs: nobody writes them, but Arrow could say what they mean."""
    assert read(changed("<q", (NODES_AT + 16 * node + field, 2)), 3) is None


def test_a_header_name_that_is_no_text() -> None:
    with pytest.raises(CorruptRecord, match="not text"):
        read(changed("<B", (BODY_AT + BUFFERS[NAMES + 2][0], 0xFF)), 3)


def test_bodies_cut_short() -> None:
    for cut in range(BODY_AT, len(MESSAGE)):
        with pytest.raises(CorruptRecord, match="contradicts"):
            read(MESSAGE[:cut], 3)
        with pytest.raises(CorruptRecord):
            read(changed("<q", (ipc.BODY_LENGTH_AT, cut - BODY_AT))[:cut], 3)


@given(st.lists(st.tuples(st.integers(0, len(MESSAGE) - 9), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=3))
def test_whatever_the_bytes_say_it_is_an_error_or_records(changes: list[tuple[int, int]]) -> None:
    message = changed("<q", *changes)
    try:
        records = read(message, 3)
    except CorruptRecord:
        return
    if records is not None:
        assert [len(column) for column in plain(records)] == [3, 3, 3, 3]


@given(st.binary(max_size=200), st.integers(1, READ_RECORDS_MAX))
def test_a_body_of_anything(body: bytes, rows: int) -> None:
    message = bytearray(MESSAGE[:BODY_AT] + body)
    struct.pack_into("<q", message, ipc.BODY_LENGTH_AT, len(body))
    for node in (0, 1, 2, 6):
        struct.pack_into("<q", message, NODES_AT + 16 * node, rows)
    struct.pack_into("<q", message, ipc.ROWS_AT, rows)
    try:
        records = read(bytes(message), rows)
    except CorruptRecord:
        return
    assert records is None or [len(column) for column in plain(records)] == [rows] * 4
