"""From the log back to Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.errors import CorruptRecord, SchemaMismatch
from rayqueue.protocol.batches import ENTRY, ENTRY_SIZE, Entries, decode, sound_entries
from rayqueue.protocol.messages import COMPRESSION_CODES, CONTROL_BATCH, LOG_APPEND_TIME
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.appender import LogBatch
from rayqueue.storage.index import batch_header, pack_entry, unpack_entries, unpack_headers
from tests.unit.storage.harness import batch, expected

START = 424  # where the first message of a segment might stand


def run(*batches: LogBatch) -> tuple[pa.Buffer, Entries]:
    """The batches back to back, and their entries."""
    data, packed = b"", b""
    for header, raw, body in batches:
        length = len(raw) + body.size
        packed += pack_entry(header, START + len(data), length, len(raw))
        data += raw + body.to_pybytes()
    return pa.py_buffer(data), np.frombuffer(packed, ENTRY)


def flipped(data: pa.Buffer, position: int) -> pa.Buffer:
    content = bytearray(data.to_pybytes())
    content[position] ^= 8
    return pa.py_buffer(bytes(content))


def test_an_entry_is_eighty_bytes_and_reads_as_it_was_packed() -> None:
    header = batch(7, 3, 99, epoch=5, producer=(1 << 40, 3, 2**31 - 1), attributes=0x118).entry
    (entry,) = np.frombuffer(pack_entry(header, 1 << 40, 5000, 700), ENTRY)
    assert ENTRY_SIZE == 80
    assert batch_header(entry) == header
    assert (entry["position"], entry["length"], entry["header_length"]) == (1 << 40, 5000, 700)


def test_batches_come_back_without_a_copy() -> None:
    data, entries = run(batch(0, 3), batch(3, 2))
    first, second = decode(data, entries, DEFAULT_SCHEMA)
    assert first.schema.equals(DEFAULT_SCHEMA)
    assert first.column("value").to_pylist() + second.column("value").to_pylist() == expected(0, 5)
    for rows in (first, second):
        address = rows.column("value").buffers()[2].address
        assert data.address < address < data.address + data.size


def test_a_part_of_a_run() -> None:
    data, entries = run(batch(0, 3), batch(3, 2), batch(5))
    middle = data.slice(int(entries["position"][1]) - START)
    assert [b.num_rows for b in decode(middle, entries[1:], DEFAULT_SCHEMA)] == [2, 1]
    assert decode(data, entries[:0], DEFAULT_SCHEMA) == []


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_columns_are_chosen_in_the_order_asked(codec: str | None) -> None:
    attributes = COMPRESSION_CODES[codec or "none"]
    data, entries = run(batch(0, 3, codec=codec, attributes=attributes))
    (whole,) = decode(data, entries, DEFAULT_SCHEMA)
    for columns in (["timestamp", "key"], ["value"], []):
        (some,) = decode(data, entries, DEFAULT_SCHEMA, columns)
        assert some.schema.names == columns
        assert all(some.column(name).equals(whole.column(name)) for name in columns)
        assert some.num_rows == 3 or not columns
    with pytest.raises(SchemaMismatch, match="no column colour; the columns are key, value"):
        decode(data, entries, DEFAULT_SCHEMA, ["colour"])


def test_append_time_is_every_records_timestamp() -> None:
    data, entries = run(batch(0, 3, timestamp=50, attributes=LOG_APPEND_TIME))
    (rows,) = decode(data, entries, DEFAULT_SCHEMA)
    assert rows.column("timestamp").cast(pa.int64()).to_pylist() == [52, 52, 52]
    assert rows.schema.equals(DEFAULT_SCHEMA)
    (some,) = decode(data, entries, DEFAULT_SCHEMA, ["key"])
    assert some.schema.names == ["key"]


def test_a_control_batch_has_no_rows() -> None:
    empty = batch(2, 0)
    header = empty.entry
    header.last_offset, header.record_count, header.attributes = 2, 1, CONTROL_BATCH
    length = len(empty.header) + empty.body.size
    entry = np.frombuffer(pack_entry(header, START, length, len(empty.header)), ENTRY)
    (rows,) = decode(pa.py_buffer(empty.header + empty.body.to_pybytes()), entry, DEFAULT_SCHEMA, check_crc=False)
    assert rows.num_rows == 0


def test_any_flipped_bit_is_found_and_the_offsets_are_named() -> None:
    data, entries = run(batch(10, 3), batch(13, 2))
    border = int(entries["position"][1]) - START
    for position in range(0, data.size, 29):
        with pytest.raises(CorruptRecord, match="offsets 10 to 12" if position < border else "offsets 13 to 14"):
            decode(flipped(data, position), entries, DEFAULT_SCHEMA)


def test_any_flipped_bit_of_an_entry_is_found() -> None:
    data, entries = run(batch(10, 3), batch(13, 2))
    for position in range(2 * ENTRY_SIZE):
        damaged = unpack_entries(flipped(pa.py_buffer(entries.tobytes()), position).to_pybytes())
        assert sound_entries(damaged) == position // ENTRY_SIZE
        with pytest.raises(CorruptRecord, match="index entry"):
            decode(data, damaged, DEFAULT_SCHEMA)


def test_data_cut_short_is_found_also_without_the_check() -> None:
    data, entries = run(batch(10, 3), batch(13, 2))
    for check in (True, False):
        with pytest.raises(CorruptRecord, match="offsets 13 to 14 is cut short"):
            decode(data.slice(0, data.size - 8), entries, DEFAULT_SCHEMA, check_crc=check)


def test_another_schema_is_found() -> None:
    data, entries = run(batch(0, 3))
    with pytest.raises(CorruptRecord, match="its topic's schema"):
        decode(data, entries, pa.schema([("only", pa.list_(pa.list_(pa.int64())))] * 4))


def test_a_count_that_is_not_the_batchs_is_found() -> None:
    whole = batch(0, 3)
    whole.entry.record_count = 4
    data, entries = run(whole)
    with pytest.raises(CorruptRecord, match="3 rows where 4"):
        decode(data, entries, DEFAULT_SCHEMA, check_crc=False)


def test_entries_from_the_wire_must_be_whole() -> None:
    with pytest.raises(CorruptRecord, match="81 bytes"):
        unpack_entries(b"x" * 81)
    assert len(unpack_entries(b"")) == 0


def test_headers_from_the_wire_are_those_of_the_entries_and_no_flipped_bit_passes() -> None:
    _, entries = run(batch(10, 3), batch(13, 2))
    raw = entries.tobytes()
    expected = [(batch_header(e), int(e["length"]), int(e["header_length"])) for e in entries]
    assert unpack_headers(raw) == expected
    assert unpack_headers(b"") == []
    for position in range(len(raw)):
        with pytest.raises(CorruptRecord, match="damaged"):
            unpack_headers(flipped(pa.py_buffer(raw), position).to_pybytes())
    with pytest.raises(CorruptRecord, match="81 bytes"):
        unpack_headers(b"x" * 81)
