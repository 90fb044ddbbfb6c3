"""What a flush promises while others write, delete and close beside it, and after a start; and whom it holds up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rayqueue.errors import StorageError
from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import AppendFile, OsFiles, Piece
from rayqueue.storage.log import Log
from tests.unit.storage.harness import EVERYTHING, FullDisk, config, expected, fill, names, values

WAIT_S = 10


class SeenFiles(OsFiles):
    """Files that note how many bytes each had when its newest fsync began, and which directories were fsynced."""

    def __init__(self) -> None:
        self.covered: dict[str, int] = {}
        self.directories: list[str] = []
        self.before_data: Callable[[bytes], object] | None = None  # called once, before bytes go into a data file

    def append(self, file: AppendFile, pieces: list[Piece], total: int) -> None:
        hook = self.before_data
        if hook is not None and file.path.endswith(".arrow"):
            self.before_data = None
            hook(bytes(pieces[0]))
        super().append(file, pieces, total)

    def sync(self, file: AppendFile) -> None:
        self.covered[file.path] = os.fstat(file.fd).st_size

    def sync_directory(self, path: str) -> None:
        self.directories.append(path)

    def uncovered(self, directory: Path, suffix: str = "") -> list[str]:
        """The files in a directory that hold bytes which no fsync covers."""
        paths = [directory / name for name in names(directory, suffix) if name != "checkpoint"]
        return [path.name for path in paths if self.covered.get(str(path), 0) < path.stat().st_size]


def open_log(files: OsFiles, directory: Path, **settings: object) -> Log:
    return Log.open(files, str(directory), DEFAULT_SCHEMA, config(**settings))


def test_a_flush_that_begins_within_an_append_does_not_hide_it_from_the_next(tmp_path: Path) -> None:
    files = SeenFiles()
    log = open_log(files, tmp_path / "p")
    fill(log, 1)
    log.flush()
    fill(log, 1)
    files.before_data = lambda _: log.flush()  # as from another thread: it covers record 1, and says no more
    fill(log, 1)
    assert log.flushed_offset == 2
    assert log.flush() == 3
    assert files.uncovered(tmp_path / "p", ".arrow") == []


def test_a_flush_that_begins_while_a_segment_is_closed_does_not_hide_its_end_from_the_next(tmp_path: Path) -> None:
    files = SeenFiles()
    log = open_log(files, tmp_path / "p", retention_records=8)
    fill(log, 3)
    seen: list[bytes] = []
    files.before_data = lambda data: (seen.append(data), log.flush())
    log.enforce_retention(0, EVERYTHING)
    assert seen == [END_OF_STREAM]
    log.flush()
    assert files.uncovered(tmp_path / "p") == []


@pytest.mark.parametrize("settings", [{}, {"segment_bytes": 4096}])
def test_what_a_dead_process_had_not_flushed_is_not_durable_before_the_next_flush(
    tmp_path: Path, settings: dict[str, int]
) -> None:
    """It had written everything and fsynced nothing: neither files, nor their names, nor the directory's own."""
    fill(open_log(SeenFiles(), tmp_path / "p", **settings), 12)
    files = SeenFiles()
    log = open_log(files, tmp_path / "p", **settings)
    assert log.flushed_offset == 0
    assert log.flush() == 12 == log.flushed_offset
    assert files.uncovered(tmp_path / "p") == []
    assert {str(tmp_path / "p"), str(tmp_path)} <= set(files.directories)
    assert open_log(OsFiles(), tmp_path / "p").flushed_offset == 12, "nor has the next start to verify it"


def test_records_after_a_start_are_durable_with_the_names_the_dead_process_made(tmp_path: Path) -> None:
    dead = open_log(SeenFiles(), tmp_path / "p")
    fill(dead, 5)
    dead.delete_before(3)  # a checkpoint is written, but nobody knows of the directory's own name
    files = SeenFiles()
    log = open_log(files, tmp_path / "p")
    fill(log, 1)
    assert log.flush() == 6
    assert str(tmp_path) in files.directories


class StuckFiles(OsFiles):
    """Files of which one's fsync does not come back until `gate` is open."""

    def __init__(self) -> None:
        self.stuck = ""
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.opened_in_time = True

    def sync(self, file: AppendFile) -> None:
        if self.stuck and file.path.endswith(self.stuck):
            self.stuck = ""
            self.entered.set()
            self.opened_in_time = self.gate.wait(WAIT_S / 2)
        super().sync(file)

    def open_gate(self) -> None:
        """Raises AssertionError when somebody gave up before."""
        self.gate.set()
        assert self.opened_in_time, "something waited for the fsync"


