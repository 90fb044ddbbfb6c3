"""The producer against the real data plane (actor classes in this process): what it acked stands in the segments.

The segments are read with plain pyarrow, so nothing of ours stands between the test and the file.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from datetime import time as clock
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.admin import AdminClient
from rayqueue.client.murmur2 import partition_of
from rayqueue.consumer import Consumer
from rayqueue.errors import InvalidTopic, RayQueueError, RecordTooLarge, SchemaMismatch, UnknownTopicOrPartition
from rayqueue.producer import Producer
from rayqueue.testing.inprocess import InProcessCluster

WAIT_S = 30.0


class World:
    """A cluster and an admin client."""

    def __init__(self, cluster: InProcessCluster) -> None:
        self.cluster = cluster
        self.admin = AdminClient(bootstrap_servers=cluster.bootstrap_servers)

    def topic(self, partitions: int = 1, **options: Any) -> str:
        name = f"t-{uuid.uuid4().hex[:8]}"
        self.admin.create_topic(name, partitions=partitions, **options)
        return name

    def producer(self, **settings: Any) -> Producer:
        return Producer(bootstrap_servers=self.cluster.bootstrap_servers, **settings)

    def read(self, topic: str, partition: int = 0) -> pa.Table:
        """All rows of a partition, from its segment files."""
        files = sorted(self.cluster.data_dir.glob(f"*/partitions/{topic}-*-{partition}/*.arrow"))
        batches = []
        for file in files:
            with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
                batches += list(reader)
        return pa.Table.from_batches(batches) if batches else pa.table({"value": [], "carrier": []})

    def values(self, topic: str, partition: int = 0) -> list[Any]:
        values: list[Any] = self.read(topic, partition).column("value").to_pylist()
        return values


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # One replica: the tests look for a partition's records in whatever directory has them.
    with InProcessCluster(tmp_path_factory.mktemp("data"), 2, {"default.replication.factor": 1}) as cluster:
        made = World(cluster)
        yield made
        made.admin.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A cluster that the test may harm."""
    with InProcessCluster(tmp_path) as cluster:
        made = World(cluster)
        yield made
        made.admin.close()


def test_every_future_names_the_place_of_its_record(world: World) -> None:
    topic = world.topic(3)
    with world.producer(linger_ms=2) as producer:
        keys = [None if i % 4 == 0 else f"k{i % 9}" for i in range(5000)]
        futures = [producer.produce(topic, b"%d" % i, key) for i, key in enumerate(keys)]
    stored = {p: world.values(topic, p) for p in range(3)}
    assert sum(map(len, stored.values())) == 5000
    for i, future in enumerate(futures):
        where = future.result(0)
        assert stored[where.partition][where.offset] == b"%d" % i
        if keys[i] is not None:
            assert where.partition == partition_of(keys[i].encode(), 3)
    for values in stored.values():
        numbers = [int(value) for value in values]
        assert numbers == sorted(numbers), "the order of produce() calls"


def test_all_columns_of_a_record_are_stored(world: World) -> None:
    topic = world.topic()
    with world.producer() as producer:
        done = producer.produce(topic, "v", "k", headers={"h": b"\x00"}, timestamp=1_357_000_000_123).result(WAIT_S)
    assert done.timestamp == 1_357_000_000_123
    (row,) = world.read(topic).to_pylist()
    assert (row["key"], row["value"], row["headers"]) == (b"k", b"v", [("h", b"\x00")])
    assert int(row["timestamp"].timestamp() * 1000) == 1_357_000_000_123


def test_log_append_time_is_what_the_future_says(world: World) -> None:
    topic = world.topic(config={"message.timestamp.type": "LogAppendTime"})
    with world.producer() as producer:
        done = producer.produce(topic, b"v", timestamp=1000).result(WAIT_S)
    assert done.timestamp > 1_700_000_000_000


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_compressed_batches_are_stored_as_they_came(world: World, codec: str) -> None:
    topic = world.topic()
    with world.producer(compression_type=codec) as producer:
        producer.produce_batch(topic, [{"value": b"same" * 1000}] * 100).result(WAIT_S)
    assert world.values(topic) == [b"same" * 1000] * 100
    size = sum(f.stat().st_size for f in world.cluster.data_dir.glob(f"*/partitions/{topic}-*/*.arrow"))
    assert (size < 100_000) is (codec != "none")


