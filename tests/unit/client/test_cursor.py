"""The cursor: what is handed out is exactly what follows the position, whatever comes from the leader."""

from __future__ import annotations

import random

import pytest

from rayqueue.client.cursor import Accepted, Cursor
from rayqueue.errors import OffsetOutOfRange
from tests.unit.client.fake_chunks import TOPIC_ID, FakeChunk


@pytest.fixture
def cursor() -> Cursor:
    made = Cursor("t", TOPIC_ID, 0)
    made.move_to(10)
    return made


def test_first_batch_may_start_before_the_offset_asked_for(cursor: Cursor) -> None:
    assert cursor.accept(FakeChunk(7, 13, batch=6), charged=True) is Accepted.APPENDED
    assert (cursor.position, cursor.fetch_offset, cursor.buffered) == (10, 13, 60)
    assert cursor.has_records
    cursor.validate()


def test_what_was_seen_is_a_duplicate_and_a_hole_is_refused(cursor: Cursor) -> None:
    assert cursor.accept(FakeChunk(0, 10), charged=True) is Accepted.DUPLICATE
    assert cursor.accept(FakeChunk(11, 12), charged=True) is Accepted.GAP
    assert not cursor.has_records and cursor.buffered == 0
    assert cursor.accept(FakeChunk(10, 14), charged=True) is Accepted.APPENDED
    assert cursor.accept(FakeChunk(12, 16), charged=True) is Accepted.APPENDED, "an overlap is cut"
    assert cursor.fetch_offset == 16
    cursor.validate()


def test_advance_frees_whole_batches(cursor: Cursor) -> None:
    cursor.accept(FakeChunk(10, 16, batch=3), charged=True)
    cursor.accept(FakeChunk(16, 22, batch=3), charged=True)
    assert cursor.advance(12) == 0
    assert cursor.advance(13) == 30
    assert cursor.advance(19) == 60
    assert (cursor.buffered, len(cursor.buffer)) == (30, 1)
    assert cursor.advance(22) == 30
    assert not cursor.has_records and cursor.fetch_offset == 22
    cursor.validate()


def test_mapped_data_holds_no_credit(cursor: Cursor) -> None:
    cursor.accept(FakeChunk(10, 20), charged=False)
    assert cursor.buffered == 100 and cursor.charged == 0
    assert cursor.advance(20) == 0


def test_moving_drops_what_was_fetched_and_forgets_the_error(cursor: Cursor) -> None:
    cursor.accept(FakeChunk(10, 20), charged=True)
    cursor.error = OffsetOutOfRange("gone")
    assert not cursor.has_records
    drops = cursor.drops
    cursor.move_to(3)
    assert (cursor.position, cursor.fetch_offset, cursor.buffered) == (3, 3, 0)
    assert not cursor.has_records and cursor.wants_data
    assert cursor.drops > drops, "rows opened before are void"
    cursor.move_by_reset("latest")
    assert cursor.position is None and cursor.reset == "latest" and not cursor.wants_data
    cursor.validate()


def test_limit_ends_the_partition(cursor: Cursor) -> None:
    cursor.accept(FakeChunk(10, 20), charged=True)
    cursor.limit = 15
    assert cursor.has_records and not cursor.finished
    cursor.advance(15)
    assert cursor.finished and not cursor.has_records
    cursor.limit = None
    assert cursor.has_records, "what lies beyond the limit was kept"


def test_paused_keeps_its_buffer(cursor: Cursor) -> None:
    cursor.accept(FakeChunk(10, 20), charged=True)
    cursor.paused = True
    assert not cursor.has_records and not cursor.wants_data
    cursor.paused = False
    assert cursor.has_records and cursor.buffered == 100


def test_mapped_segments_are_read_up_to_the_high_watermark(cursor: Cursor) -> None:
    cursor.mapping = ("directory", 1)
    cursor.high_watermark = 10
    assert not cursor.has_records
    cursor.high_watermark = 11
    assert cursor.has_records
    cursor.reset_after_drain = True
    assert not cursor.has_records, "the leader has said that nothing is at this offset"


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_chunks_is_read_without_hole_or_repetition(seed: int) -> None:
    draw = random.Random(seed)
    cursor = Cursor("t", TOPIC_ID, 0)
    cursor.move_to(draw.randrange(5))
    start = cursor.position
    assert start is not None
    seen: list[int] = []
    for _ in range(200):
        base = max(0, cursor.fetch_offset - draw.randrange(-3, 6))
        cursor.accept(FakeChunk(base, base + draw.randrange(1, 7)), charged=True)
        cursor.validate()
        while cursor.has_records and draw.random() < 0.6:
            chunk, position = cursor.buffer[0], cursor.position
            assert position is not None and chunk.base_offset <= position < chunk.next_offset
            end = draw.randrange(position, chunk.next_offset) + 1
            seen += range(position, end)
            cursor.advance(end)
            cursor.validate()
        if draw.random() < 0.05:
            cursor.drop_buffer()
    assert seen == list(range(start, start + len(seen)))
    assert len(seen) > 50
