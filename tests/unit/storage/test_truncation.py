"""Cutting a log back: what is kept, what a crash or a full disk leaves, and readers that were there before."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import AppendFile, FileSystem, OsFiles
from rayqueue.storage.log import Log
from rayqueue.storage.mapped import MappedLog
from tests.unit.storage.harness import (
    EVERYTHING,
    Crash,
    Dying,
    FastFiles,
    FullDisk,
    NoDescriptors,
    PowerLoss,
    batch,
    config,
    expected,
    fill,
    names,
    values,
)

SETTINGS = config(segment_bytes=4096)


def opened(directory: Path, files: FileSystem | None = None, settings: TopicConfig = SETTINGS) -> Log:
    return Log.open(files or FastFiles(), str(directory), DEFAULT_SCHEMA, settings)


@pytest.mark.parametrize("offset", range(32))
def test_a_log_cut_at_any_offset_is_the_log_before_it_and_goes_on(tmp_path: Path, offset: int) -> None:
    """Batches of three records in segments of several: cuts at their edges and within them."""
    log = opened(tmp_path / "p")
    fill(log, 10, count=3)
    assert log.segment_count > 2
    generation = log.generation
    end = log.truncate(offset)
    assert end == log.log_end_offset == min(30, offset - offset % 3)
    assert log.generation == generation + (offset < 30)
    assert values(log) == expected(0, end)
    fill(log, 4, count=3, epoch=5)
    assert values(log) == expected(0, end + 12)
    assert log.leader_epochs == [(0, 0), (5, end)] if end else [(5, 0)]
    log.close()
    again = opened(tmp_path / "p")
    assert again.repairs == [] and values(again) == expected(0, end + 12)
    assert again.leader_epochs == log.leader_epochs and again.generation == log.generation


def test_what_is_durable_ends_at_the_cut(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    fill(log, 10)
    assert log.flush() == 10
    log.truncate(7)
    assert log.flushed_offset == 7
    fill(log, 2)
    assert log.flushed_offset == 7 and log.flush() == 9


def test_snapshots_of_what_is_cut_go_with_it(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    fill(log, 4)
    log.write_snapshot(4, b"four")
    fill(log, 4)
    log.write_snapshot(8, b"eight")
    log.truncate(6)
    assert log.latest_snapshot() == (4, b"four")


def test_a_log_cut_below_its_start_begins_there(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    fill(log, 30)
    log.delete_before(20)
    log.truncate(5)
    assert (log.log_start_offset, log.log_end_offset) == (5, 5) and names(tmp_path / "p", ".arrow") == []
    fill(log, 3)
    assert values(log) == expected(5, 8)
    assert values(opened(tmp_path / "p")) == expected(5, 8)


def test_a_cut_within_the_batch_that_holds_the_start_takes_that_batch(tmp_path: Path) -> None:
    """Who follows asks for whole batches, so the log must end where one begins."""
    log = opened(tmp_path / "p")
    fill(log, 4, count=5)
    log.delete_before(12)
    log.truncate(13)
    assert (log.log_start_offset, log.log_end_offset) == (10, 10)


@pytest.mark.parametrize("start", [0, 7, 10, 50])
def test_a_log_that_is_reset_is_empty_and_begins_where_it_was_told(tmp_path: Path, start: int) -> None:
    log = opened(tmp_path / "p")
    fill(log, 10)
    log.write_snapshot(10, b"ten")
    log.flush()
    log.reset(start)
    assert (log.log_start_offset, log.log_end_offset, log.flushed_offset) == (start, start, start)
    assert log.latest_snapshot() is None and log.leader_epochs == [] and log.size_bytes == 0
    again = opened(tmp_path / "p")
    assert (again.log_start_offset, again.log_end_offset, again.leader_epochs) == (start, start, [])
    fill(log, 2, epoch=3)
    assert values(log) == expected(start, start + 2) and log.leader_epochs == [(3, start)]


def test_a_log_that_is_cut_back_to_its_start_knows_the_epoch_of_what_was_deleted_before(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    for epoch in (2, 4):
        fill(log, 5, epoch=epoch)
    log.delete_before(4)
    log.truncate(4)
    assert (log.log_start_offset, log.log_end_offset, log.leader_epochs) == (4, 4, [(2, 3)])
    assert opened(tmp_path / "p").leader_epochs == [(2, 3)]
    log.reset(4)
    assert log.leader_epochs == opened(tmp_path / "p").leader_epochs == []


def test_a_log_that_was_never_written_to_can_be_reset(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    log.reset(40)
    assert opened(tmp_path / "p").log_start_offset == 40


# --- readers --------------------------------------------------------------------------------------------------------


def test_a_slice_read_before_keeps_its_bytes(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    fill(log, 10)
    piece = log.read(0, 1 << 20, EVERYTHING)
    assert piece is not None
    before = piece.data.to_pybytes()
    log.truncate(1)
    fill(log, 30, size=300)
    assert piece.data.to_pybytes() == before


def test_a_reader_in_the_middle_of_a_read_goes_on_in_the_old_files(tmp_path: Path) -> None:
    """It has taken the segment and how far it reaches, and maps it only after the cut: with these numbers it must not
    meet the new, shorter file (SIGBUS)."""
    log = opened(tmp_path / "p", settings=config(segment_bytes=100_000))
    fill(log, 60, size=1000)
    segments = log._state.segments
    log.release()  # nothing is mapped
    log.truncate(1)
    fill(log, 1)
    for segment in segments:
        piece = segment.view().slice(segment.base_offset, 1 << 20, EVERYTHING, segment.extent)
        assert piece is not None
        (first, *_) = decode(piece.data, piece.entries, DEFAULT_SCHEMA)
        assert first.column("value")[0].as_py().startswith(b"record %d " % segment.base_offset)


def test_a_mapped_reader_that_looks_for_more_is_told_to_map_anew(tmp_path: Path) -> None:
    """(What it has mapped shows the old records: the news of a high watermark carries the generation.)"""
    log = opened(tmp_path / "p", settings=config(segment_bytes=1 << 20))
    fill(log, 10)
    mapped = MappedLog(str(tmp_path / "p"), log.generation)
    assert mapped.read(0, 100, 5) is not None
    log.truncate(6)
    fill(log, 20, size=500)
    with pytest.raises(StorageError, match="anew|although"):
        mapped.read(20, 100, 26)
    assert MappedLog(str(tmp_path / "p"), log.generation).read(6, 100, 26) is not None


# --- crashes and full disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [lambda log: log.truncate(14), lambda log: log.truncate(3), lambda log: log.reset(5)])
def test_a_crash_at_any_step_leaves_the_old_log_or_a_part_of_it_that_reaches_the_cut(
    tmp_path: Path, cut: Callable[[Log], object]
) -> None:
    ends = set()
    for steps in range(200):
        directory = tmp_path / str(steps)
        files = Dying(1 << 60)
        log = opened(directory, files)
        fill(log, 10, count=3)
        log.flush()
        files.left = steps
        try:
            cut(log)
            reached = log.log_end_offset
        except Crash:
            reached = -1
        again = opened(directory)
        found, start = values(again), again.log_start_offset
        assert found == expected(start, again.log_end_offset)
        ends.add((start, again.log_end_offset))
        fill(again, 2)
        assert values(again) == expected(start, again.log_end_offset)
        if reached >= 0:
            assert again.log_end_offset - 2 == reached
            break
    else:
        pytest.fail("it never came to its end")
    assert len(ends) > 1 and (0, 30) in ends
    assert all(end >= reached for _, end in ends)


CUTS: list[Callable[[Log], object]] = [
    lambda log: log.truncate(17),
    lambda log: log.truncate(2),
    lambda log: log.truncate(0),
    lambda log: log.reset(5),
]


def without_checkpoint(directory: Path) -> dict[str, bytes]:
    """The content of every other file in a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "checkpoint"}


