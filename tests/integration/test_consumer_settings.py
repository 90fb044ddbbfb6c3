"""Every setting of a consumer does something, and every way to make one works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.client.fetching.engine import Engine
from rayqueue.config import CONSUMER_SETTINGS
from rayqueue.consumer import Consumer
from rayqueue.errors import BrokerNotAvailable, ConfigError, OffsetOutOfRange, RayQueueError, UnknownTopicOrPartition
from rayqueue.message import Message
from rayqueue.testing.inprocess import InProcessCluster
from rayqueue.types import TopicPartition
from tests.integration.consumer_cluster import WAIT_S, World, numbers, take


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with InProcessCluster(tmp_path_factory.mktemp("cluster"), replicas=2) as cluster:
        made = World(cluster)
        yield made
        made.close()


def engine(consumer: Consumer) -> Engine:
    return consumer._engine


def test_all_ways_to_name_topics_and_settings(world: World) -> None:
    one, two = world.topic(), world.topic()
    settings = {"bootstrap.servers": world.servers, "auto.offset.reset": "earliest"}
    for made in (
        Consumer(one, two, bootstrap_servers=world.servers, auto_offset_reset="earliest"),
        Consumer(settings, one, two),
        Consumer([one, two], settings),
        Consumer(one, two, settings, group_id=None, client_id="me"),
    ):
        with made as consumer:
            assert consumer.assignment() == sorted([TopicPartition(one, 0), TopicPartition(two, 0)])
            assert consumer.subscription() == [one, two]
    with Consumer(settings) as consumer:
        assert consumer.assignment() == [] and consumer.poll(0) is None
        consumer.subscribe(one)
        consumer.subscribe([two])
        assert consumer.assignment() == [TopicPartition(two, 0)]
        consumer.assign((one, 0))
        assert consumer.subscription() == [] and consumer.assignment() == [TopicPartition(one, 0)]
        consumer.unassign([TopicPartition(one, 0)])
        assert consumer.assignment() == []


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"auto_offset_rest": "earliest"}, "auto.offset.reset"),
        ({"auto_offset_reset": "first"}, "earliest"),
        ({"enable_auto_commit": True}, "set group.id"),
        ({"isolation_level": "read_committed"}, "transactions"),
        ({"value_deserializer": "yaml"}, "json"),
        ({"stop_at": "noon"}, "latest"),
    ],
)
def test_bad_settings_are_refused_with_a_hint(world: World, settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        world.consumer(**settings)


def test_what_belongs_to_groups_says_what_to_do_instead(world: World) -> None:
    consumer = world.consumer()
    with pytest.raises(ConfigError, match="assign"):
        consumer.commit()
    with pytest.raises(ConfigError, match="assign"):
        consumer.committed()


@pytest.mark.parametrize("bad", [{"timeout": "1"}, {"timeout": float("nan")}, {"num_messages": 0}])
def test_bad_arguments_are_refused(world: World, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        world.consumer().consume(**bad)


def test_auto_offset_reset_latest_starts_where_the_log_ended_when_it_was_asked_for(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 5)
    consumer = world.consumer(topic, auto_offset_reset="latest")
    world.fill(topic, 2, start=5)
    assert numbers(take(consumer, 2)) == [5, 6]


def test_auto_offset_reset_none_says_what_there_is(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 5)
    consumer = world.consumer(topic, auto_offset_reset="none")
    for _ in range(2):
        with pytest.raises(OffsetOutOfRange, match="0 to 4"):
            consumer.poll(WAIT_S)
    consumer.seek((topic, 0), 3)
    assert numbers(take(consumer, 2)) == [3, 4]
    consumer.seek((topic, 0), 99)
    with pytest.raises(OffsetOutOfRange, match="99"):
        consumer.poll(WAIT_S)


def test_max_poll_records_is_what_consume_takes_by_default(world: World) -> None:
    topic = world.topic()
    world.rows(topic, _values(20))
    consumer = world.consumer(topic, max_poll_records=6)
    assert [len(consumer.consume(timeout=WAIT_S)) for _ in range(4)] == [6, 6, 6, 2]


def _values(count: int, size: int = 100) -> pa.Table:
    return pa.table({"value": pa.array([b"%d" % i + b"." * size for i in range(count)], pa.binary())})


@pytest.mark.parametrize("mapped", [True, False])
def test_fetch_min_bytes_holds_back_and_fetch_max_wait_ms_ends_that(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.fill(topic, 1)
    patient = world.consumer(topic, fetch_min_bytes=4000, fetch_max_wait_ms=3_600_000, mapped_reads=mapped)
    hasty = world.consumer(topic, fetch_min_bytes=1 << 20, fetch_max_wait_ms=1, mapped_reads=mapped)
    assert numbers(take(hasty, 1)) == [0]
    assert patient.poll(0.2) is None
    world.fill(topic, 10, start=1, size=1000)
    assert len(take(patient, 11)) == 11


def test_fetch_max_bytes_and_max_partition_fetch_bytes_bound_what_is_prefetched(world: World) -> None:
    topic = world.topic(partitions=2)
    for partition in (0, 1):
        for start in range(0, 200, 10):
            world.fill(topic, 10, partition, start, size=400)
    consumer = world.consumer(
        topic, mapped_reads=False, fetch_max_bytes=30_000, max_partition_fetch_bytes=10_000, fetch_min_bytes=1
    )
    batch = 10 * 500 + 1500
    got: list[Message] = []
    while len(got) < 400:
        message = consumer.poll(WAIT_S)
        assert message is not None
        got.append(message)
        cursors = list(engine(consumer).machine.cursors.values())
        assert all(cursor.buffered <= 10_000 + 2 * batch for cursor in cursors)
    for partition in (0, 1):
        assert numbers([m for m in got if m.partition == partition]) == list(range(200))


def test_a_paused_partition_is_not_prefetched_without_end(world: World) -> None:
    topic = world.topic(partitions=2)
    consumer = world.consumer(topic, mapped_reads=False, fetch_max_bytes=20_000, max_partition_fetch_bytes=10_000)
    paused = TopicPartition(topic, 0)
    world.fill(topic, 1, 0)
    assert numbers(take(consumer, 1)) == [0]
    consumer.pause(paused)
    for start in range(0, 200, 10):
        world.fill(topic, 10, 0, 1 + start, size=500)
        world.fill(topic, 1, 1, start)
    assert len(take(consumer, 20)) == 20
    assert engine(consumer).machine.cursors[topic, 0].buffered <= 30_000
    consumer.resume(paused)
    assert numbers(take(consumer, 200)) == list(range(1, 201))


def test_mapped_reads_can_be_turned_off(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 1)
    for mapped in (True, False):
        consumer = world.consumer(topic, mapped_reads=mapped)
        take(consumer, 1)
        assert (engine(consumer).machine.cursors[topic, 0].mapping is not None) == mapped


def test_metadata_max_age_ms_finds_new_topics_and_partitions_and_tells_the_callbacks(world: World) -> None:
    prefix = world.topic(prefix="grow")
    told: list[tuple[str, list[TopicPartition]]] = []
    consumer = world.consumer(metadata_max_age_ms=30, auto_offset_reset="latest")
    consumer.subscribe(
        f"^{prefix}",
        on_assign=lambda c, parts: told.append(("assign", parts)),
        on_revoke=lambda c, parts: told.append(("revoke", parts)),
        on_lost=lambda c, parts: told.append(("lost", parts)),
    )
    assert told == [], "callbacks run inside poll"
    assert consumer.poll(0) is None and told == [("assign", [TopicPartition(prefix, 0)])]
    world.admin.create_partitions(prefix, 2)
    world.admin.create_topic(f"{prefix}-b", partitions=1)
    world.fill(f"{prefix}-b", 2)
    world.fill(prefix, 1, partition=1, start=7)
    assert sorted(numbers(take(consumer, 3))) == [0, 1, 7], "new ones are read from their beginning"
    assigned = [tp for kind, parts in told if kind == "assign" for tp in parts]
    assert sorted(assigned) == sorted(consumer.assignment()) and len(assigned) == 3
    world.admin.delete_topic(f"{prefix}-b")
    for _ in range(200):
        consumer.poll(0.05)
        if told[-1][0] == "lost":
            break
    assert told[-1] == ("lost", [TopicPartition(f"{prefix}-b", 0)])
    consumer.unsubscribe()
    assert told[-1] == ("revoke", [TopicPartition(prefix, 0), TopicPartition(prefix, 1)])
    assert consumer.assignment() == []


def test_on_assign_may_move_the_partitions(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 10)
    consumer = world.consumer()

    def start_late(made: Consumer, parts: list[TopicPartition]) -> None:
        made.assign([TopicPartition(tp.topic, tp.partition, 6) for tp in parts])

    consumer.subscribe(topic, on_assign=start_late)
    assert numbers(take(consumer, 4)) == [6, 7, 8, 9]
    assert consumer.subscription() == [topic]


def test_client_id_reaches_the_brokers(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 1)
    consumer = world.consumer(topic, client_id="my-service", mapped_reads=False)
    take(consumer, 1)
    (stream,) = engine(consumer)._streams.values()
    assert stream._hello.client_id == "my-service"


def test_an_address_where_nobody_listens_is_told_in_time() -> None:
    with pytest.raises(BrokerNotAvailable, match="127.0.0.1:1"):
        Consumer("t", bootstrap_servers="127.0.0.1:1", request_timeout_ms=200, retry_backoff_ms=1)


def test_a_missing_topic_is_told_at_once_with_the_command_that_creates_it(world: World) -> None:
    with pytest.raises(UnknownTopicOrPartition, match="rayqueue topic create nowhere"):
        world.consumer("nowhere")
    topic = world.topic()
    with pytest.raises(UnknownTopicOrPartition, match="not 5"):
        world.consumer().assign([TopicPartition(topic, 5)])
    with pytest.raises(OffsetOutOfRange):
        world.consumer().assign([TopicPartition(topic, 0, -7)])


def test_two_threads_at_once_are_refused(world: World) -> None:
    consumer = world.consumer(world.topic())
    errors: list[BaseException] = []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        try:
            consumer.poll(WAIT_S)
        except RayQueueError as error:
            errors.append(error)

    with consumer._guard:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(WAIT_S)
    assert entered.is_set() and "another thread" in str(errors[0])
    assert consumer.poll(0) is None


def test_settings_table_and_tests_agree() -> None:
    """A setting added to the table needs a test here (or stands among those of every client, tested with them)."""
    tested = {
        "auto.offset.reset", "max.poll.records", "fetch.min.bytes", "fetch.max.wait.ms", "fetch.max.bytes",
        "max.partition.fetch.bytes", "mapped.reads", "value.deserializer", "key.deserializer", "client.id",
        "metadata.max.age.ms", "bootstrap.servers", "request.timeout.ms", "check.crcs",
    }  # fmt: skip
    elsewhere = {"cluster", "token", "retry.backoff.ms", "retry.backoff.max.ms", "socket.connection.setup.timeout.ms"}
    in_groups = {  # test_consumer_groups*.py
        "group.id", "group.instance.id", "enable.auto.commit", "auto.commit.interval.ms", "session.timeout.ms",
        "heartbeat.interval.ms", "max.poll.interval.ms", "max.poll.interval.action", "partition.assignment",
    }  # fmt: skip
    later = {name for name, setting in CONSUMER_SETTINGS.items() if setting.later}
    assert set(CONSUMER_SETTINGS) == tested | elsewhere | later | in_groups
