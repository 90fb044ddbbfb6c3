"""A full disk harms nothing; a failing one takes the log offline; neither leaves records that nobody acked."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from rayqueue.errors import StorageError
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import AppendFile, OsFiles, Piece
from rayqueue.storage.log import Log
from tests.unit.storage.harness import (
    EVERYTHING,
    BrokenDisk,
    FastFiles,
    FullDisk,
    NoDescriptors,
    batch,
    config,
    expected,
    fill,
    values,
)

SETTINGS = config(segment_bytes=4096)


def without_checkpoint(directory: Path) -> dict[str, bytes]:
    """The content of every other file in a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "checkpoint"}


def test_a_full_disk_at_every_byte_of_an_append(tmp_path: Path) -> None:
    """A group that rolls twice, with room for ever more of it: all or nothing, and the log goes on."""
    files = FullDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 3)
    group = [batch(3 + i) for i in range(9)]
    before, start, refused = without_checkpoint(tmp_path / "p"), log.read(0, 1 << 20, EVERYTHING).data.to_pybytes(), 0
    for room in [*range(0, 9000, 97), 1 << 20]:
        files.room = room
        try:
            log.append(group, 0)
        except StorageError as error:
            assert "free space" in str(error)
            refused += 1
        else:
            break
        assert without_checkpoint(tmp_path / "p") == before
        assert log.log_end_offset == 3
        assert log.read(0, 1 << 20, EVERYTHING).data.to_pybytes() == start
    assert refused > 50
    assert log.segment_count == 3
    files.room = None
    fill(log, 1)
    log.flush()
    assert values(log) == expected(0, 13)
    assert values(Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)) == expected(0, 13)


def test_a_full_disk_at_the_first_append(tmp_path: Path) -> None:
    files = FullDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    for room in (0, 100, 600, 1150):
        files.room = room
        with pytest.raises(StorageError, match="No space left"):
            fill(log, 1)
        assert without_checkpoint(tmp_path / "p") == {}
    files.room = None
    fill(log, 1)
    assert values(log) == expected(0, 1)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_too_many_open_files_refuse_an_append_and_harm_nothing(tmp_path: Path, left: int) -> None:
    """The third batch begins the second segment, so every place where a file is opened has its turn."""
    files = NoDescriptors()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, config(segment_bytes=2500))
    files.left = left
    if left < 2:
        with pytest.raises(StorageError, match="limit of open files"):
            log.append([batch(0)], 0)
        assert log.log_end_offset == 0
    else:
        fill(log, 2)
        with pytest.raises(StorageError, match="limit of open files"):
            log.append([batch(2), batch(3), batch(4)], 0)
        assert log.log_end_offset == 2 and values(log) == expected(0, 2)
    files.left = None
    fill(log, 5 - log.log_end_offset)
    assert values(log) == expected(0, 5)
    assert values(Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)) == expected(0, 5)


def test_a_full_disk_where_nothing_can_be_taken_back_is_offline(tmp_path: Path) -> None:
    files = FullDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 3)
    files.room, files.truncate_fails = 300, True
    with pytest.raises(StorageError, match="offline"):
        fill(log, 1)
    files.room, files.truncate_fails = None, False
    refuses_everything(log)
    recovered = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    assert values(recovered) == expected(0, 3)


def refuses_everything(log: Log) -> None:
    calls = (
        lambda: log.append([batch(log.log_end_offset)], 0),
        log.flush,
        lambda: log.read(0, 1, EVERYTHING),
        lambda: log.delete_before(1),
        lambda: log.enforce_retention(0, 0),
        lambda: log.offset_for_timestamp(0, EVERYTHING),
        lambda: list(log.entries_from(0)),
        lambda: log.write_snapshot(0, b""),
        log.latest_snapshot,
    )
    for call in calls:
        with pytest.raises(StorageError, match="offline"):
            call()


def test_a_failed_fsync_is_never_tried_again(tmp_path: Path) -> None:
    files = BrokenDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 3)
    files.fail_sync = True
    with pytest.raises(StorageError, match="offline"):
        log.flush()
    syncs = files.syncs
    assert log.flushed_offset == 0
    refuses_everything(log)
    log.close()
    assert files.syncs == syncs


