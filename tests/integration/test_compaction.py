"""A compacted topic from outside: who reads it, in whichever way, finds the newest record of each key at its offset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayqueue import Producer
from rayqueue.errors import InvalidRecord, StorageError
from rayqueue.storage.verify import verify
from rayqueue.testing.inprocess import InProcessCluster
from rayqueue.types import TopicPartition
from tests.integration.consumer_cluster import WAIT_S, World
from tests.integration.waiting import eventually

SETTINGS: dict[str, Any] = {
    "cleanup.policy": "compact",
    "segment.bytes": 8192,
    "min.cleanable.dirty.ratio": 0,
    "max.message.bytes": 4096,
}
KEYS = 10
ROUNDS = 120


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = {"log.retention.check.interval.ms": 50}
    with InProcessCluster(tmp_path_factory.mktemp("cluster"), config=config) as cluster:
        made = World(cluster)
        yield made
        made.close()


def key(number: int) -> bytes:
    return b"key %d" % (number % KEYS)


def value(number: int) -> bytes:
    return b"value %d " % number + b"." * 40


def keyed(producer: Producer, topic: str, first: int, count: int) -> None:
    """Records of which each key's is written again and again, a batch a round; the last ones of all keys are behind
    the last closed segment, or in it."""
    for start in range(first, first + count, KEYS):
        for number in range(start, start + KEYS):
            producer.produce(topic, value(number), key=key(number), partition=0)
        producer.flush(WAIT_S)


def compacted(path: Path, end: int) -> int:
    """Waits until the log has been compacted; how many records are left."""

    def left() -> int:
        try:
            reports = list(verify(str(path)))
        except (FileNotFoundError, StorageError):
            return 0  # files are being swapped
        if any(report.problems for report in reports):
            return 0
        closed = [report for report in reports if report.closed]
        few = sum(report.records for report in closed) <= KEYS
        return sum(report.records for report in reports) if few and reports[-1].next_offset == end else 0

    return int(eventually(left, WAIT_S, f"compaction of {path}"))


@pytest.fixture(scope="module")
def topic(shared: World) -> str:
    name = shared.topic(config=SETTINGS)
    keyed(shared.producer, name, 0, KEYS * ROUNDS)
    compacted(shared.segments(name)[0].parent, KEYS * ROUNDS)
    return name


def assert_newest(found: dict[int, tuple[bytes, bytes]]) -> None:
    """By offset: every record is what was written there, and the newest of each key is among them."""
    assert all(record == (key(offset), value(offset)) for offset, record in found.items())
    assert set(range(KEYS * (ROUNDS - 1), KEYS * ROUNDS)) <= set(found)
    assert len(found) < KEYS * ROUNDS / 4


def test_records_are_read_one_by_one(world: World, topic: str, mapped: bool) -> None:
    consumer = world.consumer(topic, mapped_reads=mapped)
    found = {}
    offsets = []
    while (message := consumer.poll(timeout=1.0)) is not None:
        found[message.offset] = (message.key, message.value)
        offsets.append(message.offset)
        assert message.timestamp > 0 and message.headers == []
        assert consumer.position(TopicPartition(topic, 0)) == message.offset + 1
    assert offsets == sorted(set(offsets))
    assert_newest(found)
    assert consumer.position(TopicPartition(topic, 0)) == KEYS * ROUNDS


def test_records_are_read_in_lists(world: World, topic: str, mapped: bool) -> None:
    consumer = world.consumer(topic, mapped_reads=mapped)
    found = {}
    while messages := consumer.consume(7, timeout=1.0):
        found.update({one.offset: (one.key, one.value) for one in messages})
    assert_newest(found)


@pytest.mark.parametrize("columns", [None, ["offset", "key", "value"]])
def test_tables_have_true_offsets(world: World, topic: str, mapped: bool, columns: list[str] | None) -> None:
    consumer = world.consumer(topic, mapped_reads=mapped)
    tables = []
    while (table := consumer.consume_arrow(max_records=9, timeout=1.0, columns=columns)).num_rows:
        assert table.num_rows <= 9
        tables.append(table)
    whole = pa.concat_tables(tables)
    rows = zip(whole["key"].to_pylist(), whole["value"].to_pylist(), strict=True)
    assert_newest(dict(zip(whole["offset"].to_pylist(), rows, strict=True)))


def test_a_reader_that_seeks_into_a_hole_gets_what_comes_next(world: World, topic: str, mapped: bool) -> None:
    consumer = world.consumer(mapped_reads=mapped)
    consumer.assign([TopicPartition(topic, 0, 1)])
    first = consumer.poll(timeout=WAIT_S)
    assert first is not None and first.offset > KEYS
    consumer.seek(TopicPartition(topic, 0, first.offset - 1))
    again = consumer.poll(timeout=WAIT_S)
    assert again is not None and (again.offset, again.value) == (first.offset, first.value)
    consumer.seek(TopicPartition(topic, 0, first.offset + 1))
    following = consumer.poll(timeout=WAIT_S)
    assert following is not None and following.offset > first.offset


def test_a_record_without_a_key_is_refused(world: World, topic: str) -> None:
    with pytest.raises(InvalidRecord, match="give every record a key"):
        world.producer.produce(topic, b"no key", partition=0).result(WAIT_S)


def test_a_typed_topic_is_compacted_by_its_key_column(world: World, mapped: bool) -> None:
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("amount", pa.float64())])
    topic = world.topic(config=SETTINGS, schema=schema, key_column="id")
    for start in range(0, KEYS * ROUNDS, KEYS):
        numbers = list(range(start, start + KEYS))
        table = pa.table(
            {
                "id": pa.array([number % KEYS for number in numbers], pa.int64()),
                "name": [f"n {number}" + "." * 40 for number in numbers],
                "amount": [float(number) for number in numbers],
            },
            schema=schema,
        )
        world.rows(topic, table)
    compacted(world.segments(topic)[0].parent, KEYS * ROUNDS)
    consumer = world.consumer(topic, mapped_reads=mapped)
    found = {}
    while (message := consumer.poll(timeout=1.0)) is not None:
        assert message.key == message.offset % KEYS and message.value["amount"] == float(message.offset)
        found[message.offset] = message.value["name"]
    assert len(found) < KEYS * ROUNDS / 4
    table = world.consumer(topic, mapped_reads=mapped).consume_arrow(timeout=WAIT_S, columns=["amount", "offset"])
    assert table["amount"].to_pylist() == [float(one) for one in table["offset"].to_pylist()]


def test_a_mapped_reader_goes_on_while_the_log_is_compacted_under_it(world: World) -> None:
    topic = world.topic(config={**SETTINGS, "min.compaction.lag.ms": 3_600_000, "max.compaction.lag.ms": 7_200_000})
    keyed(world.producer, topic, 0, KEYS * ROUNDS)
    consumer = world.consumer(topic)
    begun = [consumer.poll(timeout=WAIT_S) for _ in range(25)]
    assert [one.offset for one in begun if one is not None] == list(range(25))
    world.admin.alter_topic_config(topic, {"min.compaction.lag.ms": 0})
    compacted(world.segments(topic)[0].parent, KEYS * ROUNDS)
    found = {}
    while (message := consumer.poll(timeout=1.0)) is not None:
        assert (message.key, message.value) == (key(message.offset), value(message.offset))
        found[message.offset] = message
    assert list(found) == sorted(found)
    assert set(range(KEYS * (ROUNDS - 1), KEYS * ROUNDS)) <= set(found)
