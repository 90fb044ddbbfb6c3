"""What of a compacted log is not its records: producers, epochs, control batches and times."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import pyarrow as pa
import pytest

from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import CONTROL_BATCH, LOG_APPEND_TIME, BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, typed_log_schema
from rayqueue.storage.compaction.plan import Plan
from rayqueue.storage.compaction.reading import KeyColumns, key_columns
from rayqueue.storage.compaction.run import Work
from rayqueue.storage.index import batch_header
from rayqueue.storage.log import Log, LogBatch
from rayqueue.storage.verify import dump, verify
from tests.unit.storage.compaction.harness import (
    all_rows,
    compact,
    compact_all,
    keyed,
    records,
    settings,
)
from tests.unit.storage.harness import FastFiles

PAD = b"." * 300


def opened(directory: Path, schema: pa.Schema = DEFAULT_SCHEMA, **given: object) -> Log:
    return Log.open(FastFiles(), str(directory), schema, settings(**given))


def padded(log: Log, batches: int = 20, **options: object) -> None:
    """So much that segments before it are closed, under keys of its own."""
    for _ in range(batches):
        end = log.log_end_offset
        log.append([keyed(end, [(b"pad%d" % end, PAD)], **options)], 0)  # type: ignore[arg-type]


def headers(log: Log) -> list[BatchHeader]:
    return [batch_header(entry) for part in log.entries_from(log.log_start_offset) for entry in part]


def test_each_producers_last_batch_keeps_its_header(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    for sequence in range(4):
        for producer in (1, 2):
            log.append([keyed(log.log_end_offset, [(b"a", b"x")], 0, (producer, 3, sequence))], 0)
    log.append([keyed(log.log_end_offset, [(b"a", b"newest")])], 0)
    padded(log)
    before = {one.base_offset: one for one in headers(log)}
    compact_all(log)
    kept = [one for one in headers(log) if one.producer_id >= 0]
    assert [(one.producer_id, one.base_offset, one.base_sequence, one.record_count) for one in kept] == [
        (1, 6, 3, 1),
        (2, 7, 3, 1),
    ]
    assert all(before[one.base_offset].last_offset == one.last_offset for one in kept)
    assert [offset for offset, (key, _) in records(log).items() if key == b"a"] == [8]


def test_of_a_producer_that_is_forgotten_nothing_stays(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"min.cleanable.dirty.ratio": 0})
    for producer in (1, 2):
        log.append([keyed(log.log_end_offset, [(b"a", b"x")], 0, (producer, 0, 0))], 0)
    padded(log)
    log.append([keyed(log.log_end_offset, [(b"a", b"newest")])], 0)
    padded(log)
    compact(log, producers={1, 2})
    assert {one.producer_id for one in headers(log)} == {-1, 1, 2}
    padded(log)
    compact(log, producers={2})
    assert {one.producer_id for one in headers(log)} == {-1, 2}


def test_a_control_batch_stays_as_it_is(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    log.append([keyed(0, [(b"a", b"old")])], 0)
    rows = DEFAULT_SCHEMA.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], DEFAULT_SCHEMA)]
    message = ipc.split_message(rows[0].serialize())
    header = BatchHeader(1, 1, 1, 0, 9, 0, -1, 5, 5, CONTROL_BATCH, 0)
    raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
    log.append([LogBatch(header, raw, message.body), keyed(2, [(b"a", b"new")])], 0)
    padded(log)
    compact_all(log)
    control = [one for one in headers(log) if one.attributes & CONTROL_BATCH]
    assert [(one.base_offset, one.last_offset, one.producer_id, one.min_timestamp) for one in control] == [(1, 1, 9, 5)]
    assert records(log)[2] == (b"a", b"new") and 0 not in records(log)


def test_leader_epochs_are_known_also_without_the_checkpoint(tmp_path: Path) -> None:
    """A filler never reaches over the beginning of an epoch, so from the batches they can be told again."""
    log = opened(tmp_path / "p")
    for epoch in (0, 2, 3, 7):
        for _ in range(5):
            log.append([keyed(log.log_end_offset, [(b"a", PAD), (b"b", PAD)], epoch)], 0)
    padded(log, epoch=7)
    epochs = log.leader_epochs
    compact_all(log)
    assert sum(not one.record_count for one in headers(log)) >= 4
    log.close()
    (tmp_path / "p" / "checkpoint").unlink()
    for index in (tmp_path / "p").glob("*.index"):
        index.unlink()
    again = opened(tmp_path / "p")
    assert again.leader_epochs == epochs == [(0, 0), (2, 10), (3, 20), (7, 30)]
    assert records(again) == records(log) if log.online else True


def test_tombstones_go_when_their_time_has_come_since_they_were_first_compacted(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"delete.retention.ms": 100, "min.cleanable.dirty.ratio": 0.9})
    log.append([keyed(0, [(b"a", b"x"), (b"b", b"y")]), keyed(2, [(b"a", None), (b"c", b"z")])], 0)
    padded(log)
    assert compact(log, now_ms=1_000)
    assert {offset: one for offset, one in records(log).items() if offset < 4} == {
        1: (b"b", b"y"),
        2: (b"a", None),
        3: (b"c", b"z"),
    }
    again = opened(tmp_path / "p", **{"delete.retention.ms": 5_000_000, "min.cleanable.dirty.ratio": 0.9})
    assert compact(again, now_ms=1_099) is None, "nothing is due"
    assert compact(again, now_ms=1_100)
    assert set(records(again)) >= {1, 3} and 2 not in records(again)
    assert compact(again, now_ms=10_000) is None, "and then there is nothing that waits"


def test_a_tombstone_that_a_newer_record_supersedes_is_waited_for_no_more(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"delete.retention.ms": 100, "min.cleanable.dirty.ratio": 0})
    log.append([keyed(0, [(b"a", None), (b"b", b"y")])], 0)
    padded(log)
    assert compact(log, now_ms=1_000)
    log.append([keyed(log.log_end_offset, [(b"a", b"back")])], 0)
    padded(log)
    assert compact(log, now_ms=1_050)
    assert 0 not in records(log) and 1 in records(log)
    assert compact(log, now_ms=5_000) is None


def test_a_lookup_by_time_finds_the_first_record_that_is_left(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    for number in range(30):
        log.append([keyed(2 * number, [(b"a", PAD), (b"k%d" % number, PAD)])], 0)
    padded(log)
    compact_all(log)
    left = all_rows(log)
    assert 4 not in left and 5 in left
    for wanted in (0, 1_004, 1_005, 1_006, 1_031):
        found = log.offset_for_timestamp(wanted, log.log_end_offset)
        expected = min(offset for offset in left if 1_000 + offset >= wanted)
        assert found == (expected, 1_000 + expected)


def test_times_of_the_log_stay_the_logs(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    for number in range(3):
        entry, _, body = keyed(2 * number, [(b"a", b"x"), (b"k%d" % number, b"y")])
        entry.attributes |= LOG_APPEND_TIME
        entry.min_timestamp = entry.max_timestamp = 77 + number
        message = ipc.split_message(
            pa.py_buffer(keyed(2 * number, [(b"a", b"x"), (b"k%d" % number, b"y")]).header + body.to_pybytes())
        )
        raw, entry.crc = ipc.build_header(message, entry, google_crc32c.value(body))
        log.append([LogBatch(entry, raw, body)], 0)
    padded(log)
    compact_all(log)
    stamps = {offset: row["timestamp"].timestamp() for offset, row in all_rows(log).items() if offset < 6}  # type: ignore[attr-defined]
    assert stamps == {1: 0.077, 3: 0.078, 4: 0.079, 5: 0.079}


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_all_columns_of_what_stays_are_as_they_were(tmp_path: Path, codec: str | None) -> None:
    log = opened(tmp_path / "p")
    for number in range(30):
        added = [(b"k%d" % (i % 7), None if i % 5 == 0 else b"v%d" % i * 20) for i in range(number, number + 6)]
        log.append([keyed(log.log_end_offset, added, codec=codec)], 0)
    padded(log)
    before = all_rows(log)
    compact_all(log)
    left = all_rows(log)
    assert len(left) < len(before) / 3
    assert left == {offset: before[offset] for offset in left}
    reports = list(verify(str(tmp_path / "p")))
    assert [problem for report in reports for problem in report.problems] == []
    assert sum(report.records for report in reports) == len(left)
    with pa.ipc.open_stream(pa.OSFile(next(dump(str(tmp_path / "p"))).path)) as stream:  # any Arrow tool reads it
        table = stream.read_all()
    assert set(table["offset"].to_pylist()) <= set(left)


def test_a_typed_topic_by_its_key_column(tmp_path: Path) -> None:
    schema = typed_log_schema(pa.schema([("id", pa.int64()), ("tags", pa.list_(pa.string())), ("n", pa.float32())]))
    log = opened(tmp_path / "p", schema)
    columns = key_columns(schema, True, "id")
    assert columns == KeyColumns("id", ("tags", "n"))
    rows = [{"id": i % 4, "tags": ["t"] * 30 if i % 4 else None, "n": None, "timestamp": i} for i in range(60)]
    for at in range(0, 60, 3):
        message = ipc.split_message(pa.RecordBatch.from_pylist(rows[at : at + 3], schema).serialize())
        header = BatchHeader(at, at + 2, 3, 0, -1, -1, -1, at, at + 2, 0, 0)
        raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
        log.append([LogBatch(header, raw, message.body)], 0)
    closed = [one for one in log._state.segments if one.closed][-1].next_offset
    assert closed > 20
    assert log.compact(Plan(0, closed), Work(1_000, columns, (1, 2))).segments
    left = all_rows(log, schema)
    newest = {i % 4: i for i in range(closed)}
    assert {offset for offset in left if offset < closed} == set(newest.values())
    log.update_config(settings(**{"min.cleanable.dirty.ratio": 1}))
    due = log.compaction_due(1_000 + 86_400_000, 60)
    assert due is not None
    log.compact(due, Work(1_000 + 86_400_000, columns, (3, 4)))
    assert newest[0] not in all_rows(log, schema), "a row that has nothing but its key is a tombstone"
    assert key_columns(schema, True, "") is None


def test_retention_takes_compacted_segments_too(tmp_path: Path) -> None:
    both = {"cleanup.policy": "compact,delete", "retention.bytes": 9_000}
    log = opened(tmp_path / "p", **both)
    padded(log, 60)
    compact_all(log)
    start = log.log_start_offset
    assert log.enforce_retention(0, log.log_end_offset) and log.log_start_offset > start
    only = opened(tmp_path / "q", **{"retention.bytes": 9_000, "retention.ms": 1})
    padded(only, 60)
    assert not only.enforce_retention(1 << 50, only.log_end_offset), "the policy does not say delete"


def test_an_active_segment_is_closed_when_its_records_have_waited_long_enough(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"max.compaction.lag.ms": 1_000})
    log.append([keyed(0, [(b"a", b"1")]), keyed(1, [(b"a", b"2")])], 5_000)
    log.enforce_retention(6_000, 2)
    assert compact(log, now_ms=6_000) is None
    log.enforce_retention(6_001, 2)
    assert compact(log, now_ms=6_001)
    assert records(log) == {1: (b"a", b"2")}
    log.append([keyed(2, [(b"b", b"3")])], 7_000)
    log.close()
    assert records(opened(tmp_path / "p")) == {1: (b"a", b"2"), 2: (b"b", b"3")}


def test_a_damaged_batch_ends_it_and_costs_nothing_else(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    padded(log, 60)
    for _ in range(60):
        log.append([keyed(log.log_end_offset, [(b"pad1", PAD)])], 0)
    log.flush()
    path = sorted((tmp_path / "p").glob("*.arrow"))[2]
    data = bytearray(path.read_bytes())
    data[-700] ^= 1
    path.write_bytes(data)
    log.release()
    before = {one.name: one.read_bytes() for one in (tmp_path / "p").glob("*.arrow")}
    with pytest.raises(CorruptRecord):
        compact_all(log)
    assert {one.name: one.read_bytes() for one in (tmp_path / "p").glob("*.arrow")} == before and log.online
