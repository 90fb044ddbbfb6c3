"""Room that the disk sets aside for large writes: it changes no file's size, and is given back when a segment ends."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage import files as storage_files
from rayqueue.storage.files import AppendFile, OsFiles
from rayqueue.storage.log import Log
from rayqueue.storage.segment import RESERVE_ABOVE
from tests.unit.storage.harness import batch, config, value, values

MB = 1 << 20


class Noting(OsFiles):
    """Notes up to where room is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reserve(self, file: AppendFile, end: int) -> None:
        self.asked.append(end)
        super().reserve(file, end)


def open_log(directory: Path, files: OsFiles, **settings: object) -> Log:
    return Log.open(files, str(directory), DEFAULT_SCHEMA, config(**settings))


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def sets_room_aside(directory: Path) -> bool:
    """Whether this file system has such a thing."""
    files = OsFiles()
    file = files.open_append(str(directory / "probe"))
    files.reserve(file, 4 * MB)
    return blocks(directory / "probe") >= 4 * MB


def fill_large(log: Log, count: int, size: int = MB) -> None:
    for _ in range(count):
        log.append([batch(log.log_end_offset, 1, size=size)], 5)


def test_small_writes_reserve_nothing_and_large_ones_in_steps(tmp_path: Path) -> None:
    files = Noting()
    log = open_log(tmp_path / "p", files)
    fill_large(log, 20, size=RESERVE_ABOVE // 2)
    assert files.asked == []
    fill_large(log, 40)
    assert 5 < len(files.asked) < 20, "in steps that grow with the segment"
    assert files.asked == sorted(files.asked)
    assert len(values(log)) == 60
    log.close()


@pytest.mark.parametrize("how", ["rolled", "closed", "killed"])
def test_the_size_is_that_of_the_records_and_the_room_is_given_back(tmp_path: Path, how: str) -> None:
    if not sets_room_aside(tmp_path):
        pytest.skip("this file system sets no room aside")
    log = open_log(tmp_path / "p", OsFiles(), segment_bytes=64 * MB)
    fill_large(log, 12)
    path = tmp_path / "p" / f"{0:020d}.arrow"
    size = log.size_bytes
    assert path.stat().st_size == size
    assert blocks(path) > size + MB
    with pa.ipc.open_stream(path) as reader:
        assert sum(len(some) for some in reader) == 12
    if how == "closed":
        log.close()
    elif how == "rolled":
        fill_large(log, 60)
    else:
        again = open_log(tmp_path / "p", OsFiles(), segment_bytes=12 * MB)
        fill_large(again, 1)
        again.close()
    assert path.stat().st_size >= size
    assert blocks(path) < path.stat().st_size + 64 * 1024


def test_a_system_that_refuses_it_writes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def fallocate(self, *args: int) -> int:
            return -1

    monkeypatch.setattr(storage_files, "_libc", Refusing())
    log = open_log(tmp_path / "p", OsFiles())
    fill_large(log, 3)
    assert log.log_end_offset == 3
    monkeypatch.undo()
    log.close()


def test_a_group_that_rolls_loses_no_record_and_ends_every_stream(tmp_path: Path) -> None:
    """What of a group went to a segment that is then closed is not published yet: giving room back must not cut it."""
    log = open_log(tmp_path / "p", OsFiles(), segment_bytes=MB)
    for _ in range(6):
        base = log.log_end_offset
        log.append([batch(base + i, 1, size=300_000) for i in range(5)], 5)
        log.flush()
    log.release()
    assert log.segment_count > 5
    *closed, _ = sorted((tmp_path / "p").glob("*.arrow"))
    assert all(path.read_bytes().endswith(END_OF_STREAM) for path in closed)
    assert values(log) == [value(offset, 300_000) for offset in range(30)]
    again = open_log(tmp_path / "p", OsFiles(), segment_bytes=MB)
    assert again.repairs == [] and len(values(again)) == 30
