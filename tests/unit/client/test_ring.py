"""Turns: nobody gets a second one before everybody has had the first."""

from __future__ import annotations

from rayqueue.client.cursor import Cursor
from rayqueue.client.ring import Ring
from tests.unit.client.fake_chunks import TOPIC_ID, FakeChunk


def filled(partition: int, records: int) -> Cursor:
    cursor = Cursor("t", TOPIC_ID, partition)
    cursor.move_to(0)
    if records:
        cursor.accept(FakeChunk(0, records), charged=True)
    return cursor


def test_turns_go_round_and_the_empty_leave() -> None:
    ring = Ring()
    cursors = [filled(0, 3), filled(1, 1), filled(2, 0), filled(3, 2)]
    for cursor in cursors:
        ring.offer(cursor)
        ring.offer(cursor)
    order = []
    while (turn := ring.next()) is not None:
        order.append(turn.partition)
        assert turn.position is not None
        turn.advance(turn.position + 1)
    assert order == [0, 1, 3, 0, 3, 0]
    assert not ring and ring.ready() == []


def test_one_that_ran_dry_comes_back_when_offered() -> None:
    ring, cursor = Ring(), filled(0, 1)
    ring.offer(cursor)
    cursor.advance(1)
    assert ring.next() is None
    cursor.accept(FakeChunk(1, 2), charged=True)
    ring.offer(cursor)
    assert ring and ring.next() is cursor


def test_those_left_out_keep_their_turn() -> None:
    ring = Ring()
    for cursor in (filled(0, 1), filled(1, 1)):
        ring.offer(cursor)
    chosen = ring.next(lambda cursor: cursor.partition == 1)
    assert chosen is not None and chosen.partition == 1
    assert ring.next(lambda cursor: False) is None
    assert len(ring.ready()) == 2
