"""Compaction that is interrupted at any step, by the end of the process, of the power or of the disk's room."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from rayqueue.errors import StorageError
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import AppendFile, OsFiles
from rayqueue.storage.log import Log
from tests.unit.storage.compaction.harness import Record, compact_all, keyed, records, settings
from tests.unit.storage.harness import Crash, Dying, FastFiles, FullDisk, PowerLoss

SETTINGS = settings(**{"segment.bytes": 20_000})
BATCHES = 36


def opened(directory: Path, files: OsFiles | None = None) -> Log:
    return Log.open(files or FastFiles(), str(directory), DEFAULT_SCHEMA, SETTINGS)


def filled(log: Log, first: int = 0) -> None:
    """Batches of four records each of five keys; in two leader epochs, some of a producer."""
    for number in range(first, first + BATCHES):
        added: list[Record] = [(b"k%d" % (i % 5), b"%d" % number + b"." * 100) for i in range(number, number + 4)]
        producer = (7, 0, 4 * number) if number % 9 == 0 else (-1, -1, -1)
        log.append([keyed(log.log_end_offset, added, number // 20, producer)], 0)
    log.flush()


def small_neighbours(log: Log) -> None:
    """Segments that one round has made small, so that the next one merges them; and new ones behind them."""
    filled(log)
    compact_all(log)
    filled(log, BATCHES)


def in_between(found: dict[int, Record], old: dict[int, Record], new: dict[int, Record]) -> bool:
    """Whether some segments are the old ones and some the new."""
    return set(new) <= set(found) <= set(old) and all(old[offset] == record for offset, record in found.items())


class Case(NamedTuple):
    """A closed log before compaction, and its records before and after one that nothing disturbs."""

    directory: Path
    old: dict[int, Record]
    new: dict[int, Record]

    def copy(self, directory: Path) -> Path:
        shutil.copytree(self.directory, directory)
        return directory


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp("case")
    log = opened(directory / "old")
    small_neighbours(log)
    old = records(log)
    log.close()
    log = opened(Path(shutil.copytree(directory / "old", directory / "new")))
    assert compact_all(log).segments > 1 and log._state.segments[1].base_offset > 40, "some are merged, some not"
    return Case(directory / "old", old, records(log))


def test_a_crash_at_any_step_leaves_old_or_new_segments(case: Case, tmp_path: Path) -> None:
    _, old, new = case
    seen = set()
    for steps in range(300):
        directory = case.copy(tmp_path / str(steps))
        files = Dying(1 << 60)
        log = opened(directory, files)
        epochs = log.leader_epochs
        files.left = steps
        finished = True
        try:
            compact_all(log)
        except Crash:
            finished = False
        again = opened(directory)
        found = records(again)
        assert in_between(found, old, new) and again.leader_epochs == epochs
        assert not list(directory.glob("*.tmp"))
        seen.add(len(found))
        compact_all(again)
        assert records(again) == new
        again.append([keyed(again.log_end_offset, [(b"k", b"v")], 9)], 0)
        assert len(records(opened(directory))) == len(new) + 1
        if finished:
            break
    else:
        pytest.fail("it never came to its end")
    assert steps > 20 and {len(old), len(new)} <= seen and len(seen) > 2


class DyingAtTheMains(PowerLoss):
    """A process that dies before its n-th change of the file system, with the power."""

    left = 1 << 60

    def adopt(self, directory: Path) -> None:
        """Takes what stands in a directory as durable."""
        self.sync_directory(str(directory))
        for path in directory.iterdir():
            self.sync(self.open_append(str(path)))

    def _change(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    def replace(self, source: str, target: str) -> None:
        self._change()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self._change()
        super().remove(path)

    def sync(self, file: AppendFile) -> None:
        self._change()
        super().sync(file)

    def sync_directory(self, path: str) -> None:
        self._change()
        super().sync_directory(path)


def test_a_power_cut_at_any_step_leaves_old_or_new_segments(case: Case, tmp_path: Path, soak: int) -> None:
    _, old, new = case
    for steps in range(300):
        directory = case.copy(tmp_path / str(steps))
        files = DyingAtTheMains()
        files.adopt(directory)
        log = opened(directory, files)
        files.left = steps
        finished = True
        try:
            compact_all(log)
        except Crash:
            finished = False
        for seed in range(4 * soak):
            left = tmp_path / f"{steps} left {seed}"
            files.lose_power(str(directory), left, random.Random(1000 * steps + seed))
            again = opened(left)
            assert in_between(records(again), old, new), (steps, seed)
            compact_all(again)
            assert records(again) == new, (steps, seed)
        files.close()
        if finished:
            break
    else:
        pytest.fail("it never came to its end")
    assert steps > 20


def test_without_the_fsyncs_of_the_directory_records_are_lost(case: Case, tmp_path: Path) -> None:
    """The check above can fail."""

    class Forgetful(DyingAtTheMains):
        forgets = False

        def sync_directory(self, path: str) -> None:
            if not self.forgets:
                super().sync_directory(path)

    _, old, new = case
    bad = 0
    for seed in range(20):
        directory, left = case.copy(tmp_path / str(seed)), tmp_path / f"{seed} left"
        files = Forgetful()
        files.adopt(directory)
        log = opened(directory, files)
        files.forgets = True
        compact_all(log)
        files.lose_power(str(directory), left, random.Random(seed))
        again = opened(left)
        try:
            bad += not in_between(records(again), old, new)
        except Exception:
            bad += 1
        files.close()
    assert bad > 0


def test_a_full_disk_at_any_byte_changes_nothing_but_whole_segments(case: Case, tmp_path: Path) -> None:
    _, old, new = case
    files = FullDisk()
    log = opened(case.copy(tmp_path / "p"), files)
    refused = 0
    for room in range(0, 40_000, 997):
        files.room = room
        try:
            compact_all(log)
            break
        except StorageError as error:
            assert log.online and "as it was" in str(error)
            refused += 1
        files.room = None
        assert in_between(records(log), old, new)
        assert not list((tmp_path / "p").glob("*.tmp"))
    assert refused > 3
    files.room = None
    compact_all(log)
    assert records(log) == new == records(opened(tmp_path / "p"))


def test_a_write_error_while_files_are_swapped_takes_the_log_offline(case: Case, tmp_path: Path) -> None:
    class Broken(FastFiles):
        fails = False

        def replace(self, source: str, target: str) -> None:
            if self.fails and target.endswith(".index"):
                raise OSError(5, "broken", target)
            super().replace(source, target)

    _, old, new = case
    files = Broken()
    log = opened(case.copy(tmp_path / "p"), files)
    files.fails = True
    with pytest.raises(StorageError, match="offline"):
        compact_all(log)
    assert not log.online
    assert in_between(records(opened(tmp_path / "p")), old, new)
