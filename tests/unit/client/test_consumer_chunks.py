"""Opening batches: cuts, kinds, damage, CRCs once; and how they look as rows and as tables."""

from __future__ import annotations

from typing import Any

import google_crc32c
import pyarrow as pa
import pytest

from rayqueue.client.fetching.chunk import LogChunk, Run
from rayqueue.client.fetching.layout import TopicLayout
from rayqueue.client.fetching.rows import Rows
from rayqueue.client.fetching.tables import Stretch, TableBuilder
from rayqueue.errors import CorruptRecord, SchemaMismatch
from rayqueue.protocol import batches, ipc
from rayqueue.protocol.messages import CONTROL_BATCH, LOG_APPEND_TIME, BatchHeader, TopicInfo
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.storage.index import pack_entry, unpack_entries

LAYOUT = TopicLayout(TopicInfo("t", b"t" * 16, b"", False, "", {}, []))


def chunk_of(*described: dict[str, Any], base: int = 0, check: bool = True, damaged: int = -1) -> LogChunk:
    """A chunk of batches of `count` records, as they stand in a log."""
    data, entries, at = b"", b"", 0
    for index, batch in enumerate(described):
        count, attributes = batch.get("count", 1), batch.get("attributes", 0)
        rows = 0 if attributes & CONTROL_BATCH else count
        values = [b"%d" % (base + i) for i in range(rows)]
        times = pa.array([1000 + base + i for i in range(rows)], pa.int64()).cast(TIMESTAMP_TYPE)
        columns = [pa.nulls(rows, pa.binary()), pa.array(values, pa.binary()), pa.nulls(rows, HEADERS_TYPE), times]
        message = ipc.split_message(pa.record_batch(columns, schema=DEFAULT_SCHEMA).serialize())
        head = BatchHeader(base, base + count - 1, rows, batch.get("epoch", 3), -1, -1, -1, 0, 5555, attributes, 0)
        raw, head.crc = ipc.build_header(message, head, google_crc32c.value(message.body))
        body = bytearray(message.body)
        if index == damaged:
            body[0] ^= 1
        entries += pack_entry(head, at, len(raw) + len(body), len(raw))
        data += raw + bytes(body)
        at += len(raw) + len(body)
        base += count
    return LogChunk(pa.py_buffer(data), unpack_entries(entries), check)


def opened(chunk: LogChunk, offset: int, max_bytes: int = 1 << 30) -> Run:
    run = chunk.run_at(offset, DEFAULT_SCHEMA, None, max_bytes)
    assert isinstance(run, Run)
    return run


def values(run: Run) -> list[int]:
    return [int(value) for batch in run.batches for value in batch.column("value").to_pylist()]


def test_runs_start_at_the_batch_of_the_offset_and_end_at_the_bytes_wanted() -> None:
    chunk = chunk_of({"count": 3}, {"count": 3}, {"count": 3}, base=10)
    assert (chunk.base_offset, chunk.next_offset) == (10, 19)
    run = opened(chunk, 14)
    assert (run.base_offset, run.next_offset, values(run)) == (13, 19, list(range(13, 19)))
    assert values(opened(chunk, 10, max_bytes=1)) == [10, 11, 12], "one batch at least"
    assert opened(chunk, 11) is opened(chunk, 12), "kept for the next call"


def test_bytes_before_an_offset_count_whole_batches() -> None:
    chunk = chunk_of({"count": 3}, {"count": 3}, base=10)
    first = chunk.size_before(13)
    assert chunk.size_before(12) == 0 and chunk.size_before(15) == first > 0
    assert chunk.size_before(16) == chunk.size
    assert chunk.after_batch(11) == 13


def test_a_run_has_one_epoch_and_one_kind_of_timestamp() -> None:
    chunk = chunk_of({"epoch": 1}, {"epoch": 1}, {"epoch": 2}, {"epoch": 2, "attributes": LOG_APPEND_TIME})
    assert (opened(chunk, 0).next_offset, opened(chunk, 0).leader_epoch) == (2, 1)
    assert (opened(chunk, 2).next_offset, opened(chunk, 2).append_time) == (3, False)
    last = opened(chunk, 3)
    assert last.append_time and last.batches[0].column("timestamp").cast(pa.int64()).to_pylist() == [5555]