def test_an_error_of_the_disk_in_a_write_is_offline(tmp_path: Path) -> None:
    files = BrokenDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 3)
    files.fail_write = True
    with pytest.raises(StorageError, match="offline.*restart"):
        fill(log, 1)
    refuses_everything(log)
    assert values(Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)) == expected(0, 3)


def test_a_failed_checkpoint_while_deleting_is_offline_and_deletes_nothing(tmp_path: Path) -> None:
    files = BrokenDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 12)
    files.fail_sync = True
    with pytest.raises(StorageError, match="offline"):
        log.delete_before(11)
    assert values(Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)) == expected(0, 12)


def test_a_full_disk_under_a_snapshot_only_costs_the_snapshot(tmp_path: Path) -> None:
    files = FullDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 1)
    log.write_snapshot(1, b"one")
    files.room = 3
    with pytest.raises(StorageError, match="snapshot"):
        log.write_snapshot(1, b"another")
    files.room = None
    assert log.latest_snapshot() == (1, b"one")
    fill(log, 1)


def test_deleting_makes_room_on_a_full_disk(tmp_path: Path) -> None:
    """Retention is how a full disk empties: it must not need room for that, where it frees whole segments."""

    class Freed(FullDisk):
        def remove(self, path: str) -> None:
            super().remove(path)
            if self.room is not None and path.endswith(".arrow"):
                self.room += 4096

    files = Freed()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 20)
    files.room = 0
    assert log.flush() == 20
    assert log.delete_before(11) == 11
    assert values(log) == expected(11, 20)
    assert log.delete_before(20) == 20
    assert log.segment_count == 0
    again = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    assert (again.log_start_offset, again.log_end_offset) == (20, 20)


def test_deletion_within_a_segment_of_a_full_disk_is_refused_and_undone(tmp_path: Path) -> None:
    files = FullDisk()
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, SETTINGS)
    fill(log, 20)
    second = log.read(0, 1 << 20, EVERYTHING).next_offset
    files.room = 0
    for offset in (second + 1, 20):
        with pytest.raises(StorageError, match="free space"):
            log.delete_before(offset)
        assert values(log) == expected(log.log_start_offset, 20)
        assert log.log_start_offset < offset
    files.room = None
    assert log.delete_before(20) == 20


def test_a_torn_tail_on_a_full_disk_is_no_reason_not_to_open(tmp_path: Path) -> None:
    fill(Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config()), 5)
    with (tmp_path / "p" / f"{0:020d}.arrow").open("ab") as file:
        file.write(b"torn")
    files = FullDisk()
    files.room = 0
    log = Log.open(files, str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    assert len(log.repairs) == 1
    assert values(log) == expected(0, 5)


class ShortWrites(OsFiles):
    """Takes few bytes a call, as a signal or a nearly full disk may make it."""

    def write(self, file: AppendFile, pieces: Sequence[Piece | memoryview]) -> int:
        assert len(pieces) <= 1024, "more than the system takes in one call"
        return os.write(file.fd, b"".join(bytes(piece) for piece in pieces)[:777])


def test_short_writes_and_more_pieces_than_a_call_takes(tmp_path: Path) -> None:
    for number, files in enumerate((ShortWrites(), OsFiles())):
        log = Log.open(files, str(tmp_path / f"{number}"), DEFAULT_SCHEMA, config())
        log.append([batch(offset) for offset in range(700)], 0)  # 1,400 pieces
        log.append([batch(700, size=50_000)], 0)
        assert values(log) == [*expected(0, 700), *expected(700, 701, 50_000)]


def test_a_write_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    class Stuck(OsFiles):
        def write(self, file: AppendFile, pieces: Sequence[Piece | memoryview]) -> int:
            return 0

    file = Stuck().open_append(str(tmp_path / "f"))
    with pytest.raises(OSError) as caught:
        Stuck().append(file, [b"abc"], 3)
    assert caught.value.errno == errno.EIO
