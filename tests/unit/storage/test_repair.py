"""An index that a reader makes again, beside a writer that cuts the log or closes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.log import Log
from tests.unit.storage.harness import EVERYTHING, FastFiles, config, expected, fill, names, values


def opened(directory: Path, settings: TopicConfig | None = None) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, settings or config(segment_bytes=4096))


def damage_index(directory: Path, name: str) -> None:
    """That of the batch at offset 20."""
    path = directory / name
    raw = bytearray(path.read_bytes())
    raw[20 * ENTRY_SIZE + 8] ^= 1
    path.write_bytes(raw)


def test_a_reader_that_repairs_an_index_finds_the_segment_cut_meanwhile(tmp_path: Path) -> None:
    """It takes the segment, finds the index damaged, and before it has the lock the segment is cut: with the old
    length it would read beyond the end of the new file (SIGBUS), and lay the old index over the new one."""
    log = opened(tmp_path / "p", settings=config(segment_bytes=100_000))
    fill(log, 150, size=1000)
    segment = log._state.segments[0]
    assert segment.closed
    repair = log._durability.repair_index
    repaired = []

    def later(which: object) -> None:
        log.truncate(4)
        repaired.append(which)
        repair(which)  # type: ignore[arg-type]

    log._durability.repair_index = later  # type: ignore[method-assign,assignment]
    damage_index(tmp_path / "p", names(tmp_path / "p", ".index")[0])
    segment.release()
    with pytest.raises(CorruptRecord, match="missing"):
        log.read(20, 100, EVERYTHING)
    assert repaired == [segment] and segment.removed
    fill(log, 2, epoch=3)
    assert values(log) == expected(0, 4, 1000) + expected(4, 6)
    assert values(opened(tmp_path / "p")) == values(log)


def test_a_reader_makes_no_index_for_a_log_that_is_closed(tmp_path: Path) -> None:
    log = opened(tmp_path / "p")
    fill(log, 10, count=3)
    segment = log._state.segments[0]
    log.close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    with pytest.raises(StorageError, match="closed"):
        log._durability.repair_index(segment)
    assert {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before
