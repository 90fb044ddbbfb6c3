"""What waits to be encoded: in order within a partition, together where it may be, one topic not behind another."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from rayqueue.client.io.backlog import Backlog
from rayqueue.client.io.future import BatchFuture, Receipt
from rayqueue.client.io.producer_batches import TablePiece, pieces_to_batches
from rayqueue.client.io.topics import ProducerTopic
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from tests.unit.client.test_producer_batches import make_chunk, make_topic, rows

LIMIT = 1000


def piece(
    topic: ProducerTopic, number: int, count: int = 3, reserved: int = 100, whole: list[int] | None = None
) -> TablePiece:
    values = [b"%d-%d" % (number, i) for i in range(count)]
    columns = [pa.nulls(count, pa.binary()), pa.array(values, pa.binary()), pa.nulls(count, DEFAULT_SCHEMA[2].type)]
    times = pa.array([1000 + number] * count).cast(DEFAULT_SCHEMA[3].type)
    batch = pa.RecordBatch.from_arrays([*columns, times], schema=DEFAULT_SCHEMA)
    receipt = Receipt("t", lambda pairs: None, together=True)
    return TablePiece(topic, receipt, batch, [] if whole is None else whole, None, reserved, True, 0.0)


def taken(backlog: Backlog, limit: int = LIMIT) -> list[list[Any]]:
    runs = []
    while run := backlog.take(lambda topic: True, limit):
        runs.append(run)
    return runs


def test_pieces_for_one_partition_go_together_up_to_the_limit() -> None:
    topic = make_topic()
    items = [piece(topic, number, reserved=400) for number in range(5)]
    backlog = Backlog()
    backlog.extend(items)
    assert taken(backlog) == [items[:2], items[2:4], items[4:]]
    assert not backlog


def test_a_chunk_keeps_its_place_between_pieces() -> None:
    topic = make_topic()
    before, chunk, after = piece(topic, 0), make_chunk(topic, [(b"v", None)]), piece(topic, 1)
    backlog = Backlog()
    backlog.extend([before, chunk, after])
    assert taken(backlog) == [[before], [chunk], [after]]


def test_pieces_of_one_partition_are_found_behind_those_of_others_and_stay_in_order() -> None:
    topic = make_topic(partitions=2)
    items = [piece(topic, number, whole=[number % 2]) for number in range(6)]
    backlog = Backlog()
    backlog.extend(items)
    assert taken(backlog, limit=250) == [[items[0], items[2]], [items[1], items[3]], [items[4]], [items[5]]]


def test_a_keyed_piece_is_passed_by_nobody() -> None:
    topic = make_topic(partitions=2)
    keyed = piece(topic, 1)._replace(whole=None)
    items = [piece(topic, 0, whole=[0]), keyed, piece(topic, 2, whole=[0])]
    backlog = Backlog()
    backlog.extend(items)
    assert taken(backlog) == [[item] for item in items]


def test_the_end_of_a_call_that_was_cut_short_stays_alone() -> None:
    topic = make_topic()
    items = [piece(topic, 0), piece(topic, 1)._replace(batch=None), piece(topic, 2)]
    backlog = Backlog()
    backlog.extend(items)
    assert taken(backlog) == [[item] for item in items]


def test_a_topic_without_room_holds_up_no_other_and_each_gets_its_turn() -> None:
    full, one, two = make_topic(), make_topic(), make_topic()
    backlog = Backlog()
    backlog.extend([piece(topic, number, reserved=LIMIT) for number in range(2) for topic in (full, one, two)])
    turns = []
    while run := backlog.take(lambda topic: topic is not full, LIMIT):
        turns.append(run[0].topic)
    assert turns == [one, two, one, two]
    assert [item.topic for item in backlog.drain()] == [full, full]
    assert not backlog


def test_what_goes_with_nothing_else_waits_for_no_room() -> None:
    topic = make_topic()
    chunk, waiting = make_chunk(topic, [(b"v", None)]), piece(topic, 1)
    backlog = Backlog()
    backlog.extend([chunk, waiting])
    assert backlog.take(lambda topic: False, LIMIT) == [chunk]
    assert backlog.take(lambda topic: False, LIMIT) == []
    assert backlog.take(lambda topic: True, LIMIT) == [waiting]


def test_pieces_made_one_batch_are_told_apart_by_their_futures() -> None:
    topic = make_topic()
    run = [piece(topic, number, count=number + 1, reserved=number) for number in range(3)]
    (batch,) = pieces_to_batches(run, LIMIT, 0.0)
    assert [row["value"] for row in rows(batch)] == [b"0-0", b"1-0", b"1-1", b"2-0", b"2-1", b"2-2"]
    assert [part.reserved for part in batch.part] == [0, 1, 2]
    offset = 70
    for part in batch.part:
        assert part.receipt.settle(part, offset, -1, None)
        offset += part.count
    assert [BatchFuture(item.receipt).result(0) for item in run] == [[(0, 70, 1)], [(0, 71, 2)], [(0, 73, 3)]]
