"""A reader in another process: it follows the files alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rayqueue.errors import CorruptRecord, OffsetOutOfRange, StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage import reader
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.log import Log
from rayqueue.storage.mapped import MappedLog
from tests.unit.storage.harness import EVERYTHING, FastFiles, batch, config, expected, fill, names, values


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def follow(mapped: MappedLog, offset: int, limit: int, max_bytes: int = 1 << 20) -> list[bytes]:
    """The values from an offset up to the limit."""
    found: list[bytes] = []
    while (piece := mapped.read(offset, max_bytes, limit)) is not None:
        rows = [v for b in decode(piece.data, piece.entries, DEFAULT_SCHEMA) for v in b.column("value").to_pylist()]
        found += rows[offset - piece.base_offset :]
        offset = piece.next_offset
    return found


def test_it_reads_what_the_log_reads(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 30, count=2)
    mapped = MappedLog(log.directory, log.generation)
    for offset in (0, 1, 7, 31, 58, 59):
        for max_bytes in (1, 2000, 1 << 20):
            for limit in (offset, offset + 1, offset + 3, 60, 1000):
                here, there = log.read(offset, max_bytes, limit), mapped.read(offset, max_bytes, min(limit, 60))
                if here is None:
                    assert there is None
                else:
                    assert there.data.equals(here.data) and there.entries.tobytes() == here.entries.tobytes()
    assert mapped.read(60, 1, 60) is None


def test_it_keeps_step_with_a_growing_log_over_rolls(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 1)
    mapped = MappedLog(log.directory, log.generation)
    offset = 0
    for _ in range(60):
        assert follow(mapped, offset, log.log_end_offset) == expected(offset, log.log_end_offset)
        offset = log.log_end_offset
        assert mapped.read(offset, 1, offset) is None
        fill(log, 1)
    assert log.segment_count > 8


def test_it_stays_below_the_limit(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    mapped = MappedLog(log.directory, log.generation)
    assert mapped.read(0, 1 << 20, 3).next_offset == 3
    assert mapped.read(3, 1 << 20, 3) is None


def test_large_batches_make_the_mapping_grow(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    mapped = MappedLog(str(tmp_path / "p"), 0)
    for offset in range(12):
        log.append([batch(offset, size=3 << 20)], 0)
        assert follow(mapped, offset, offset + 1) == expected(offset, offset + 1, 3 << 20)


def test_many_entries_make_the_index_mapping_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_INDEX_ROOM", 4 * ENTRY_SIZE)
    log = open_log(tmp_path / "p")
    fill(log, 1)
    mapped = MappedLog(log.directory, log.generation)
    assert mapped.read(0, 1, 1).next_offset == 1
    for end in (3, 5, 9, 50, 51):
        fill(log, end - log.log_end_offset)
        assert follow(mapped, 0, end) == expected(0, end)
        assert values(log) == expected(0, end)


def test_deleted_segments(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 30)
    mapped = MappedLog(log.directory, log.generation)
    piece = mapped.read(0, 1 << 20, 30)
    log.delete_before(20)
    # What was handed out lives on; the rest of that segment is still mapped; another one deleted is told.
    assert decode(piece.data, piece.entries, DEFAULT_SCHEMA)[0].column("value").to_pylist() == expected(0, 1)
    assert follow(mapped, 1, piece.next_offset) == expected(1, piece.next_offset)
    with pytest.raises(OffsetOutOfRange, match="deleted"):
        mapped.read(10, 1, 30)
    assert follow(mapped, 20, 30) == expected(20, 30)


def test_a_log_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 5)
    mapped, idle = MappedLog(log.directory, 0), MappedLog(log.directory, 0)
    assert mapped.read(0, 1, 5) is not None
    log.delete()
    assert mapped.read(0, 1, 5) is not None
    with pytest.raises(StorageError):
        mapped.read(5, 1, 9)
    with pytest.raises(StorageError, match="no log"):
        idle.read(0, 1, 5)


def test_more_than_there_is_is_a_storage_error(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    with pytest.raises(StorageError, match="no offset 5"):
        MappedLog(log.directory, 0).read(5, 1, 9)


def test_a_segment_written_anew_is_noticed(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    mapped = MappedLog(log.directory, log.generation)
    assert mapped.read(0, 1, 5) is not None
    index = tmp_path / "p" / names(tmp_path / "p", ".index")[0]
    index.write_bytes(index.read_bytes()[: 2 * ENTRY_SIZE] + b"x" * (3 * ENTRY_SIZE))
    again = open_log(tmp_path / "p")
    assert again.generation > log.generation
    fill(again, 1)
    with pytest.raises(StorageError, match="written anew"):
        mapped.read(5, 1, 6)
    assert follow(MappedLog(again.directory, again.generation), 0, 6) == expected(0, 6)


def test_a_damaged_index_is_an_error(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    index = tmp_path / "p" / names(tmp_path / "p", ".index")[0]
    content = bytearray(index.read_bytes())
    for position in range(2 * ENTRY_SIZE, 3 * ENTRY_SIZE):
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        index.write_bytes(damaged)
        with pytest.raises((CorruptRecord, StorageError)):
            follow(MappedLog(log.directory, 0), 2, 5)


def test_a_data_file_cut_short_is_an_error_and_no_crash(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    log.close()
    os.truncate(tmp_path / "p" / names(tmp_path / "p", ".arrow")[0], 600)
    with pytest.raises(CorruptRecord, match="cut short"):
        MappedLog(log.directory, 0).read(0, 1, 5)


def test_it_holds_no_descriptors(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    log.close()
    before = len(os.listdir("/dev/fd"))
    mapped = [MappedLog(log.directory, 0) for _ in range(50)]
    assert all(m.read(0, 1 << 20, 5) is not None for m in mapped)
    assert len(os.listdir("/dev/fd")) == before


def test_a_closed_one_refuses(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 1)
    mapped = MappedLog(log.directory, 0)
    piece = mapped.read(0, 1, 1)
    mapped.close()
    assert len(decode(piece.data, piece.entries, DEFAULT_SCHEMA)) == 1
    with pytest.raises(StorageError, match="closed"):
        mapped.read(0, 1, 1)


READER = """
import sys
from rayqueue.storage.mapped import MappedLog
from rayqueue.protocol.batches import decode
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
mapped, offset = MappedLog(sys.argv[1], 0), 0
for line in sys.stdin:  # high watermarks
    while (piece := mapped.read(offset, 1 << 20, int(line))) is not None:
        for rows in decode(piece.data, piece.entries, DEFAULT_SCHEMA):
            for value in rows.column("value").to_pylist():
                assert value.startswith(b"record %d " % offset), (offset, value)
                offset += 1
    print(offset, flush=True)
