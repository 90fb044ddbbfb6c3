"""Looking up by time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.messages import LOG_APPEND_TIME
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.harness import EVERYTHING, FastFiles, batch, config, names


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def test_the_first_record_at_or_after_a_time(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    for i in range(20):
        log.append([batch(3 * i, 3, timestamp=1000 + 10 * i)], 0)
    assert log.offset_for_timestamp(-5, EVERYTHING) == (0, 1000)
    assert log.offset_for_timestamp(1000, EVERYTHING) == (0, 1000)
    assert log.offset_for_timestamp(1002, EVERYTHING) == (2, 1002)
    assert log.offset_for_timestamp(1003, EVERYTHING) == (3, 1010)
    assert log.offset_for_timestamp(1151, EVERYTHING) == (46, 1151)
    assert log.offset_for_timestamp(1192, EVERYTHING) == (59, 1192)
    assert log.offset_for_timestamp(1193, EVERYTHING) is None
    assert log.offset_for_timestamp(1151, 46) is None
    assert log.offset_for_timestamp(1151, 48) == (46, 1151)


def test_times_need_not_ascend(tmp_path: Path) -> None:
    rng = random.Random(5)
    log = open_log(tmp_path / "p", segment_bytes=4096)
    times = [rng.randrange(1000) for _ in range(40)]
    for offset, timestamp in enumerate(times):
        log.append([batch(offset, timestamp=timestamp)], 0)
    log.delete_before(7)
    for reopened in (log, open_log(tmp_path / "p")):
        for wanted in range(0, 1001, 13):
            right = next(((o, t) for o, t in enumerate(times) if o >= 7 and t >= wanted), None)
            assert reopened.offset_for_timestamp(wanted, EVERYTHING) == right


def test_records_below_the_log_start_are_not_found(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    log.append([batch(0, 10, timestamp=100)], 0)
    log.delete_before(4)
    assert log.offset_for_timestamp(0, EVERYTHING) == (4, 104)


def test_append_time_holds_for_every_record_of_its_batch(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    log.append([batch(0, 3, timestamp=100), batch(3, 3, timestamp=200, attributes=LOG_APPEND_TIME)], 0)
    assert log.offset_for_timestamp(103, EVERYTHING) == (3, 202)
    assert log.offset_for_timestamp(202, EVERYTHING) == (3, 202)


def test_a_damaged_batch_is_an_error(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    log.append([batch(offset, timestamp=1000 + offset) for offset in range(3)], 0)
    log.close()
    path = tmp_path / "p" / names(tmp_path / "p", ".arrow")[0]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    log = open_log(tmp_path / "p")
    assert log.offset_for_timestamp(1001, EVERYTHING) == (1, 1001)
    with pytest.raises(CorruptRecord, match="offsets 2 to 2"):
        log.offset_for_timestamp(1002, EVERYTHING)
