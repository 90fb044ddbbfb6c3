"""Looking into files from outside: what is there, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayqueue.errors import StorageError
from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.log import Log
from rayqueue.storage.verify import Problem, dump, verify
from tests.unit.storage.harness import FastFiles, config, expected, fill, names


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """21 records in three segments."""
    log = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config(segment_bytes=8192))
    fill(log, 21)
    log.close()
    return tmp_path / "p"


def segments(directory: Path, suffix: str = ".arrow") -> list[Path]:
    return [directory / name for name in names(directory, suffix)]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def problems(path: Path) -> list[Problem]:
    return [problem for report in verify(str(path)) for problem in report.problems]


def test_a_sound_log(log: Path) -> None:
    reports = list(verify(str(log)))
    assert [report.path for report in reports] == [str(path) for path in segments(log)]
    assert sum(report.records for report in reports) == sum(report.batches for report in reports) == 21
    assert [report.closed for report in reports] == [True, True, False]
    assert [r.next_offset for r in reports] == [*(r.base_offset for r in reports[1:]), 21]
    assert problems(log) == []
    (one,) = verify(str(segments(log)[1]))
    assert (one.base_offset, one.problems) == (reports[1].base_offset, [])


def test_every_flipped_bit_of_a_segment_is_named(log: Path) -> None:
    path = segments(log)[1]
    before = path.read_bytes()
    (report,) = verify(str(path))
    first = next(batch.position for batch in dump(str(path)))
    for position in range(first, len(before) - len(END_OF_STREAM), 61):
        flip(path, position)
        found = problems(path)
        assert found and found[0].path == str(path), position
        assert first <= found[0].position <= position
        assert report.base_offset <= found[0].offset < report.next_offset
        path.write_bytes(before)


def test_every_flipped_bit_of_an_index_is_named(log: Path) -> None:
    path = segments(log, ".index")[0]
    before = path.read_bytes()
    for position in range(0, len(before), 7):
        flip(path, position)
        found = problems(log)
        assert any(p.path == str(path) and p.position == position // ENTRY_SIZE * ENTRY_SIZE for p in found), position
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("suffix", "left", "message"),
    [
        (".arrow", -20, "the data ends before it"),
        (".arrow", 100, "no schema message"),
        (".arrow", 0, "no schema message"),
        (".index", -ENTRY_SIZE, "have no index entry"),
        (".index", -3, "no whole entry"),
        (".index", 0, "have no index entry"),
    ],
)
def test_what_is_missing_is_named(log: Path, suffix: str, left: int, message: str) -> None:
    path = segments(log, suffix)[-1]
    path.write_bytes(path.read_bytes()[:left] if left else b"")
    assert any(message in problem.message for problem in problems(log))


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_a_lost_index_is_one_problem_a_segment(log: Path, lost: str) -> None:
    for path in segments(log, ".index"):
        path.unlink() if lost == "missing" else path.write_bytes(b"")
    reports = list(verify(str(log)))
    assert [len(report.problems) for report in reports] == [1, 1, 1]
    if lost == "empty":
        first = reports[0]
        about = f"offsets 0 to {first.next_offset - 1} (batches: {first.batches}) have no index entry"
        assert first.problems[0].message == about


def test_missing_files_and_a_damaged_checkpoint_are_named(log: Path) -> None:
    flip(log / "checkpoint", 5)
    assert [p.message for p in problems(log)] == ["the checkpoint does not match its CRC32C"]
    segments(log, ".index")[2].unlink()
    assert any("the index is missing" in p.message for p in problems(log))
    segments(log)[1].unlink()
    assert any("are missing before this segment" in p.message for p in problems(log))


def test_a_closed_segment_without_its_marker_is_named(log: Path) -> None:
    path = segments(log)[0]
    path.write_bytes(path.read_bytes()[: -len(END_OF_STREAM)])
    assert [p.message for p in problems(log)] == ["no end-of-stream marker although it is closed"]


def test_a_dump_shows_headers_and_rows(log: Path) -> None:
    batches = list(dump(str(log)))
    assert [batch.header.base_offset for batch in batches] == list(range(21))
    assert all(batch.sound for batch in batches)
    assert [v for batch in batches for v in batch.rows.column("value").to_pylist()] == expected(0, 21)


def test_a_dump_goes_on_after_a_damaged_batch(log: Path) -> None:
    entry = list(dump(str(log)))[9]
    flip(Path(entry.path), entry.position + entry.length - 40)
    batches = list(dump(str(log)))
    assert [batch.header.base_offset for batch in batches if not batch.sound] == [9]
    assert batches[9].rows is None and len(batches) == 21


@pytest.mark.parametrize(("left", "about"), [(-20, "within a message"), (0, "no schema"), (100, "no schema")])
def test_a_dump_tells_what_it_cannot_read(log: Path, left: int, about: str) -> None:
    path = segments(log)[-1]
    path.write_bytes(path.read_bytes()[:left] if left else b"")
    told: list[Problem] = []
    assert 0 < len(list(dump(str(log), told.append))) < 21
    assert [problem.path for problem in told] == [str(path)] and about in told[0].message


def test_an_empty_log_has_nothing_to_report(tmp_path: Path) -> None:
    log = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    fill(log, 2)
    log.delete_before(2)
    log.close()
    assert list(verify(str(tmp_path / "p"))) == list(dump(str(tmp_path / "p"))) == []


@pytest.mark.parametrize("name", ["nothing", "empty", "file.txt"])
def test_what_is_no_log_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(StorageError, match="give a partition's directory|neither"):
        list(verify(str(tmp_path / name)))
    with pytest.raises(StorageError):
        list(dump(str(tmp_path / name)))
