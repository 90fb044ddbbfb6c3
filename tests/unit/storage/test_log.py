"""Appending and reading back: offsets, limits, sizes, segments, and the way to Arrow."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from rayqueue.errors import CorruptRecord, OffsetOutOfRange, StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import OsFiles
from rayqueue.storage.index import batch_header
from rayqueue.storage.log import Log, LogBatch
from tests.unit.storage.harness import EVERYTHING, FastFiles, batch, config, expected, fill, names, value, values


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def test_nothing_is_on_disk_before_the_first_append(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    assert (log.log_start_offset, log.log_end_offset, log.segment_count, log.size_bytes) == (0, 0, 0, 0)
    assert log.read(0, 1, EVERYTHING) is None
    assert log.offset_for_timestamp(0, EVERYTHING) is None
    assert log.flush() == 0
    assert not log.enforce_retention(10**15, EVERYTHING)
    log.close()
    assert not (tmp_path / "p").exists()


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    assert not log.append([batch(0, 3), batch(3, 1)], 5)
    assert not log.append([batch(4, 2)], 5)
    assert log.log_end_offset == 6
    assert values(log) == expected(0, 6)
    log.close()
    again = open_log(tmp_path / "p")
    assert again.repairs == []
    assert values(again) == expected(0, 6)


def test_a_slice_holds_whole_batches_from_the_one_with_the_offset(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    log.append([batch(0, 3), batch(3, 3), batch(6, 3), batch(9, 3)], 0)
    length = int(log.read(0, 1, EVERYTHING).entries["length"][0])
    one = log.read(4, 1, EVERYTHING)
    assert (one.base_offset, one.next_offset, len(one.entries)) == (3, 6, 1)
    assert log.read(4, 2 * length, EVERYTHING).next_offset == 9
    assert log.read(4, 2 * length - 1, EVERYTHING).next_offset == 6
    assert log.read(0, 4 * length, EVERYTHING).next_offset == 12
    assert log.read(0, 4 * length - 1, EVERYTHING).next_offset == 9
    assert log.read(4, 1 << 20, EVERYTHING).next_offset == 12


def test_nothing_above_the_limit_is_read(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    log.append([batch(0, 3), batch(3, 3), batch(6, 3)], 0)
    assert log.read(0, 1 << 20, 6).next_offset == 6
    assert log.read(0, 1 << 20, 8).next_offset == 6
    assert log.read(6, 1 << 20, 8) is None
    assert log.read(6, 1 << 20, 6) is None
    assert log.read(9, 1 << 20, 100) is None


def test_offsets_outside_of_the_log_are_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    log.delete_before(2)
    for offset in (0, 1, 6, -1):
        with pytest.raises(OffsetOutOfRange, match=str(offset)):
            log.read(offset, 1, EVERYTHING)
    assert log.read(2, 1, EVERYTHING).base_offset == 2


def test_entries_say_what_the_header_said(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    first, second = batch(0, 3, 77, epoch=4, producer=(9, 2, 11), attributes=3), batch(3, 1, 70, epoch=6)
    log.append([first, second], 0)
    found = [batch_header(entry) for entries in log.entries_from(0) for entry in entries]
    assert found == [first.entry, second.entry]
    assert [len(e) for e in log.entries_from(3)] == [1]
    assert [len(e) for e in log.entries_from(4)] == []
    assert log.leader_epochs == [(4, 0), (6, 3)]


def test_batches_must_continue_the_log(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 2)
    for wrong in ([batch(3)], [batch(1)], [batch(2), batch(4)]):
        with pytest.raises(OffsetOutOfRange):
            log.append(wrong, 0)
    good = batch(2)
    with pytest.raises(CorruptRecord):
        log.append([LogBatch(good.entry, good.header, good.body.slice(0, good.body.size - 3))], 0)
    log.append([good], 0)
    assert values(log) == expected(0, 3)


def test_it_rolls_by_size_and_every_segment_is_a_plain_arrow_stream(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    rolled = [log.append([batch(offset)], 0) for offset in range(30)]
    assert rolled[0] is False and sum(rolled) == log.segment_count - 1 >= 5
    seen = 0
    for name in names(tmp_path / "p", ".arrow"):
        path = tmp_path / "p" / name
        assert int(name[:20]) == seen
        assert path.stat().st_size <= 4096 + len(END_OF_STREAM)
        assert path.read_bytes().endswith(END_OF_STREAM) == (name != names(tmp_path / "p", ".arrow")[-1])
        with pa.ipc.open_stream(path.open("rb")) as stream:
            assert stream.schema.equals(DEFAULT_SCHEMA)
            for rows in stream:
                assert rows.column("value").to_pylist() == expected(seen, seen + rows.num_rows)
                seen += rows.num_rows
    assert seen == 30
    assert values(log) == expected(0, 30)


def test_a_group_larger_than_a_segment_is_spread(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    assert log.append([batch(offset) for offset in range(40)], 0)
    assert log.segment_count >= 7
    assert values(log) == expected(0, 40)
    log.append([batch(40, size=9000)], 0)
    log.append([batch(41)], 0)
    assert [int(n[:20]) for n in names(tmp_path / "p", ".arrow")][-2:] == [40, 41]


def test_it_rolls_by_age_on_the_wall_clock(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_ms=1000)
    assert not log.append([batch(0)], 10_000)
    assert not log.append([batch(1)], 10_999)
    assert log.append([batch(2)], 11_000)
    assert not log.append([batch(3)], 11_500)
    log.close()
    again = open_log(tmp_path / "p", segment_ms=1000)
    assert not again.append([batch(4)], 11_999)
    assert again.append([batch(5)], 12_000)


def test_a_growing_segment_opens_with_plain_pyarrow(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    path = tmp_path / "p" / f"{0:020d}.arrow"
    for count in (1, 2, 5):
        fill(log, count)
        with pa.ipc.open_stream(path.open("rb")) as stream:
            assert stream.read_all().column("value").to_pylist() == expected(0, log.log_end_offset)


def test_reads_share_memory_with_the_mapping(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 3, size=5000)
    first, second = log.read(0, 1 << 20, EVERYTHING), log.read(1, 1, EVERYTHING)
    assert second.data.address == first.data.address + int(second.entries["position"][0] - first.entries["position"][0])
    rows = decode(second.data, second.entries, DEFAULT_SCHEMA)[0]
    where = rows.column("value").buffers()[2].address
    assert second.data.address < where < second.data.address + second.data.size
    fill(log, 1, size=5000)  # still the same mapping
    assert log.read(0, 1 << 20, EVERYTHING).data.address == first.data.address


def test_a_mapping_grows_with_its_file(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=1 << 30)
    held = []
    for offset in range(12):
        log.append([batch(offset, size=3 << 20)], 0)
        piece = log.read(offset, 1, EVERYTHING)
        held.append(decode(piece.data, piece.entries, DEFAULT_SCHEMA)[0])
    for offset, rows in enumerate(held):
        assert rows.column("value")[0].as_buffer().slice(0, 12).to_pybytes() == value(offset, 3 << 20)[:12]


def test_slices_outlive_the_log_and_its_files(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 3)
    piece = log.read(0, 1 << 20, EVERYTHING)
    log.delete()
    assert not (tmp_path / "p").exists()
    assert [b.column("value")[0].as_py() for b in decode(piece.data, piece.entries, DEFAULT_SCHEMA)] == expected(0, 3)
    with pytest.raises(StorageError, match="closed"):
        log.read(0, 1, EVERYTHING)
    log.delete()


def test_a_closed_log_refuses_everything(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 1)
    log.close()
    log.close()
    for call in (lambda: log.append([batch(1)], 0), log.flush, lambda: log.read(0, 1, 1), lambda: log.delete_before(1)):
        with pytest.raises(StorageError, match="closed"):
            call()


def test_idle_logs_hold_no_descriptor_and_come_back(tmp_path: Path) -> None:
    log = Log.open(OsFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    fill(log, 2)
    values(log)
    log.enforce_retention(0, 0)
    assert open_under(tmp_path) == 2
    log.enforce_retention(0, 0)
    assert open_under(tmp_path) == 0
    assert log.flush() == 2
    fill(log, 1)
    assert values(log) == expected(0, 3)
    log.close()
    assert open_under(tmp_path) == 0
    log = Log.open(OsFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    assert open_under(tmp_path) == 0


def open_under(directory: Path) -> int:
    """Descriptors of this process on files below a directory."""
    found = 0
    for descriptor in os.listdir("/dev/fd"):
        try:
            held = os.stat(int(descriptor))
        except OSError:
            continue
        paths = [path for path in directory.rglob("*") if path.is_file()]
        found += any((held.st_dev, held.st_ino) == (path.stat().st_dev, path.stat().st_ino) for path in paths)
    return found


def test_flush_says_how_far_it_is_durable(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    assert log.flushed_offset == 0
    fill(log, 3)
    assert log.flush() == 3 == log.flushed_offset
    fill(log, 20)
    assert log.flushed_offset < 23
    assert log.flush() == 23


def test_new_settings_hold_from_the_next_append(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 3)
    log.update_config(config(segment_bytes=1024))
    fill(log, 1)
    assert log.segment_count == 2
