"""Producer state beside the log."""

from __future__ import annotations

from pathlib import Path

from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.harness import FastFiles, config, fill, names


def open_log(directory: Path) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config())


def test_the_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    assert log.latest_snapshot() is None
    fill(log, 9)
    for offset in (2, 5, 9):
        log.write_snapshot(offset, b"state at %d" % offset)
    assert log.latest_snapshot() == (9, b"state at 9")
    assert names(tmp_path / "p", ".snapshot") == [f"{offset:020d}.snapshot" for offset in (5, 9)]
    log.close()
    assert open_log(tmp_path / "p").latest_snapshot() == (9, b"state at 9")


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 9)
    log.write_snapshot(5, b"five")
    log.write_snapshot(9, b"nine")
    newest = tmp_path / "p" / f"{9:020d}.snapshot"
    for content in (b"", b"abc", newest.read_bytes()[:-1], b"\0" * 8):
        newest.write_bytes(content)
        assert log.latest_snapshot() == (5, b"five")


def test_one_of_a_tail_that_was_cut_does_not_come_back(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 9)
    log.write_snapshot(5, b"five")
    log.write_snapshot(9, b"nine")
    data = tmp_path / "p" / f"{0:020d}.arrow"
    data.write_bytes(data.read_bytes()[:-10])
    log = open_log(tmp_path / "p")
    assert log.log_end_offset == 8
    fill(log, 5)
    assert log.latest_snapshot() == (5, b"five")