def beside_a_flush(log: Log, files: StuckFiles, work: Callable[[], object]) -> list[object]:
    """Does `work` while a flush hangs in the first segment's fsync; what the flush returned or raised."""
    outcome: list[object] = []

    def flush() -> None:
        try:
            outcome.append(log.flush())
        except StorageError as error:
            outcome.append(error)

    files.stuck = f"{0:020d}.arrow"
    thread = threading.Thread(target=flush)
    thread.start()
    assert files.entered.wait(WAIT_S)
    work()
    files.open_gate()
    thread.join(WAIT_S)
    return outcome


def test_deleting_does_not_wait_for_an_fsync(tmp_path: Path) -> None:
    files = StuckFiles()
    log = open_log(files, tmp_path / "p", segment_bytes=4096)
    fill(log, 20)
    second = log.read(0, 1 << 20, EVERYTHING).next_offset
    assert beside_a_flush(log, files, lambda: log.delete_before(second + 1)) == [20]
    assert names(tmp_path / "p", ".arrow")[0] == f"{second:020d}.arrow"
    again = open_log(OsFiles(), tmp_path / "p")
    assert (again.flushed_offset, values(again)) == (20, expected(second + 1, 20))


def test_deleting_everything_under_a_flush_leaves_nothing_behind(tmp_path: Path) -> None:
    """The flush comes to segments that are gone: it does not make their files again."""
    files = StuckFiles()
    log = open_log(files, tmp_path / "p", segment_bytes=4096)
    fill(log, 20)
    log.release()
    assert beside_a_flush(log, files, lambda: log.delete_before(20)) == [20]
    assert names(tmp_path / "p") == ["checkpoint"]
    fill(log, 1)
    assert log.flush() == 21
    assert values(open_log(OsFiles(), tmp_path / "p")) == expected(20, 21)


def test_retention_and_rolls_do_not_wait_for_an_fsync(tmp_path: Path) -> None:
    files = StuckFiles()
    log = open_log(files, tmp_path / "p", segment_bytes=4096, retention_records=10, retention_ms=-1)
    fill(log, 20)

    def work() -> None:
        for _ in range(10):
            fill(log, 3)
            log.enforce_retention(0, EVERYTHING)

    (flushed,) = beside_a_flush(log, files, work)
    assert flushed == 20, "not of what came after its fsyncs began"
    assert log.log_start_offset > 20
    assert log.flush() == 50
    assert values(open_log(OsFiles(), tmp_path / "p")) == expected(log.log_start_offset, 50)


def test_closing_idle_files_does_not_wait_for_an_fsync(tmp_path: Path) -> None:
    files = StuckFiles()
    log = open_log(files, tmp_path / "p")
    fill(log, 3)

    def work() -> None:
        log.enforce_retention(0, 0)
        log.enforce_retention(0, 0)

    assert beside_a_flush(log, files, work) == [3]
    fill(log, 1)
    assert log.flush() == 4


def test_a_segment_removed_between_a_flush_looking_and_opening_it(tmp_path: Path) -> None:
    class Removing(OsFiles):
        hook: Callable[[], object] | None = None

        def open_append(self, path: str, create: bool = True) -> AppendFile:
            hook, self.hook = self.hook, None
            if hook is not None:
                hook()
            return super().open_append(path, create)

    files = Removing()
    log = open_log(files, tmp_path / "p")
    fill(log, 3)
    log.release()
    files.hook = lambda: log.delete_before(3)
    assert log.flush() == 3
    assert names(tmp_path / "p") == ["checkpoint"]


def test_a_flush_beside_a_deletion_that_is_undone_misses_no_segment(tmp_path: Path) -> None:
    """On a full disk the last segment is taken out of the log and put back: a flush must not look in between."""

    class Full(FullDisk):
        def __init__(self) -> None:
            super().__init__()
            self.synced: list[str] = []
            self.flush: threading.Thread | None = None

        def sync(self, file: AppendFile) -> None:
            self.synced.append(file.path)

        def open_append(self, path: str, create: bool = True) -> AppendFile:
            if path.endswith(".tmp") and self.flush is not None:
                flush, self.flush = self.flush, None
                flush.start()
                flush.join(0.2)  # long enough to see what it must not
            return super().open_append(path, create)

    files = Full()
    log = open_log(files, tmp_path / "p")
    fill(log, 3)
    files.room = 0
    flush = files.flush = threading.Thread(target=log.flush)
    with pytest.raises(StorageError, match="free space"):
        log.delete_before(3)
    flush.join(WAIT_S)
    assert log.flushed_offset == 3
    assert str(tmp_path / "p" / f"{0:020d}.arrow") in files.synced


def test_the_first_segment_has_its_name_before_the_next_is_made(tmp_path: Path) -> None:
    """Or the log would seem to start with the second, should a power cut leave that one's name only."""
    files = SeenFiles()
    log = open_log(files, tmp_path / "p", segment_bytes=4096)
    present: list[list[str]] = []
    files.sync_directory = lambda path: present.append(names(Path(path)))  # type: ignore[method-assign]
    fill(log, 20)
    assert present == [[f"{0:020d}.arrow", f"{0:020d}.index"]]
