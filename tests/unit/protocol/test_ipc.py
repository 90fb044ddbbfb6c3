"""The batch header in the log: what Arrow makes of it, what it says, and what happens to foreign bytes."""

from __future__ import annotations

import google_crc32c
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import BatchHeader

INT64 = st.integers(-(2**63), 2**63 - 1)
TYPES = [
    pa.array([1, 2, None], pa.int64()),
    pa.array(["a", None, "ccc"]),
    pa.array([[1], [], None], pa.list_(pa.int8())),
    pa.array([{"x": 1}, None, {"x": 3}], pa.struct([("x", pa.int16())])),
    pa.array([[("k", b"v")], [], None], pa.map_(pa.string(), pa.binary())),
    pa.nulls(3),
    pa.array([True, None, False]),
    pa.array([b"ab", b"cd", None], pa.binary(2)),
]
BATCH = pa.record_batch(TYPES, names=[f"c{i}" for i in range(len(TYPES))])


@st.composite
def headers(draw: st.DrawFn) -> BatchHeader:
    base = draw(st.integers(0, 2**62))
    return BatchHeader(
        base_offset=base,
        last_offset=base + draw(st.integers(0, 2**31 - 1)),
        record_count=draw(st.integers(0, 2**31 - 1)),
        leader_epoch=draw(st.integers(-1, 2**31 - 1)),
        producer_id=draw(INT64),
        producer_epoch=draw(st.integers(-1, 2**15 - 1)),
        base_sequence=draw(st.integers(-1, 2**31 - 1)),
        min_timestamp=draw(INT64),
        max_timestamp=draw(INT64),
        attributes=draw(st.integers(0, 2**16 - 1)),
        crc=0,
    )


PLAIN = BatchHeader(0, 2, 3, 1, -1, -1, -1, 5, 6, 0, 0)


def in_log(
    batch: pa.RecordBatch, header: BatchHeader = PLAIN, codec: str | None = None
) -> tuple[bytes, pa.Buffer, int]:
    message = ipc.split_message(as_message(batch, codec))
    raw, crc = ipc.build_header(message, header, google_crc32c.value(message.body))
    return raw, message.body, crc


def as_message(batch: pa.RecordBatch, codec: str | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
        end = sink.tell()
    start = batch.schema.serialize().size
    return sink.getvalue().slice(start, end - start)


@given(headers())
def test_a_header_reads_as_it_was_written(header: BatchHeader) -> None:
    raw, body, crc = in_log(BATCH, header)
    found = ipc.read_header(raw)
    header.crc = crc
    assert found == header
    assert ipc.body_length(raw) == body.size
    assert ipc.message_crc(raw, body) == crc
    assert len(raw) % 8 == 0


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_arrow_reads_the_message_as_if_it_were_its_own(codec: str | None, rows: int) -> None:
    batch = BATCH.slice(0, rows)
    raw, body, _ = in_log(batch, codec=codec)
    message = pa.py_buffer(raw + body.to_pybytes())
    assert pa.ipc.read_record_batch(message, BATCH.schema).equals(batch)
    as_stream = BATCH.schema.serialize().to_pybytes() + message.to_pybytes()
    with pa.ipc.open_stream(as_stream) as stream:
        found, metadata = stream.read_next_batch_with_custom_metadata()
    found.validate(full=True)
    assert found.equals(batch)
    assert len(metadata[b"rayqueue"]) == ipc.VALUE_DIGITS


def test_the_body_shares_memory_with_the_message() -> None:
    message = BATCH.serialize()
    split = ipc.split_message(message)
    assert split.body.address == message.address + len(split.header)
    assert split.length == 3 and split.codec == "none"


@given(st.data())
def test_any_flipped_bit_changes_the_crc(data: st.DataObject) -> None:
    raw, body, crc = in_log(BATCH)
    content = bytearray(raw + body.to_pybytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    damaged, rest = bytes(content[: len(raw)]), pa.py_buffer(bytes(content[len(raw) :]))
    if not ipc.CRC_AT <= position < ipc.CRC_END:
        assert ipc.message_crc(damaged, rest) != crc
        return
    try:  # in the digits of the CRC itself; "A" for "a" says the same
        assert ipc.read_header(damaged).crc != crc or bytes(content[position : position + 1]).isupper()
    except CorruptRecord:
        assert not content[position : position + 1].isalnum() or chr(content[position]) not in "0123456789abcdefABCDEF"


def test_the_crc_of_the_wire_covers_header_and_body() -> None:
    message = BATCH.serialize()
    split = ipc.split_message(message)
    crc = ipc.wire_crc(split, google_crc32c.value(split.body))
    assert crc == google_crc32c.value(split.body.to_pybytes() + split.header)


@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(CorruptRecord):
        ipc.split_message(pa.py_buffer(data))


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_damaged_or_cut_message_is_a_typed_error_or_a_message(codec: str | None) -> None:
    content = as_message(BATCH, codec).to_pybytes()
    for cut in range(0, len(content), 3):
        with pytest.raises(CorruptRecord):
            ipc.split_message(pa.py_buffer(content[:cut]))
    refused = 0
    for position in range(8, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        try:
            split = ipc.split_message(pa.py_buffer(bytes(damaged)))
        except CorruptRecord:
            refused += 1
        else:  # damage inside the body, or that the flatbuffer does not show: the CRC is for those
            assert len(split.header) + split.body.size == len(content)
    assert refused > 10


def test_other_messages_are_refused() -> None:
    with pytest.raises(CorruptRecord, match="schemas and dictionaries"):
        ipc.split_message(BATCH.schema.serialize())


def test_a_header_without_ours_is_refused() -> None:
    with pytest.raises(CorruptRecord, match="damaged"):
        ipc.read_header(ipc.split_message(BATCH.serialize()).header)
    with pytest.raises(CorruptRecord):
        ipc.body_length(b"short")
    raw, _, _ = in_log(BATCH)
    newer = raw[: ipc.VALUE_AT] + b"63" + raw[ipc.VALUE_AT + 2 :]
    with pytest.raises(CorruptRecord, match="version 99"):
        ipc.read_header(newer)
