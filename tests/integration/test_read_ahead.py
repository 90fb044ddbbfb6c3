"""Tables at full speed from mapped segments: what is read ahead, and everything that may come in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from rayqueue.consumer import Consumer
from rayqueue.errors import CorruptRecord
from rayqueue.protocol.crc import RELEASES
from tests.integration.consumer_cluster import WAIT_S, World, take
from tests.integration.test_consumer_faults import damage

ROWS, BATCHES, SIZE = 300, 40, 1000  # 12 MB
RECORDS = ROWS * BATCHES
CHUNK = 2 << 20


def filled(world: World) -> str:
    topic = world.topic()
    for batch in range(BATCHES):
        values = [b"<%d>" % (batch * ROWS + row) + bytes(SIZE) for row in range(ROWS)]
        world.rows(topic, pa.table({"value": pa.array(values, pa.binary())}))
    return topic


def reader(world: World, topic: str) -> Consumer:
    return world.consumer(topic, max_partition_fetch_bytes=CHUNK)


def numbers(table: pa.Table) -> list[int]:
    found = [int(value[1 : value.index(b">")]) for value in table["value"].to_pylist()]
    assert found == table["offset"].to_pylist(), "each value is the one of its offset"
    return found


def rest(consumer: Consumer, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        table = consumer.consume_arrow(max_records=700, timeout=WAIT_S)
        assert table.num_rows, f"only {len(found)} of {count} came"
        found += numbers(table)
    return found


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rayqueue-ahead"]


def test_bulk_is_read_ahead_in_order_and_close_ends_the_thread(world: World) -> None:
    topic = filled(world)
    consumer = reader(world, topic)
    assert rest(consumer, RECORDS) == list(range(RECORDS))
    assert len(helpers()) == RELEASES
    assert len(take(reader(world, topic), RECORDS)) == RECORDS
    assert len(helpers()) == RELEASES, "messages have no thread"
    consumer.close()
    assert not helpers()


def test_lone_records_have_no_thread(world: World) -> None:
    topic = world.topic()
    consumer = reader(world, topic)
    for number in range(3):
        world.fill(topic, 1, start=number)
        assert consumer.consume_arrow(timeout=WAIT_S)["value"].to_pylist() == [b"%d" % number]
    assert not helpers()


def test_a_damaged_batch_in_what_is_read_ahead_comes_at_its_place(world: World) -> None:
    topic = filled(world)
    bad = 25 * ROWS
    damage(world, topic, b"<%d>" % (bad + 7))
    consumer = reader(world, topic)
    found: list[int] = []
    with pytest.raises(CorruptRecord, match=f"offset {bad}.*seek"):
        while True:
            found += numbers(consumer.consume_arrow(max_records=700, timeout=WAIT_S))
    assert found == list(range(bad))
    consumer.seek((topic, 0), bad + ROWS)
    assert rest(consumer, RECORDS - bad - ROWS) == list(range(bad + ROWS, RECORDS))


def test_seek_pause_and_unassign_while_reading_ahead(world: World) -> None:
    topic = filled(world)
    consumer = reader(world, topic)
    assert rest(consumer, 700)[:700] == list(range(700))
    for start in (9000, 10, 5555, 0):
        consumer.seek((topic, 0), start)
        assert rest(consumer, 700)[:700] == list(range(start, start + 700))
    at = consumer.position((topic, 0))
    consumer.pause((topic, 0))
    assert not consumer.consume_arrow(timeout=0).num_rows
    consumer.resume((topic, 0))
    assert rest(consumer, 700)[0] == at
    consumer.unassign()
    consumer.assign((topic, 0, 11_000))
    assert rest(consumer, 1000) == list(range(11_000, RECORDS))


def test_an_interrupt_between_taking_and_moving_on_loses_nothing(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 20)
    consumer = reader(world, topic)
    found = [consumer.poll(WAIT_S) for _ in range(3)]
    for call in (lambda: consumer.poll(WAIT_S), lambda: consumer.consume(5, WAIT_S)) * 2:
        hand = consumer._reader._hand

        def interrupted(hand: Iterator[object] = hand) -> Iterator[object]:
            next(hand, None)
            raise KeyboardInterrupt
            yield

        consumer._reader._hand = interrupted()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            call()
        found.append(consumer.poll(WAIT_S))
    found += take(consumer, 13)
    assert [message.offset for message in found if message is not None] == list(range(20))
