"""Compaction beside the writer, cuts and the end of the log, mapped readers and followers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.errors import StorageError
from rayqueue.protocol.messages import BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.compaction.plan import Plan
from rayqueue.storage.compaction.run import Work
from rayqueue.storage.compaction.trimming import begun_at
from rayqueue.storage.index import batch_header
from rayqueue.storage.log import Log, LogBatch
from rayqueue.storage.mapped import MappedLog
from tests.unit.storage.compaction.harness import (
    COLUMNS,
    compact_all,
    keyed,
    records,
    settings,
)
from tests.unit.storage.harness import FastFiles

PAD = b"." * 300


def opened(directory: Path, schema: pa.Schema = DEFAULT_SCHEMA, **given: object) -> Log:
    return Log.open(FastFiles(), str(directory), schema, settings(**given))


def headers(log: Log) -> list[BatchHeader]:
    return [batch_header(entry) for part in log.entries_from(log.log_start_offset) for entry in part]


class Waiting:
    """Compaction that stops at its n-th step until it is told to go on."""

    def __init__(self, log: Log, steps: int) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.result: object = None
        self._left = steps
        closed = [one for one in log._state.segments if one.closed]
        due = Plan(log._state.compacted, closed[-1].next_offset)
        self._thread = threading.Thread(target=self._run, args=(log, due))
        self._thread.start()
        assert self.reached.wait(10)

    def _run(self, log: Log, due: Plan) -> None:
        try:
            self.result = log.compact(due, Work(0, COLUMNS, (1, 2), None, 1 << 20, self._wait_s))
        except StorageError as error:
            self.result = error
        self.reached.set()

    def _wait_s(self, _: int) -> float:
        self._left -= 1
        if not self._left:
            self.reached.set()
            assert self.go_on.wait(10)
        return 0.0

    def end(self) -> object:
        self.go_on.set()
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.result


def rewritten(directory: Path) -> Log:
    log = opened(directory)
    for _ in range(120):
        log.append([keyed(log.log_end_offset, [(b"a", PAD), (b"b", PAD)])], 0)
    return log


@pytest.mark.parametrize("steps", range(1, 40, 3))
@pytest.mark.parametrize("then", ["append", "delete", "delete all"])
def test_the_writer_goes_on_beside_it(tmp_path: Path, steps: int, then: str) -> None:
    log = rewritten(tmp_path / "p")
    end = log.log_end_offset
    waiting = Waiting(log, steps)
    if then == "append":
        for _ in range(60):
            log.append([keyed(log.log_end_offset, [(b"c", PAD)])], 0)
    else:
        log.delete_before(70 if then == "delete" else end)
    waiting.end()
    found = records(log)
    assert list(found) == sorted(found)
    if then == "append":
        assert set(range(end, end + 60)) <= set(found)
    else:
        assert min(found, default=end) >= log.log_start_offset
    if then != "delete all":
        assert {end - 2, end - 1} <= set(found)
    compact_all(log) if any(one.closed for one in log._state.segments) else None
    assert records(opened(tmp_path / "p")) == records(log)


@pytest.mark.parametrize("steps", [1, 5, 20, 30])
@pytest.mark.parametrize(
    "other",
    [lambda log: log.truncate(100), lambda log: log.reset(500), lambda log: log.close(), lambda log: log.delete()],
)
def test_a_cut_and_the_end_of_the_log_stop_it(tmp_path: Path, steps: int, other: Callable[[Log], object]) -> None:
    log = rewritten(tmp_path / "p")
    waiting = Waiting(log, steps)
    done = threading.Thread(target=other, args=(log,))
    done.start()
    result = waiting.end()
    done.join(10)
    assert not done.is_alive()
    assert isinstance(result, StorageError) or not result.finished or steps >= 20  # type: ignore[attr-defined]
    assert not list(tmp_path.glob("*/*.tmp"))
    again = opened(tmp_path / "p")
    assert again.log_end_offset in (0, 100, 240, 500)
    records(again)


def test_a_mapped_reader_never_sees_a_new_file_with_the_numbers_of_the_old(tmp_path: Path) -> None:
    """Its data is mapped after its index was looked at: in between the segment is compacted, and much shorter."""
    log = rewritten(tmp_path / "p")

    class Late(FastFiles):
        armed = True

        def map(self, path: str, length: int) -> pa.Buffer:
            if self.armed and path.endswith(".arrow"):
                self.armed = False
                compact_all(log)
            return super().map(path, length)

    reader = MappedLog(str(tmp_path / "p"), log.generation, Late())
    with pytest.raises(StorageError, match="written anew"):
        reader.read(0, 1 << 20, log.log_end_offset)
    fresh = MappedLog(str(tmp_path / "p"), log.generation)
    found = fresh.read(0, 1 << 20, log.log_end_offset)
    assert found is not None and found.base_offset == 0


def test_a_filler_is_fed_from_where_a_follower_is(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"segment.bytes": 50_000})
    for _ in range(120):
        log.append([keyed(log.log_end_offset, [(b"a", PAD), (b"b", PAD)])], 0)
    compact_all(log)
    filler = next(one for one in headers(log) if not one.record_count)
    assert filler.last_offset - filler.base_offset > 10
    for offset in (filler.base_offset, filler.base_offset + 5, filler.last_offset):
        found = log.read(offset, 1 << 20, log.log_end_offset)
        assert found is not None
        begun = begun_at(found, offset, DEFAULT_SCHEMA)
        assert begun.base_offset == offset
        follower = opened(tmp_path / str(offset))
        follower.reset(offset)
        entry = batch_header(begun.entries[0])
        length, header_length = int(begun.entries["length"][0]), int(begun.entries["header_length"][0])
        body = begun.data.slice(header_length, length - header_length)
        follower.append([LogBatch(entry, begun.data.slice(0, header_length).to_pybytes(), body)], 0)
        assert follower.log_end_offset == filler.last_offset + 1
        follower.append([keyed(follower.log_end_offset, [(b"a", b"dense")])], 0)
        assert follower.segment_count == 2, "a segment is sparse or is not"
        follower.close()
        again = opened(tmp_path / str(offset))
        assert records(again) == {filler.last_offset + 1: (b"a", b"dense")} and again.repairs == []
    assert np.all(np.diff([one.base_offset for one in headers(log)]) > 0)