def test_ten_typed_columns_there_and_back(world: World) -> None:
    table = pa.table(
        {
            "i8": pa.array([1, -1, None], pa.int8()), "u64": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "f32": pa.array([0.5, None, -1], pa.float32()), "s": ["a", "é", None],
            "b": pa.array([b"", b"\xff", None]), "t": pa.array([1, 2, None], pa.timestamp("us", tz="UTC")),
            "l": pa.array([[1, 2], [], None], pa.list_(pa.int32())), "o": [True, False, None],
            "d": pa.array([1, 2, None], pa.date32()), "n": pa.array([{"x": 1}, {"x": None}, None]),
        }
    )  # fmt: skip
    topic = world.topic(schema=table.schema)
    with world.producer() as producer:
        assert producer.produce_batch(topic, table).result(WAIT_S) == [(0, 0, 3)]
        for row in table.to_pylist():
            producer.produce(topic, row)
    stored = world.read(topic).select(table.column_names)
    assert stored.equals(pa.concat_tables([table, table]))


def test_what_a_consumer_returned_can_be_produced_again(world: World) -> None:
    kinds = {
        "m": pa.map_(pa.string(), pa.int32()), "mm": pa.map_(pa.string(), pa.map_(pa.int8(), pa.list_(pa.float64()))),
        "s": pa.struct([("at", pa.timestamp("ms", "UTC")), ("m", pa.map_(pa.string(), pa.binary()))]),
        "d": pa.duration("ms"), "t": pa.time32("s"), "wall": pa.timestamp("us"),
    }  # fmt: skip
    topic = world.topic(schema=pa.schema(list(kinds.items())))
    row = {
        "m": {"k": 1}, "mm": {"a": {3: [0.5, None]}}, "s": {"at": datetime(2013, 1, 1, tzinfo=timezone.utc), "m": {}},
        "d": timedelta(milliseconds=5), "t": clock(1, 2, 3), "wall": datetime(2013, 1, 1, 2, 3, 4, 5),
    }  # fmt: skip
    servers = world.cluster.bootstrap_servers
    with world.producer() as producer, Consumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as c:
        producer.produce(topic, row)
        producer.produce_batch(topic, [row]).result(WAIT_S)
        read = c.consume(2, timeout=WAIT_S)
        while len(read) < 2:
            read += c.consume(2 - len(read), timeout=WAIT_S)
        producer.produce(topic, read[0].value)
        producer.produce_batch(topic, [message.value for message in read]).result(WAIT_S)
    stored = world.read(topic).drop_columns("timestamp").to_pylist()
    assert len(stored) == 5
    assert all(found == stored[0] for found in stored)
    assert stored[0]["m"] == [("k", 1)]


def test_a_typed_topics_rows_are_routed_by_partition_by(world: World) -> None:
    schema = pa.schema([("tail", pa.string()), ("carrier", pa.string())])
    topic = world.topic(4, schema=schema, key_column="tail", config={"partition.by": "carrier"})
    rows = [{"tail": f"N{i}", "carrier": f"C{i % 5}"} for i in range(100)]
    with world.producer() as producer:
        producer.produce_batch(topic, rows[:50]).result(WAIT_S)
        for row in rows[50:]:
            producer.produce(topic, row)
    for partition in range(4):
        for carrier in world.read(topic, partition).column("carrier").to_pylist():
            assert partition_of(carrier.encode(), 4) == partition


def test_bad_input_is_a_typed_error_and_the_producer_goes_on(world: World) -> None:
    topic = world.topic(config={"max.message.bytes": "1000"})
    typed = world.topic(schema=pa.schema([("n", pa.int32())]))
    with world.producer() as producer:
        with pytest.raises(UnknownTopicOrPartition, match="rayqueue topic create"):
            producer.produce("no-such-topic", b"v")
        with pytest.raises((InvalidTopic, UnknownTopicOrPartition)):
            producer.produce("no/such", b"v")
        with pytest.raises(RecordTooLarge):
            producer.produce(topic, b"x" * 2000)
        with pytest.raises(SchemaMismatch, match="'n' is string"):
            producer.produce_batch(typed, pa.table({"n": ["x"]}))
        assert producer.produce(topic, b"x" * 900).result(WAIT_S).offset == 0
        assert producer.produce(typed, {"n": 1}).result(WAIT_S).offset == 0


