"""What leaves the log: by time, bytes and records, and by request."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayqueue.errors import OffsetOutOfRange
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.harness import EVERYTHING, FastFiles, batch, config, expected, fill, names, values

DAY = 24 * 3600 * 1000


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def bases(directory: Path) -> list[int]:
    return [int(name[:20]) for name in names(directory, ".arrow")]


def test_old_segments_go_by_their_newest_record(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096, retention_ms=1000)
    for offset in range(20):
        log.append([batch(offset, timestamp=10_000 + 100 * offset)], 10_000 + 100 * offset)
    starts = bases(tmp_path / "p")
    newest_of_first = 10_000 + 100 * (starts[1] - 1)
    assert not log.enforce_retention(newest_of_first + 1000, EVERYTHING)
    assert log.enforce_retention(newest_of_first + 1001, EVERYTHING)
    assert log.log_start_offset == starts[1] and bases(tmp_path / "p") == starts[1:]
    assert values(log) == expected(starts[1], 20)


def test_when_all_is_old_all_goes_and_offsets_go_on(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", retention_ms=1000)
    fill(log, 5, timestamp=10_000)
    assert log.enforce_retention(12_000, EVERYTHING)
    assert (log.log_start_offset, log.log_end_offset, log.segment_count, log.size_bytes) == (5, 5, 0, 0)
    assert log.read(5, 1, EVERYTHING) is None
    assert bases(tmp_path / "p") == []
    log = open_log(tmp_path / "p", retention_ms=1000)
    assert (log.log_start_offset, log.log_end_offset) == (5, 5)
    fill(log, 2)
    assert values(log) == expected(5, 7)
    assert bases(tmp_path / "p") == [5]


def test_records_without_a_time_count_from_their_append(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", retention_ms=1000)
    log.append([batch(0, timestamp=-1)], 50_000)
    assert not log.enforce_retention(51_000, EVERYTHING)
    assert log.enforce_retention(51_001, EVERYTHING)


def test_records_of_the_future_stay(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", retention_ms=1000)
    fill(log, 3, timestamp=90_000)
    assert not log.enforce_retention(20_000, EVERYTHING)


def test_by_bytes_at_least_the_limit_is_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096, retention_bytes=10_000, retention_ms=-1)
    fill(log, 40)
    before = log.size_bytes
    assert before > 20_000
    assert log.enforce_retention(10**15, EVERYTHING)
    assert 10_000 <= log.size_bytes < 10_000 + 4096
    assert not log.enforce_retention(10**15, EVERYTHING)


def test_by_records_at_least_the_limit_is_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096, retention_records=25, retention_ms=-1)
    fill(log, 50)
    assert log.enforce_retention(0, EVERYTHING)
    kept = log.log_end_offset - log.log_start_offset
    assert 25 <= kept < 25 + 5
    assert values(log) == expected(log.log_start_offset, 50)


@pytest.mark.parametrize("settings", [{"retention_records": 100}, {"retention_bytes": 80_000}])
def test_one_large_segment_does_not_keep_far_more_than_the_limit(tmp_path: Path, settings: dict[str, int]) -> None:
    """Segments of 1 GiB are never full: the active one is closed when it holds a quarter of the limit."""
    log = open_log(tmp_path / "p", **settings)
    for _ in range(30):
        fill(log, 10)
        log.enforce_retention(1_000, EVERYTHING)
    kept = log.log_end_offset - log.log_start_offset
    assert 100 <= kept <= 140
    assert values(log) == expected(log.log_start_offset, 300)
    log.close()
    log = open_log(tmp_path / "p", **settings)
    assert values(log) == expected(300 - kept, 300)


def test_nothing_above_the_high_watermark_goes(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096, retention_ms=0)
    fill(log, 20)
    starts = bases(tmp_path / "p")
    assert log.enforce_retention(10 * DAY, starts[2] + 1)
    assert log.log_start_offset == starts[2]
    assert not log.enforce_retention(10 * DAY, starts[2] + 1)


def test_without_limits_nothing_goes(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096, retention_ms=-1)
    fill(log, 20)
    assert not log.enforce_retention(10**15, EVERYTHING)
    assert log.log_start_offset == 0


def test_a_limit_of_zero_keeps_nothing_that_is_closed(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", retention_records=0, retention_ms=-1)
    fill(log, 20)
    assert log.enforce_retention(0, EVERYTHING)
    assert log.log_start_offset == 20


def test_delete_before_is_exact_and_survives_a_restart(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 15, count=2)
    starts = bases(tmp_path / "p")
    offset = starts[1] + 3
    assert log.delete_before(offset) == offset
    assert bases(tmp_path / "p") == starts[1:]
    assert values(log) == expected(offset, 30)
    assert log.delete_before(2) == offset, "the start never goes back"
    for _ in range(2):  # without and after a close
        again = open_log(tmp_path / "p", segment_bytes=4096)
        assert (again.log_start_offset, again.log_end_offset) == (offset, 30)
        assert values(again) == expected(offset, 30)
        again.close()


def test_delete_before_the_end_leaves_an_empty_log(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 4)
    assert log.delete_before(4) == 4
    assert log.segment_count == 0
    with pytest.raises(OffsetOutOfRange):
        log.delete_before(5)
    log = open_log(tmp_path / "p")
    assert (log.log_start_offset, log.log_end_offset) == (4, 4)
    fill(log, 1)
    assert values(open_log(tmp_path / "p")) == expected(4, 5)


def test_an_interrupted_deletion_is_finished_at_the_next_start(tmp_path: Path) -> None:
    class Keeps(FastFiles):
        def remove(self, path: str) -> None:
            if path.endswith(".tmp"):
                super().remove(path)

    log = Log.open(Keeps(), str(tmp_path / "p"), DEFAULT_SCHEMA, config(segment_bytes=4096))
    fill(log, 20)
    starts = bases(tmp_path / "p")
    log.delete_before(starts[2])
    assert bases(tmp_path / "p") == starts
    again = open_log(tmp_path / "p")
    assert bases(tmp_path / "p") == starts[2:] and again.log_start_offset == starts[2]
    assert [int(name[:20]) for name in names(tmp_path / "p", ".index")] == starts[2:]


def test_leader_epochs_follow_the_log_start(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    for epoch in (1, 3, 5):
        fill(log, 4, epoch=epoch)
    for start, wanted in ((6, [(3, 5), (5, 8)]), (8, [(3, 7), (5, 8)]), (12, [(5, 11)])):
        log.delete_before(start)
        assert log.leader_epochs == wanted
        log.close()
        log = open_log(tmp_path / "p", segment_bytes=4096)
        assert log.leader_epochs == wanted, "also that of what is deleted, when there is nothing else"


def test_a_reader_behind_the_start_is_told(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 20)
    held = log.read(0, 1 << 20, EVERYTHING)
    log.delete_before(20)
    with pytest.raises(OffsetOutOfRange, match="20"):
        log.read(0, 1, EVERYTHING)
    assert held.data.slice(0, 4).to_pybytes() == b"\xff\xff\xff\xff"
