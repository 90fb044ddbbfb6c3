"""The consumer against a cluster in this process: reading, in every form, mapped and over the stream."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.errors import ConfigError, SchemaMismatch, SerializationError, UnknownTopicOrPartition
from rayqueue.message import Message
from rayqueue.types import OFFSET_BEGINNING, OFFSET_END, TopicPartition, Watermarks
from tests.integration.consumer_cluster import WAIT_S, World, numbers, take

FLIGHTS = pa.schema([("tail", pa.string()), ("delay", pa.int64())])
TIME = 1_700_000_000_000


def test_poll_gives_records_in_order_with_all_their_parts(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.producer.produce(topic, b"v0", b"k0", headers=[("h", b"1"), ("h", b"2")], timestamp=TIME).result(WAIT_S)
    world.producer.produce(topic, None, "k1", timestamp=TIME + 1).result(WAIT_S)
    consumer = world.consumer(topic, mapped_reads=mapped)
    first, second = consumer.poll(WAIT_S), consumer.poll(WAIT_S)
    assert first is not None and second is not None
    assert (first.topic, first.partition, first.offset, first.timestamp) == (topic, 0, 0, TIME)
    assert (first.timestamp_type, first.key, first.value) == (0, b"k0", b"v0")
    assert first.headers == [("h", b"1"), ("h", b"2")] and first.leader_epoch >= 0
    assert (second.offset, second.key, second.value, second.headers) == (1, b"k1", None, [])
    assert consumer.poll(0) is None
    copy = pickle.loads(pickle.dumps(first))
    assert copy == first and copy != second
    assert f"{topic}-0 offset 0" in repr(copy) and "b'v0'" in repr(copy)


def test_consume_takes_what_there_is_up_to_the_number(world: World, mapped: bool) -> None:
    topic = world.topic(partitions=3)
    for partition in range(3):
        world.fill(topic, 40, partition, start=1000 * partition)
    consumer = world.consumer(topic, mapped_reads=mapped)
    assert len(consumer.consume(7, timeout=WAIT_S)) == 7
    rest = take(consumer, 113)
    assert consumer.consume(10, timeout=0) == []
    for partition in range(3):
        mine = numbers([m for m in rest if m.partition == partition])
        assert mine == list(range(1000 * partition + 40 - len(mine), 1000 * partition + 40))


def test_partitions_take_turns(world: World) -> None:
    topic = world.topic(partitions=2)
    for partition in (0, 1):
        for start in range(0, 40, 10):
            world.fill(topic, 10, partition, start)
    consumer = world.consumer(topic, max_partition_fetch_bytes=1024)
    seen = [m.partition for m in take(consumer, 80)]
    assert 1 in seen[:45] and 0 in seen[:45], "neither partition waits for the end of the other"


def test_consume_arrow_gives_one_table_with_the_promised_schema(world: World, mapped: bool) -> None:
    topic = world.topic(partitions=2)
    consumer = world.consumer(topic, mapped_reads=mapped)
    empty = consumer.consume_arrow(timeout=0)
    assert empty.num_rows == 0
    assert empty.schema.names == ["topic", "partition", "offset", "timestamp", "key", "headers", "value"]
    assert [str(kind) for kind in empty.schema.types] == [
        "string", "int32", "int64", "timestamp[ms, tz=UTC]", "binary", "map<string, binary>", "binary",
    ]  # fmt: skip
    world.fill(topic, 5, 1, timestamp=TIME, key=b"k")
    table = consumer.consume_arrow(timeout=WAIT_S)
    while table.num_rows < 5:
        table = pa.concat_tables([table, consumer.consume_arrow(timeout=WAIT_S)])
    assert table.schema == empty.schema
    assert table.column("topic").to_pylist() == [topic] * 5
    assert table.column("partition").to_pylist() == [1] * 5
    assert table.column("offset").to_pylist() == list(range(5))
    assert table.column("value").to_pylist() == [b"%d" % i for i in range(5)]
    assert table.column("timestamp").cast(pa.int64()).to_pylist() == [TIME] * 5
    table.validate(full=True)


def test_max_records_cuts_batches_anywhere_and_loses_nothing(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.fill(topic, 100)
    consumer = world.consumer(topic, mapped_reads=mapped)
    got: list[int] = []
    while len(got) < 100:
        table = consumer.consume_arrow(max_records=7, timeout=WAIT_S)
        assert 0 < table.num_rows <= 7
        got += [int(value) for value in table.column("value").to_pylist()]
        if len(got) < 100:
            message = consumer.poll(WAIT_S)  # the ways out can be mixed
            assert message is not None
            got.append(int(message.value))
    assert got == list(range(100))


def test_columns_read_only_what_is_asked_for(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 3)
    consumer = world.consumer(topic)
    with pytest.raises(SchemaMismatch, match="delay"):
        consumer.consume_arrow(timeout=WAIT_S, columns=["delay"])
    table = consumer.consume_arrow(timeout=WAIT_S, columns=["value", "offset"])
    assert table.schema.names == ["value", "offset"] and table.column("offset").to_pylist() == [0, 1, 2]
    consumer.seek_to_beginning()
    assert consumer.consume_arrow(timeout=WAIT_S, columns=["partition"]).column("partition").to_pylist() == [0, 0, 0]
    with pytest.raises(ConfigError):
        consumer.consume_arrow(columns=[])


def test_typed_topics_come_as_dicts_and_columns_and_never_mix_with_others(world: World, mapped: bool) -> None:
    plain = world.topic(prefix="a")
    typed = world.topic(prefix="b", schema=FLIGHTS, key_column="tail")
    world.fill(plain, 4)
    world.rows(typed, pa.table({"tail": ["N1", "N2"], "delay": [5, None]}, schema=FLIGHTS))
    consumer = world.consumer(plain, typed, mapped_reads=mapped)
    tables = [consumer.consume_arrow(timeout=WAIT_S), consumer.consume_arrow(timeout=WAIT_S)]
    while sum(table.num_rows for table in tables) < 6:
        tables.append(consumer.consume_arrow(timeout=WAIT_S))
    by_topic: dict[str, int] = {}
    for table in tables:
        (name,) = set(table.column("topic").to_pylist())
        by_topic[name] = by_topic.get(name, 0) + table.num_rows
        assert ("tail" in table.schema.names) == (name == typed)
        assert ("value" in table.schema.names) == (name == plain)
    assert by_topic == {plain: 4, typed: 2}
    consumer.seek(TopicPartition(typed, 0, 0))
    first, second = consumer.poll(WAIT_S), consumer.poll(WAIT_S)
    assert first is not None and second is not None
    assert (first.key, first.value, first.headers) == ("N1", {"tail": "N1", "delay": 5}, [])
    assert second.value == {"tail": "N2", "delay": None}


def test_iteration_ends_at_the_end_as_of_its_start(world: World, mapped: bool) -> None:
    topic = world.topic(partitions=2)
    world.fill(topic, 30, 0)
    consumer = world.consumer(topic, stop_at="latest", mapped_reads=mapped)
    seen: list[Message] = []
    for message in consumer:
        if not seen:
            world.fill(topic, 10, 0, start=30)
            world.fill(topic, 10, 1, start=900)
        seen.append(message)
    assert numbers(seen) == list(range(30))
    assert sorted(numbers(list(consumer))) == [*range(30, 40), *range(900, 910)], "the next one ends later"
    assert list(consumer) == []
    world.fill(topic, 1, 0, start=40)
    assert numbers(take(consumer, 1)) == [40], "only iteration ends"


def test_iteration_follows_a_seek_made_inside_it(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 20)
    consumer = world.consumer(topic, stop_at="latest")
    seen = []
    for message in consumer:
        seen.append(message.offset)
        assert consumer.position((topic, 0)) == message.offset + 1
        if len(seen) == 3:
            consumer.seek((topic, 0), 15)
        elif len(seen) == 5:
            skipped = consumer.poll(WAIT_S)
            assert skipped is not None and skipped.offset == 17
    assert seen == [0, 1, 2, 15, 16, 18, 19]


def test_iter_batches_as_arrow_and_pandas(world: World) -> None:
    topic = world.topic(schema=FLIGHTS)
    world.rows(topic, pa.table({"tail": ["N1", "N2", "N3"], "delay": [1, 2, 3]}, schema=FLIGHTS))
    consumer = world.consumer(topic)
    tables = list(consumer.iter_batches(columns=["delay"], stop_at="latest", max_records=2))
    assert [table.num_rows for table in tables] == [2, 1]
    assert pa.concat_tables(tables).column("delay").to_pylist() == [1, 2, 3]
    consumer.seek_to_beginning()
    (frame,) = consumer.iter_batches(format="pandas", stop_at="latest")
    assert list(frame["tail"]) == ["N1", "N2", "N3"] and list(frame["offset"]) == [0, 1, 2]
    with pytest.raises(ConfigError, match="pandas"):
        consumer.iter_batches(format="polars")  # type: ignore[arg-type]


def test_seeking_in_every_spelling(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.fill(topic, 10)
    tp = TopicPartition(topic, 0)
    consumer = world.consumer(mapped_reads=mapped)
    consumer.assign([TopicPartition(topic, 0, 4)])
    assert consumer.position(tp) == 4 and numbers(take(consumer, 2)) == [4, 5]
    consumer.seek(tp, 8)
    assert numbers(take(consumer, 2)) == [8, 9]
    consumer.seek(TopicPartition(topic, 0, OFFSET_BEGINNING))
    assert numbers(take(consumer, 1)) == [0] and consumer.position(tp) == 1
    consumer.seek_to_end(tp)
    world.fill(topic, 1, start=10)
    assert numbers(take(consumer, 1)) == [10], "the end is that of the call"
    consumer.seek_to_beginning([tp])
    assert consumer.position(tp) == 0
    consumer.seek(tp, OFFSET_END)
    assert consumer.position(tp) == 11 and consumer.lag() == {tp: 0}
    consumer.assign([tp])
    assert consumer.position(tp) == 11, "assigned again without an offset it stays where it is"
    with pytest.raises(UnknownTopicOrPartition, match="not read by this consumer"):
        consumer.seek(TopicPartition(topic, 1), 0)


def test_pause_loses_nothing(world: World, mapped: bool) -> None:
    topic = world.topic(partitions=2)
    world.fill(topic, 20, 0)
    consumer = world.consumer(topic, mapped_reads=mapped)
    assert numbers(take(consumer, 5)) == list(range(5))
    consumer.pause(TopicPartition(topic, 0))
    assert consumer.paused() == [TopicPartition(topic, 0)]
    assert consumer.poll(0) is None
    world.fill(topic, 5, 0, start=20)
    world.fill(topic, 3, 1, start=100)
    assert numbers(take(consumer, 3)) == [100, 101, 102]
    assert consumer.poll(0) is None and consumer.consume_arrow(timeout=0).num_rows == 0
    consumer.resume(TopicPartition(topic, 0))
    assert consumer.paused() == []
    assert numbers(take(consumer, 20)) == list(range(5, 25))


def test_watermarks_times_and_lag(world: World) -> None:
    topic = world.topic(partitions=2)
    for i in range(5):
        world.producer.produce(topic, b"x", partition=0, timestamp=TIME + 1000 * i).result(WAIT_S)
    a, b = TopicPartition(topic, 0), TopicPartition(topic, 1)
    consumer = world.consumer()
    assert consumer.get_watermark_offsets(a) == Watermarks(0, 5) and consumer.get_watermark_offsets(b) == (0, 0)
    when = datetime.fromtimestamp((TIME + 1500) / 1000, timezone.utc)
    found = consumer.offsets_for_times({a: when, b: TIME})
    assert found[a].offset == 2 and found[a].timestamp == TIME + 2000 and found[b] is None
    late, first = consumer.offsets_for_times([TopicPartition(topic, 0, TIME + 9000), TopicPartition(topic, 0, 0)])
    assert late.offset == OFFSET_END and first.offset == 0
    consumer.subscribe(topic)
    for tp in consumer.offsets_for_times([TopicPartition(topic, 0, TIME + 3000)]):
        consumer.seek(tp)
    assert consumer.lag() == {a: 2, b: 0}
    with pytest.raises(UnknownTopicOrPartition):
        consumer.get_watermark_offsets(TopicPartition(topic, 9))
    with pytest.raises(UnknownTopicOrPartition, match="topic create"):
        consumer.get_watermark_offsets(TopicPartition("nowhere", 0))


def test_append_time_of_the_log(world: World, mapped: bool) -> None:
    topic = world.topic(config={"message.timestamp.type": "LogAppendTime"})
    world.fill(topic, 2, timestamp=5)
    consumer = world.consumer(topic, mapped_reads=mapped)
    message = consumer.poll(WAIT_S)
    assert message is not None and message.timestamp > TIME and message.timestamp_type == 1
    assert consumer.consume_arrow(timeout=WAIT_S).column("timestamp").cast(pa.int64())[0].as_py() > TIME


def test_compressed_batches(world: World, mapped: bool) -> None:
    topic = world.topic(config={"compression.type": "zstd"})
    world.fill(topic, 50, size=500)
    consumer = world.consumer(topic, mapped_reads=mapped)
    assert numbers(take(consumer, 50)) == list(range(50))


@pytest.mark.parametrize(
    ("given", "raw", "made"),
    [("json", b'{"a": 1}', {"a": 1}), ("utf-8", "ä".encode(), "ä"), (len, b"four", 4)],
)
def test_deserializers(world: World, given: Any, raw: bytes, made: Any) -> None:
    topic = world.topic()
    world.producer.produce(topic, raw, raw)
    world.producer.produce(topic, None, None)
    world.producer.flush(WAIT_S)
    consumer = world.consumer(topic, value_deserializer=given, key_deserializer=given)
    first, second = take(consumer, 2)
    assert (first.key, first.value, second.key, second.value) == (made, made, None, None)


def test_a_value_that_cannot_be_deserialized_names_its_place_and_holds_nobody_up(world: World) -> None:
    topic = world.topic()
    for value in (b"1", b"{", b"3"):
        world.producer.produce(topic, value).result(WAIT_S)
    consumer = world.consumer(topic, value_deserializer="json")
    first, bad, last = take(consumer, 3)
    with pytest.raises(SerializationError, match=f"{topic}-0 offset 1"):
        _ = bad.value
    assert (first.value, last.value) == (1, 3) and "cannot be deserialized" in repr(bad)


def values_in(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Address and length of the values' bytes, by chunk."""
    for chunk in table.column("value").chunks:
        data = chunk.buffers()[2]
        yield data.address, data.size


def test_mapped_values_lie_in_the_mapping_of_the_segment(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.fill(topic, 200, size=100)
    table = world.consumer(topic, mapped_reads=mapped).consume_arrow(timeout=WAIT_S)
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if any(str(path) in line for path in world.segments(topic)):
            low, high = line.split()[0].split("-")
            ranges.append((int(low, 16), int(high, 16)))
    inside = [any(low <= at and at + size <= high for low, high in ranges) for at, size in values_in(table)]
    assert inside and all(inside) == mapped and any(inside) == mapped