def test_a_topic_is_made_when_the_cluster_allows_it(tmp_path: Path) -> None:
    config = {"auto.create.topics.enable": True, "num.partitions": 3}
    with (
        InProcessCluster(tmp_path, config=config) as cluster,
        Producer(bootstrap_servers=cluster.bootstrap_servers) as producer,
    ):
        futures = [producer.produce("made", b"v") for _ in range(3)]
        assert {f.result(WAIT_S).partition for f in futures} == {0, 1, 2}


def test_nothing_acked_is_lost_or_doubled_when_the_replica_actor_is_killed_under_it(own: World) -> None:
    topic = own.topic(2)
    futures = []
    with own.producer(linger_ms=1) as producer:
        for restart in range(3):
            for _ in range(2000):
                futures.append(producer.produce(topic, b"%d" % len(futures)))
            futures[-2000].result(WAIT_S)
            own.cluster.stop_replica(0)
            for _ in range(500):
                futures.append(producer.produce(topic, b"%d" % len(futures)))
            own.cluster.start_replica(0)
            assert futures[-1].result(WAIT_S).offset > 0, f"it goes on by itself (restart {restart})"
    stored = {p: own.values(topic, p) for p in range(2)}
    for i, future in enumerate(futures):
        where = future.result(0)
        assert stored[where.partition][where.offset] == b"%d" % i
    assert sum(map(len, stored.values())) == len(futures), "and no record twice"


def test_threads_and_tables_at_once(world: World) -> None:
    topic = world.topic(4)
    with world.producer(linger_ms=1) as producer:

        def rows(thread: int) -> None:
            for i in range(1500):
                producer.produce(topic, b"%d:%d" % (thread, i), b"key%d" % thread)

        def tables() -> None:
            for i in range(30):
                producer.produce_batch(topic, [{"value": b"table:%d" % i}] * 20)

        threads = [threading.Thread(target=rows, args=(n,)) for n in range(3)] + [threading.Thread(target=tables)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert producer.flush(WAIT_S) == 0
    found = [v for p in range(4) for v in world.values(topic, p)]
    assert len(found) == 3 * 1500 + 600
    for number in range(3):
        own = [int(v.split(b":")[1]) for v in found if v.startswith(b"%d:" % number)]
        assert own == list(range(1500))


def test_a_deleted_topic_fails_cleanly(world: World) -> None:
    topic = world.topic()
    with world.producer(delivery_timeout_ms=10_000) as producer:
        producer.produce(topic, b"v").result(WAIT_S)
        world.admin.delete_topic(topic)
        with pytest.raises(RayQueueError):
            for _ in range(100):
                producer.produce(topic, b"v").result(WAIT_S)
        with pytest.raises(UnknownTopicOrPartition):
            producer.produce(topic, b"v")


def test_a_process_that_ends_without_close_delivers_and_says_so(world: World) -> None:
    topic = world.topic()
    script = f"""
        from rayqueue.producer import Producer
        producer = Producer(bootstrap_servers={world.cluster.bootstrap_servers!r}, linger_ms=60_000)
        for i in range(100):
            producer.produce({topic!r}, b"%d" % i)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "100 records undelivered" in done.stderr
    assert world.values(topic) == [b"%d" % i for i in range(100)]


def test_without_acks_nothing_is_lost_at_the_end_of_a_process(world: World) -> None:
    """What was sent may be all that the server ever hears: closing must not take it back (no reset, no early end)."""
    count, processes = 2000, {}
    for end in ("producer.close()", "producer.flush()", "pass"):
        topic = world.topic()
        script = f"""
            from rayqueue.producer import Producer
            producer = Producer(bootstrap_servers={world.cluster.bootstrap_servers!r}, acks=0)
            for i in range({count}):
                producer.produce({topic!r}, b"%d" % i)
            {end}
        """
        processes[topic] = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    for topic, process in processes.items():
        assert process.wait(60) == 0
        with Consumer(
            topic, bootstrap_servers=world.cluster.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            found: list[Any] = []
            while len(found) < count:
                got = consumer.consume(count - len(found), timeout=WAIT_S)
                assert got, f"{len(found)} of {count} came"
                found += got
        assert [int(message.value) for message in found] == list(range(count))
