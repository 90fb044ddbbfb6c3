"""Reading ahead: CRCs compared beside the reader, damage left to it, and the life of the thread."""

from __future__ import annotations

import logging
import threading

import pyarrow as pa
import pytest

from rayqueue.client.fetching.ahead import WAITING_MAX, Ahead
from rayqueue.client.fetching.chunk import LogChunk
from rayqueue.errors import CorruptRecord
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from tests.unit.client.test_consumer_chunks import chunk_of, opened, spied, values

FEW = [{"count": 2}] * 5


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rayqueue-ahead"]


class Signalled(LogChunk):
    """Says when the thread has done with it, and may hold it up."""

    __slots__ = ("done", "go")

    @classmethod
    def of(cls, chunk: LogChunk, go: bool = True) -> Signalled:
        made = cls(chunk._data, chunk._entries, True)
        made.done, made.go = threading.Event(), threading.Event()
        if go:
            made.go.set()
        return made

    def check_ahead(self) -> None:
        assert self.go.wait(10)
        try:
            super().check_ahead()
        finally:
            self.done.set()


def test_what_was_checked_ahead_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = spied(monkeypatch)
    chunk = chunk_of(*FEW)
    chunk.check_ahead()
    assert checked == [0, 2, 4, 6, 8]
    assert values(opened(chunk, 0)) == list(range(10))
    assert checked == [0, 2, 4, 6, 8]


def test_the_reader_checks_what_is_left_and_the_thread_goes_on_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = spied(monkeypatch)
    chunk = chunk_of(*FEW)
    assert values(opened(chunk, 0, 1)) == [0, 1]
    chunk.check_ahead()
    assert checked == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("damaged", range(5))
def test_a_damaged_batch_is_left_to_the_reader(damaged: int) -> None:
    chunk = chunk_of(*FEW, damaged=damaged)
    with pytest.raises(CorruptRecord):
        chunk.check_ahead()
    if damaged:
        assert values(opened(chunk, 0)) == list(range(2 * damaged)), "what comes before it is handed out"
    with pytest.raises(CorruptRecord, match=f"offsets {2 * damaged} to {2 * damaged + 1} does not match its CRC32C"):
        opened(chunk, 2 * damaged)
    if damaged < 4:
        assert values(opened(chunk, 2 * damaged + 2)) == list(range(2 * damaged + 2, 10)), "one can go on after it"


def test_a_damaged_index_entry_is_left_to_the_reader_too() -> None:
    sound = chunk_of(*FEW)
    entries = sound._entries.copy()
    entries["max_timestamp"][2] += 1
    chunk = LogChunk(sound._data, entries, True)
    with pytest.raises(CorruptRecord):
        chunk.check_ahead()
    assert values(opened(chunk, 0)) == [0, 1, 2, 3]
    with pytest.raises(CorruptRecord, match="the index entry after offset 3"):
        opened(chunk, 4)


def test_reader_and_thread_at_once_find_the_damaged_batch_every_time() -> None:
    described = [{"count": 1}] * 60
    helper = Ahead()
    for damaged in range(0, 60, 3):
        chunk = chunk_of(*described, damaged=damaged)
        helper.check(chunk)
        found: list[int] = []
        with pytest.raises(CorruptRecord, match=f"offsets {damaged} to {damaged} "):
            while True:
                found += values(opened(chunk, len(found)))
        assert found == list(range(damaged))
    helper.close()


def test_the_thread_begins_with_the_first_chunk_and_ends_with_close() -> None:
    before = len(helpers())
    helper = Ahead()
    assert len(helpers()) == before, "who reads no bulk has no thread"
    damaged, sound = Signalled.of(chunk_of(*FEW, damaged=2)), Signalled.of(chunk_of(*FEW))
    helper.check(damaged)
    helper.check(sound)
    assert damaged.done.wait(10) and sound.done.wait(10), "a damaged batch does not end it"
    assert len(helpers()) == before + 1
    helper.close()
    assert len(helpers()) == before
    helper.close()
    late = Signalled.of(chunk_of(*FEW))
    helper.check(late)
    assert not late.done.is_set() and len(helpers()) == before, "closed means closed"


def test_close_waits_for_the_thread_at_work_and_few_chunks_wait() -> None:
    helper = Ahead()
    slow = Signalled.of(chunk_of(*FEW), go=False)
    helper.check(slow)
    others = [Signalled.of(chunk_of(*FEW)) for _ in range(WAITING_MAX + 3)]
    for chunk in others:
        helper.check(chunk)
    slow.go.set()
    helper.close()
    assert slow.done.is_set() and sum(chunk.done.is_set() for chunk in others) <= WAITING_MAX + 1


def test_without_a_thread_to_be_had_the_reader_does_it_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    helper = Ahead()
    with caplog.at_level(logging.WARNING, "rayqueue.consumer"):
        for _ in range(3):
            helper.check(chunk_of(*FEW))
    helper.close()
    assert [record.getMessage() for record in caplog.records] == ["no reading ahead: can't start new thread"]


def test_a_chunk_whose_crcs_are_not_wanted_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = spied(monkeypatch)
    chunk = chunk_of(*FEW, check=False, damaged=1)
    chunk.check_ahead()
    assert checked == [] and isinstance(chunk.run_at(0, DEFAULT_SCHEMA, None, 1 << 30).batches[0], pa.RecordBatch)