"""


def test_another_process_reads_in_step(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=8192)
    fill(log, 1)
    command = [sys.executable, "-c", READER, log.directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for step in range(40):
            fill(log, 3)
            process.stdin.write(f"{log.log_end_offset}\n")
            process.stdin.flush()
            assert int(process.stdout.readline()) == log.log_end_offset
            if step % 10 == 9:
                log.delete_before(log.log_end_offset - 5)
        process.stdin.close()
        assert process.wait() == 0


def test_threads_read_beside_the_writer_and_a_flusher(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=8192)
    fill(log, 1)
    errors: list[BaseException] = []
    done = threading.Event()

    def reads() -> None:
        offset = 0
        try:
            while offset < 300:
                end = log.log_end_offset
                piece = log.read(offset, 4000, end)
                if piece is None:
                    assert offset == end
                    continue
                rows = [
                    v for b in decode(piece.data, piece.entries, DEFAULT_SCHEMA) for v in b.column("value").to_pylist()
                ]
                assert rows == expected(piece.base_offset, piece.next_offset)
                offset = piece.next_offset
        except BaseException as error:
            errors.append(error)

    def flushes() -> None:
        try:
            while not done.is_set():
                before = log.log_end_offset
                assert log.flush() >= before
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=reads), threading.Thread(target=reads), threading.Thread(target=flushes)]
    for thread in threads:
        thread.start()
    fill(log, 299)
    for thread in threads[:2]:
        thread.join(30)
    done.set()
    threads[2].join(30)
    assert errors == []
    assert log.read(0, 1, EVERYTHING) is not None