def test_control_batches_are_stepped_over() -> None:
    chunk = chunk_of({"count": 2}, {"attributes": CONTROL_BATCH}, {"attributes": CONTROL_BATCH}, {"count": 2})
    assert opened(chunk, 0).next_offset == 2
    assert chunk.run_at(2, DEFAULT_SCHEMA, None, 1 << 30) == 4
    assert values(opened(chunk, 4)) == [4, 5]


def test_what_is_sound_before_a_damaged_batch_comes_first() -> None:
    chunk = chunk_of({"count": 2}, {"count": 2}, {"count": 2}, {"count": 2}, damaged=2)
    run = opened(chunk, 0)
    assert (values(run), run.next_offset) == ([0, 1, 2, 3], 4)
    for _ in range(2):
        with pytest.raises(CorruptRecord, match="4 to 5"):
            chunk.run_at(4, DEFAULT_SCHEMA, None, 1 << 30)
    assert values(opened(chunk, 6)) == [6, 7]
    assert opened(chunk_of({"count": 2}, damaged=0, check=False), 0).next_offset == 2


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First offsets of the batches whose CRC is compared from now on."""
    checked: list[int] = []

    def spy(data: Any, start: int, entry: Any) -> None:
        checked.append(entry[0])
        batches.check_crc(data, start, entry)

    monkeypatch.setattr("rayqueue.client.fetching.chunk.check_crc", spy)
    return checked


def test_each_crc_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = spied(monkeypatch)
    chunk = chunk_of({"count": 2}, {"count": 2})
    chunk.run_at(0, DEFAULT_SCHEMA, ("value",), 1)
    chunk.run_at(0, DEFAULT_SCHEMA, None, 1)
    chunk.run_at(2, DEFAULT_SCHEMA, None, 1)
    assert checked == [0, 2]
    chunk_of({"count": 2}, check=False).run_at(0, DEFAULT_SCHEMA, None, 1)
    assert checked == [0, 2], "it was not asked for"


def test_rows_and_messages_read_from_their_run() -> None:
    run = opened(chunk_of({"count": 3}, {"count": 3}, base=10), 10)
    rows = Rows(LAYOUT, 7, run, None, None)
    (message,) = rows.messages(4, 5)
    assert (message.topic, message.partition, message.offset, message.timestamp) == ("t", 7, 14, 1014)
    assert (message.key, message.value, message.headers, message.leader_epoch) == (None, b"14", [], 3)


def stretch(run: Run, start: int, stop: int) -> Stretch:
    made = Stretch(LAYOUT, 7, run.base_offset + start)
    made.add(run, start, stop)
    return made


def test_runs_that_follow_each_other_make_one_table() -> None:
    chunk = chunk_of({"count": 3}, {"count": 3, "epoch": 4}, {"count": 3, "epoch": 5}, base=10)
    made = Stretch(LAYOUT, 7, 11)
    for offset, start, stop in ((10, 1, 3), (13, 0, 3), (16, 0, 2)):
        made.add(opened(chunk, offset), start, stop)
    table = TableBuilder().table(made, ("value", "offset", "partition"))
    assert table.column("offset").to_pylist() == list(range(11, 18))
    assert table.column("value").to_pylist() == [b"%d" % i for i in range(11, 18)]
    assert table.column("partition").to_pylist() == [7] * 7


def test_tables_share_memory_and_count_offsets() -> None:
    run = opened(chunk_of({"count": 3}, {"count": 3}, base=10), 10)
    builder = TableBuilder()
    table = builder.table(stretch(run, 2, 5), None)
    assert table.column("offset").to_pylist() == [12, 13, 14]
    assert table.column("value").to_pylist() == [b"12", b"13", b"14"]
    assert table.column("topic").to_pylist() == ["t"] * 3 and table.column("partition").to_pylist() == [7] * 3
    ours = {chunk.buffers()[2].address for chunk in table.column("value").chunks}
    assert ours == {batch.column("value").buffers()[2].address for batch in run.batches}
    assert builder.table(stretch(run, 0, 6), ("offset",)).schema.names == ["offset"]
    assert builder.table(stretch(run, 0, 6), None).column("offset").to_pylist() == [10, 11, 12, 13, 14, 15]
    assert table.column("offset").to_pylist() == [12, 13, 14], "each table has offsets of its own"
    with pytest.raises(SchemaMismatch, match="'nothing'"):
        LAYOUT.project(("nothing",))
