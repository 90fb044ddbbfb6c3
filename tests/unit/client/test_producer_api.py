"""The producer as its user sees it, against a cluster that does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.errors import (
    RayQueueError,
    RecordTooLarge,
    SchemaMismatch,
    SerializationError,
    UnknownTopicOrPartition,
)
from rayqueue.producer import Producer
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, typed_log_schema
from tests.unit.client.fake_cluster import WAIT_S, FakeCluster, producing

TYPED = typed_log_schema(pa.schema([("carrier", pa.string()), ("flight", pa.int32())]))


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.add_topic("t")
    made.add_topic("wide", 4)
    made.add_topic("typed", schema=TYPED, key_column="carrier")
    made.add_topic("small", configs={"max_message_bytes": "200"})
    return made


@pytest.fixture
def producer(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    with producing(monkeypatch, cluster) as made:
        yield made


def _batches(cluster: FakeCluster, schema: pa.Schema) -> list[dict[str, Any]]:
    found = []
    for _, _, rows in cluster.requests:
        for row in rows:
            found += pa.ipc.read_record_batch(pa.ipc.read_message(row), schema).to_pylist()
    return found


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_keep_their_order_whatever_they_are(cluster: FakeCluster, producer: Producer) -> None:
    for i in range(0, 60, 6):
        producer.produce("t", b"%d" % i)
        producer.produce("t", f"{i + 1}", "key")
        producer.produce("t", b"%d" % (i + 2), b"key")
        producer.send("t", b"%d" % (i + 3), headers={"h": "1"})
        producer.produce("t", b"%d" % (i + 4), partition=0)
        producer.produce_batch("t", [{"value": b"%d" % (i + 5)}])
    assert producer.flush(WAIT_S) == 0
    assert cluster.rows() == [b"%d" % i for i in range(60)]


def test_keys_headers_and_timestamps_arrive(cluster: FakeCluster, producer: Producer) -> None:
    at = datetime(2013, 1, 1, 12, tzinfo=timezone.utc)
    first = producer.produce("t", None, "k", headers=[("a", "text"), ("a", b"\xff"), ("n", None)], timestamp=1234)
    second = producer.produce("t", "é", timestamp=at)
    assert first.result(WAIT_S).timestamp == 1234
    assert second.result(WAIT_S) == ("t", 0, 1, int(at.timestamp() * 1000))
    rows = _batches(cluster, DEFAULT_SCHEMA)
    assert rows[0]["key"] == b"k"
    assert rows[0]["headers"] == [("a", b"text"), ("a", b"\xff"), ("n", None)]
    assert rows[0]["value"] is None
    assert rows[1]["value"] == "é".encode()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"value": 5}, SerializationError, "not int"),
        ({"value": b"", "key": 1.5}, SerializationError, "key is bytes.*not float"),
        ({"value": b"", "headers": [("a",)]}, SerializationError, "pairs"),
        ({"value": b"", "headers": {1: b""}}, SerializationError, "pairs"),
        ({"value": b"", "headers": {"a": 5}}, SerializationError, "header is bytes"),
        ({"value": b"", "timestamp": "now"}, SerializationError, "timestamp is ms"),
        ({"value": b"", "timestamp": -1}, SerializationError, "not between"),
        ({"value": b"", "timestamp": 10**18}, SerializationError, "not s or ns"),
        ({"value": b"", "partition": 1}, UnknownTopicOrPartition, r"partitions 0 to 0.*add-partitions t"),
        ({"value": b"", "partition": -1}, UnknownTopicOrPartition, "partitions 0 to 0"),
        ({"value": b"", "partition": True}, UnknownTopicOrPartition, "number"),
    ],
)
def test_bad_records_are_refused_at_once_and_nothing_is_sent(
    cluster: FakeCluster, producer: Producer, given: dict[str, Any], error: type[RayQueueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        producer.produce("t", **given)
    producer.produce("t", b"good").result(WAIT_S)
    assert cluster.rows() == [b"good"]


def test_a_missing_topic_says_how_to_make_it(producer: Producer) -> None:
    with pytest.raises(UnknownTopicOrPartition, match="rayqueue topic create nope"):
        producer.produce("nope", b"v")
    with pytest.raises(TypeError, match="topic is a str"):
        producer.produce(5, b"v")  # type: ignore[arg-type]


def test_a_record_above_the_limit_is_refused_on_either_path(cluster: FakeCluster, producer: Producer) -> None:
    for _ in range(3):
        producer.produce("small", b"x" * 100)
        with pytest.raises(RecordTooLarge, match=r"max\.message\.bytes=200 of topic 'small'"):
            producer.produce("small", b"x" * 300)
        with pytest.raises(RecordTooLarge):
            producer.produce("small", b"x" * 100, b"k" * 100)
    with pytest.raises(RecordTooLarge, match="row 1 of the table"):
        producer.produce_batch("small", [{"value": b""}, {"value": b"x" * 300}])
    producer.flush(WAIT_S)
    assert cluster.rows() == [b"x" * 100] * 3


def test_partitions_that_were_added_can_be_chosen_at_once(cluster: FakeCluster, producer: Producer) -> None:
    producer.produce("t", b"v", partition=0).result(WAIT_S)
    cluster.add_topic("t", 3)
    assert producer.produce("t", b"v", partition=2).result(WAIT_S).partition == 2


def test_threads_share_a_producer(cluster: FakeCluster, producer: Producer) -> None:
    def some(thread: int) -> list[Any]:
        return [producer.produce("wide", b"%d-%d" % (thread, i), b"k%d" % thread) for i in range(2000)]

    with ThreadPoolExecutor(4) as pool:
        futures = [f for found in pool.map(some, range(4)) for f in found]
    assert producer.flush(WAIT_S) == 0
    values = cluster.rows()
    assert len(values) == len(set(values)) == 8000
    for thread in range(4):
        own = [v for v in values if v is not None and v.startswith(b"%d-" % thread)]
        assert own == [b"%d-%d" % (thread, i) for i in range(2000)], "one thread's records of a key stay in order"
    places = {(f.result(0).partition, f.result(0).offset) for f in futures}
    assert len(places) == 8000


def test_typed_rows(cluster: FakeCluster, producer: Producer) -> None:
    producer.produce("typed", {"carrier": "UA", "flight": 1}).result(WAIT_S)
    producer.produce("typed", {"carrier": "AA"}, key="AA").result(WAIT_S)
    rows = _batches(cluster, TYPED)
    assert [(row["carrier"], row["flight"]) for row in rows] == [("UA", 1), ("AA", None)]
    for row, extra in (
        ({"carrier": 5}, {}),
        ({"nothing": 5}, {}),
        (b"bytes", {}),
        ({"carrier": "UA"}, {"key": "AA"}),
        ({"carrier": "UA"}, {"headers": {"a": "b"}}),
    ):
        with pytest.raises(SchemaMismatch):
            producer.produce("typed", row, **extra)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_in_many_pieces_has_one_outcome(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, max_request_size=2000, buffer_memory=20_000) as producer:
        table = pa.table({"value": [b"%06d" % i + b"x" * 100 for i in range(1000)]})
        assert producer.produce_batch("t", table).result(WAIT_S) == [(0, 0, 1000)]
        assert [int(v[:6]) for v in cluster.rows() if v] == list(range(1000))
        assert len(cluster.requests) > 40


def test_unkeyed_tables_take_turns_and_keyed_ones_are_split(cluster: FakeCluster, producer: Producer) -> None:
    unkeyed = [producer.produce_batch("wide", [{"value": b"v"}] * 3).result(WAIT_S) for _ in range(4)]
    assert unkeyed == [[(p, 0, 3)] for p in range(4)]
    rows = [{"value": b"v", "carrier": f"C{i}"} for i in range(40)]
    keyed = producer.produce_batch("wide", rows, key_column="carrier").result(WAIT_S)
    assert [partition for partition, _, _ in keyed] == [0, 1, 2, 3]
    assert sum(count for _, _, count in keyed) == 40
    alone = producer.produce("wide", b"v", "C7").result(WAIT_S).partition
    assert alone in {p for p, _, _ in producer.produce_batch("wide", rows[7:8], key_column="carrier").result(WAIT_S)}


def test_an_empty_table_is_delivered(producer: Producer) -> None:
    assert producer.produce_batch("t", pa.table({"value": pa.array([], pa.binary())})).result(0) == []


def test_a_typed_topics_key_column_cannot_be_another(producer: Producer) -> None:
    rows = [{"carrier": "UA", "flight": 1}]
    assert producer.produce_batch("typed", rows, key_column="carrier").result(WAIT_S) == [(0, 0, 1)]
    with pytest.raises(SchemaMismatch, match="its key column is 'carrier', not 'flight'"):
        producer.produce_batch("typed", rows, key_column="flight")


def test_a_partitioner_function_chooses_for_tables_too(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, partitioner=lambda key, n: 3 if key is None else key[0] % n) as producer:
        rows = [{"value": b"v", "key": bytes([i % 2])} for i in range(6)]
        assert producer.produce_batch("wide", rows).result(WAIT_S) == [(0, 0, 3), (1, 0, 3)]
        assert producer.produce_batch("wide", [{"value": b"v"}]).result(WAIT_S) == [(3, 0, 1)]


# --- callbacks, flush -------------------------------------------------------------------------------------------------


def test_on_delivery_runs_on_a_thread_of_the_producer_and_may_produce(cluster: FakeCluster, producer: Producer) -> None:
    seen: list[Any] = []

    def again(error: Any, metadata: Any) -> None:
        seen.append((error, metadata.offset, threading.current_thread() is threading.main_thread()))
        if len(seen) < 3:
            producer.produce("t", b"again", on_delivery=again)
            producer.flush(WAIT_S)

    producer.produce("t", b"v", on_delivery=again)
    while len(seen) < 3:
        assert producer.flush(WAIT_S) == 0
    assert seen == [(None, 0, False), (None, 1, False), (None, 2, False)]


def test_on_delivery_hears_of_failures(cluster: FakeCluster, producer: Producer) -> None:
    cluster.respond = lambda request, number: (-1, -1, RecordTooLarge("the server says so"))
    seen: list[Any] = []
    future = producer.produce(
        "t", b"v", timestamp=77, on_delivery=lambda error, metadata: seen.append((error, metadata))
    )
    assert producer.flush(WAIT_S) == 0, "a failure is an outcome"
    assert isinstance(seen[0][0], RecordTooLarge)
    assert seen[0][1] == ("t", 0, -1, 77)
    with pytest.raises(RecordTooLarge):
        future.result(0)


def test_a_callback_that_raises_is_logged(
    cluster: FakeCluster, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    producer.produce("t", b"v", on_delivery=lambda error, metadata: 1 / 0)
    producer.flush(WAIT_S)
    assert "ZeroDivisionError" in caplog.text
    producer.produce("t", b"v").result(WAIT_S)


def test_flush_says_how_many_are_left(cluster: FakeCluster, producer: Producer) -> None:
    cluster.answering = False
    for _ in range(7):
        producer.produce("t", b"v")
    assert producer.flush(0.01) == 7
    assert producer.poll(0) == 0