@pytest.mark.parametrize("cut", CUTS)
def test_a_full_disk_at_every_byte_of_a_cut_changes_nothing_and_it_can_be_done_again(
    tmp_path: Path, cut: Callable[[Log], object]
) -> None:
    files = FullDisk()
    log = opened(tmp_path / "p", files)
    fill(log, 10, count=3)
    log.flush()
    log.note_committed(21)
    before, checkpoint, refused = without_checkpoint(tmp_path / "p"), (tmp_path / "p/checkpoint").read_bytes(), 0
    generation, epochs = log.generation, log.leader_epochs
    for room in range(0, 9000, 61):
        files.room = room
        try:
            cut(log)
            break
        except StorageError as error:
            assert log.online and "nothing has changed" in str(error)
            refused += 1
        assert without_checkpoint(tmp_path / "p") == before
        assert (tmp_path / "p/checkpoint").read_bytes() == checkpoint
        assert values(log) == expected(0, 30) and (log.flushed_offset, log.committed_offset) == (30, 21)
        assert (log.generation, log.leader_epochs) == (generation, epochs)
    assert refused > 1
    files.room = None
    start, end = log.log_start_offset, log.log_end_offset
    assert end in (0, 5, 15)
    fill(log, 3, epoch=7)
    log.flush()
    assert values(log) == expected(start, end + 3)
    assert values(opened(tmp_path / "p")) == expected(start, end + 3)


