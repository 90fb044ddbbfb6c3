"""A reader that goes on where it stopped: it sees what was appended without asking how long the files are."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage import mapped as mapped_module
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.log import Log
from rayqueue.storage.mapped import MappedLog
from tests.unit.storage.harness import FastFiles, batch, config, expected, fill, names, value


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def read(mapped: MappedLog, offset: int, limit: int, max_bytes: int = 1 << 20) -> tuple[int, list[bytes]]:
    """The offset after a slice, and its values."""
    piece = mapped.read(offset, max_bytes, limit)
    assert piece is not None and piece.base_offset <= offset
    assert int(piece.entries[0]["base_offset"]) == piece.base_offset
    rows = [v for b in decode(piece.data, piece.entries, DEFAULT_SCHEMA) for v in b.column("value").to_pylist()]
    return piece.next_offset, rows[offset - piece.base_offset :]


def path_of(log: Log, suffix: str) -> Path:
    return Path(log.directory) / names(Path(log.directory), suffix)[-1]


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths asked for."""
    asked: list[str] = []

    class Spy:
        @staticmethod
        def stat(path: str) -> os.stat_result:
            asked.append(path)
            return os.stat(path)

    monkeypatch.setattr(mapped_module, "os", Spy)
    return asked


def test_a_record_at_a_time_asks_for_the_size_of_files_only_at_the_end_of_a_page(
    tmp_path: Path, stats: list[str]
) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 1)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 1) == (1, expected(0, 1))
    stats.clear()
    for offset in range(1, 200):
        fill(log, 1)
        assert read(mapped, offset, offset + 1) == (offset + 1, expected(offset, offset + 1))
    length = log.read(0, 1, 200).data.size
    pages = 199 * length // 4096 + 199 * ENTRY_SIZE // 4096
    assert len(stats) <= 2 * (pages + 2), (len(stats), pages)


def test_it_stays_below_the_limit_and_takes_no_more_than_wanted(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 2)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 1)[0] == 1
    fill(log, 2, count=2)
    assert mapped.read(1, 1 << 20, 1) is None
    assert read(mapped, 1, 3)[0] == 2, "the next batch ends at the limit"
    assert mapped.read(2, 1 << 20, 3) is None, "a batch that is not wholly below"
    assert read(mapped, 2, 6, max_bytes=1) == (4, expected(2, 4))
    assert read(mapped, 4, 6) == (6, expected(4, 6))


def test_many_at_once_rolls_jumps_and_sizes(tmp_path: Path) -> None:
    """Whatever the pattern, what is read is what stands there."""
    rng = random.Random(7)
    for round in range(6):
        log = open_log(tmp_path / str(round), segment_bytes=rng.choice([3000, 20_000, 1 << 20]))
        mapped = MappedLog(log.directory, log.generation)
        offset = 0
        for _ in range(60):
            for _ in range(rng.choice([1, 1, 1, 5, 40])):
                log.append([batch(log.log_end_offset, rng.randint(1, 3), size=rng.choice([20, 20, 900]))], 0)
            limit = rng.randint(offset, log.log_end_offset)
            if rng.random() < 0.1:
                offset = rng.randint(0, limit)
            while (piece := mapped.read(offset, rng.choice([1, 3000, 1 << 20]), limit)) is not None:
                rows = [v for b in decode(piece.data, piece.entries, DEFAULT_SCHEMA) for v in b["value"].to_pylist()]
                rows = rows[offset - piece.base_offset :]
                assert [row.rstrip(b".") for row in rows] == [
                    value(at).rstrip(b".") for at in range(offset, piece.next_offset)
                ]
                offset = piece.next_offset
                assert offset <= limit


def test_an_entry_half_written_is_not_there_yet(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 3)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 3)[0] == 3
    index = path_of(log, ".index")
    before = index.read_bytes()
    fill(log, 1)
    whole = index.read_bytes()[len(before) :]
    os.truncate(index, len(before))
    for written in range(0, ENTRY_SIZE, 9):
        with open(index, "r+b") as file:
            file.seek(len(before))
            file.write(whole[:written])
        with pytest.raises(StorageError, match="no offset 3"):
            mapped.read(3, 1 << 20, 4)
    with open(index, "r+b") as file:
        file.seek(len(before))
        file.write(whole)
    assert read(mapped, 3, 4) == (4, expected(3, 4))


@pytest.mark.parametrize("position", [0, 8, 16, 49, 76])
def test_a_damaged_entry_is_an_error(tmp_path: Path, position: int) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 3)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 3)[0] == 3
    fill(log, 1)
    with open(path_of(log, ".index"), "r+b") as file:
        file.seek(3 * ENTRY_SIZE + position)
        byte = file.read(1)[0]
        file.seek(3 * ENTRY_SIZE + position)
        file.write(bytes([byte ^ 1]))
    with pytest.raises((CorruptRecord, StorageError)):
        mapped.read(3, 1 << 20, 4)


def test_data_beyond_the_end_of_the_file_is_never_touched(tmp_path: Path) -> None:
    """In the file's last page there are zeros behind its end, which no CRC fits; behind that page, an error."""
    log = open_log(tmp_path / "p")
    fill(log, 3)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 3)[0] == 3
    data = path_of(log, ".arrow")
    size = data.stat().st_size
    log.append([batch(3, 1)], 0)
    log.append([batch(4, 1, size=9000)], 0)
    os.truncate(data, size)
    piece = mapped.read(3, 1 << 20, 4)
    assert piece is not None and not any(piece.data.to_pybytes())
    with pytest.raises(CorruptRecord, match="CRC32C"):
        decode(piece.data, piece.entries, DEFAULT_SCHEMA)
    with pytest.raises(CorruptRecord, match="cut short"):
        mapped.read(4, 1 << 20, 5)


def test_a_log_written_anew_is_noticed_as_soon_as_it_matters(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    mapped = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 4)[0] == 5 or read(mapped, 4, 5)[0] == 5
    index = path_of(log, ".index")
    index.write_bytes(index.read_bytes()[: 2 * ENTRY_SIZE] + b"x" * (3 * ENTRY_SIZE))
    again = open_log(tmp_path / "p")
    assert again.generation > log.generation
    fill(again, 1)
    with pytest.raises(StorageError, match="written anew"):
        mapped.read(5, 1 << 20, 6)


def test_what_it_learned_by_going_on_serves_a_jump_back(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 1)
    mapped: Any = MappedLog(log.directory, log.generation)
    assert read(mapped, 0, 1)[0] == 1
    for offset in (1, 2):  # still in the first page, so nobody asked for sizes again
        fill(log, 1)
        assert read(mapped, offset, offset + 1)[0] == offset + 1
    assert read(mapped, 1, 3) == (3, expected(1, 3))
    fill(log, 1)
    assert read(mapped, 3, 4) == (4, expected(3, 4))