class NotEvenToMap(NoDescriptors):
    """Mapping takes a descriptor too, for a moment."""

    def map(self, path: str, length: int) -> pa.Buffer:
        if self.left == 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return super().map(path, length)


@pytest.mark.parametrize("cut", CUTS)
def test_without_a_descriptor_nothing_is_cut(tmp_path: Path, cut: Callable[[Log], object]) -> None:
    files = NotEvenToMap()
    log = opened(tmp_path / "p", files)
    fill(log, 10, count=3)
    before, refused = without_checkpoint(tmp_path / "p"), 0
    for left in range(100):
        log.release()
        files.left = left
        try:
            cut(log)
            break
        except StorageError:
            assert log.online
            refused += 1
        files.left = None
        assert without_checkpoint(tmp_path / "p") == before and values(log) == expected(0, 30)
    assert 0 < refused < 99
    files.left = None
    start, end = log.log_start_offset, log.log_end_offset
    fill(log, 3, epoch=7)
    assert values(log) == expected(start, end + 3)


@pytest.mark.parametrize("block", range(4))
def test_after_a_cut_a_power_failure_leaves_nothing_of_what_was_cut_among_what_is_new(
    tmp_path: Path, block: int, soak: int
) -> None:
    """Records of two epochs at the same offsets: whatever a power cut leaves, a record of the old epoch never follows
    one of the new, and what was flushed is there."""
    for seed in range(block * 1000, block * 1000 + 20 * soak):
        rng = random.Random(seed)
        files = PowerLoss()
        directory = tmp_path / f"{seed}"
        log = opened(directory, files)
        flushed = 0
        for epoch in range(1, rng.randint(2, 4)):
            for _ in range(rng.randint(1, 12)):
                log.append([batch(log.log_end_offset, rng.randint(1, 4), epoch=epoch)], 0)
            if rng.random() < 0.5:
                log.flush()
            cut = rng.randint(0, log.log_end_offset)
            end = log.truncate(cut)
            flushed = min(log.flushed_offset, end)
        left = tmp_path / f"{seed}-left"
        files.lose_power(str(directory), left, rng)
        files.close()
        again = opened(left, OsFiles())
        assert again.log_end_offset >= flushed
        assert values(again) == expected(again.log_start_offset, again.log_end_offset)
        epochs = [int(epoch) for entries in again.entries_from(0) for epoch in entries["leader_epoch"]]
        assert epochs == sorted(epochs)


def test_a_write_error_in_the_middle_of_a_cut_takes_the_log_offline(tmp_path: Path) -> None:
    class Broken(FastFiles):
        fail = False

        def append(self, file: AppendFile, pieces: object, total: int) -> None:
            if self.fail and file.path.endswith(".index.tmp"):
                raise OSError(5, "Input/output error")
            super().append(file, pieces, total)  # type: ignore[arg-type]

    files = Broken()
    log = opened(tmp_path / "p", files)
    fill(log, 10, count=3)
    files.fail = True
    with pytest.raises(StorageError, match="offline"):
        log.truncate(7)
    with pytest.raises(StorageError, match="offline"):
        log.read(0, 100, EVERYTHING)
    again = opened(tmp_path / "p")
    assert values(again) == expected(0, again.log_end_offset) and again.log_end_offset >= 6


def test_what_counts_as_committed_is_lowered_before_anything_is_cut(tmp_path: Path) -> None:
    """Else, after a crash, records that are appended behind the cut would count as committed."""
    files = Dying(1 << 60)
    log = opened(tmp_path / "p", files)
    fill(log, 10)
    log.note_committed(9)
    log.close()
    log = opened(tmp_path / "p", files)
    log.truncate(4)
    fill(log, 6, epoch=2)
    log.flush()
    files.left = 0  # killed here: no other checkpoint
    assert opened(tmp_path / "p").committed_offset == 4
