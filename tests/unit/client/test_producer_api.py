"""The producer as its user sees it, against a cluster that does what the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rayqueue.client.io import pipeline as pipeline_module
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


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is four hours behind UTC."""
    monkeypatch.setenv("TZ", "EAST+4")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


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
    first = unkeyed[0][0][0]
    assert unkeyed == [[((first + turn) % 4, 0, 3)] for turn in range(4)]
    rows = [{"value": b"v", "carrier": f"C{i}"} for i in range(40)]
    keyed = producer.produce_batch("wide", rows, key_column="carrier").result(WAIT_S)
    assert [partition for partition, _, _ in keyed] == [0, 1, 2, 3]
    assert sum(count for _, _, count in keyed) == 40
    alone = producer.produce("wide", b"v", "C7").result(WAIT_S).partition
    assert alone in {p for p, _, _ in producer.produce_batch("wide", rows[7:8], key_column="carrier").result(WAIT_S)}


def test_round_robin_begins_anywhere(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(seed: int) -> int:
        monkeypatch.setattr(pipeline_module, "Random", lambda: Random(seed))
        with producing(monkeypatch, cluster) as producer:
            begun = producer.produce("wide", b"v").result(WAIT_S).partition
            assert producer.produce("wide", b"v").result(WAIT_S).partition == (begun + 1) % 4
            return begun

    assert {first(seed) for seed in range(20)} == {0, 1, 2, 3}
    assert first(7) == first(7)


def test_an_empty_table_is_delivered(producer: Producer) -> None:
    assert producer.produce_batch("t", pa.table({"value": pa.array([], pa.binary())})).result(0) == []
    assert producer.produce_batch("t", []).result(0) == []
    assert producer.produce_batch("typed", []).result(0) == []


def test_rows_without_any_column_are_rows_of_nulls(cluster: FakeCluster, producer: Producer) -> None:
    assert producer.produce_batch("t", [{}] * 3).result(WAIT_S) == [(0, 0, 3)]
    assert producer.produce_batch("t", [{"key": "k"}]).result(WAIT_S) == [(0, 3, 1)]
    rows = _batches(cluster, DEFAULT_SCHEMA)
    assert [(row["key"], row["value"]) for row in rows] == [(None, None)] * 3 + [(b"k", None)]
    assert producer.produce_batch("typed", [{}] * 3).result(WAIT_S) == [(0, 0, 3)]
    cluster.add_topic("strict", schema=typed_log_schema(pa.schema([pa.field("n", pa.int32(), nullable=False)])))
    with pytest.raises(SchemaMismatch, match="'n'"):
        producer.produce_batch("strict", [{}] * 3)


def test_a_naive_datetime_is_the_same_instant_everywhere(
    cluster: FakeCluster, producer: Producer, local_zone: None
) -> None:
    at = datetime(2013, 7, 1, 12, 0, 0, 5000)
    expected = datetime(2013, 7, 1, 16, 0, 0, 5000, timezone.utc)
    assert at.timestamp() == expected.timestamp()
    cluster.add_topic("timed", schema=typed_log_schema(pa.schema([("at", pa.timestamp("ms", "UTC"))])))
    assert producer.produce("t", b"v", timestamp=at).result(WAIT_S).timestamp == int(at.timestamp() * 1000)
    producer.produce_batch("t", [{"value": b"v", "timestamp": at}]).result(WAIT_S)
    assert [row["timestamp"] for row in _batches(cluster, DEFAULT_SCHEMA)] == [expected] * 2
    cluster.requests.clear()
    producer.produce("timed", {"at": at}, timestamp=at).result(WAIT_S)
    producer.produce_batch("timed", [{"at": at, "timestamp": at}]).result(WAIT_S)
    rows = _batches(cluster, typed_log_schema(pa.schema([("at", pa.timestamp("ms", "UTC"))])))
    assert [(row["at"], row["timestamp"]) for row in rows] == [(expected, expected)] * 2


def test_timestamps_that_produce_refuses_are_refused_in_tables_and_dicts(producer: Producer) -> None:
    for wrong in (-1, 10**13, datetime(1969, 1, 1, tzinfo=timezone.utc), datetime(9999, 1, 1, tzinfo=timezone.utc)):
        with pytest.raises(SerializationError, match="not between 1970 and 2255"):
            producer.produce("t", b"v", timestamp=wrong)
        with pytest.raises(SerializationError, match="not between 1970 and 2255"):
            producer.produce_batch("t", [{"value": b"v", "timestamp": wrong}])
        with pytest.raises(SerializationError, match="not between 1970 and 2255"):
            producer.produce_batch("t", pa.table({"value": [b"v", b"w"], "timestamp": [None, wrong]}))


def test_serializers_make_dicts_rows_as_they_make_records(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producing(monkeypatch, cluster, value_serializer="json", key_serializer=lambda n: b"k%d" % n) as producer:
        producer.produce("t", {"a": 1}, 5).result(WAIT_S)
        producer.produce_batch("t", [{"value": {"a": 1}, "key": 5}]).result(WAIT_S)
        producer.produce_batch("t", [{"value": {"a": 1}, "n": 5}], key_column="n").result(WAIT_S)
        producer.produce_batch("t", [{"value": None, "key": None}]).result(WAIT_S)
        rows = [(row["key"], row["value"]) for row in _batches(cluster, DEFAULT_SCHEMA)]
        assert rows == [(b"k5", b'{"a":1}')] * 3 + [(None, None)]
        with pytest.raises(SerializationError, match="value serializer failed"):
            producer.produce_batch("t", [{"value": {"a": float("nan")}}])
        with pytest.raises(SerializationError, match="column of|column 'key'"):
            producer.produce_batch("t", [{"value": 5}], key_column="value")
        producer.produce_batch("typed", [{"carrier": "UA", "flight": 1}]).result(WAIT_S)


def test_tables_are_not_serialized_bytes_stay_and_all_else_is_refused(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producing(monkeypatch, cluster, value_serializer="json", key_serializer="json") as producer:
        producer.produce_batch("t", pa.table({"value": [b"{}"], "key": ["k"]})).result(WAIT_S)
        assert cluster.rows() == [b"{}"]
        for columns, key_column in (
            ({"value": [1]}, None),
            ({"value": [{"a": 1}]}, None),
            ({"value": [b""], "key": [1]}, None),
            ({"value": [b""], "n": [1]}, "n"),
        ):
            what = "key" if len(columns) > 1 else "value"
            with pytest.raises(SerializationError, match=f"the {what}_serializer takes Python.*to_pylist"):
                producer.produce_batch("t", pa.table(columns), key_column)


def test_a_map_is_a_dict_or_pairs_in_records_and_in_rows(cluster: FakeCluster, producer: Producer) -> None:
    schema = typed_log_schema(pa.schema([("m", pa.map_(pa.string(), pa.int32()))]))
    cluster.add_topic("maps", schema=schema)
    forms: list[Any] = [{"k": 1, "l": None}, [("k", 1), ("l", None)], [["k", 1], ["l", None]]]
    for form in forms:
        producer.produce("maps", {"m": form}).result(WAIT_S)
    producer.produce_batch("maps", [{"m": form} for form in forms]).result(WAIT_S)
    rows = _batches(cluster, schema)
    assert [row["m"] for row in rows] == [[("k", 1), ("l", None)]] * 6
    cluster.requests.clear()
    for row in rows:
        producer.produce("maps", {"m": row["m"]}).result(WAIT_S)
    assert [row["m"] for row in _batches(cluster, schema)] == [row["m"] for row in rows], "what was read can be written"
    for wrong in ({"k": 1.5}, [("k",)], [("k", "x")], 5):
        with pytest.raises(SchemaMismatch, match="'m'"):
            producer.produce("maps", {"m": wrong})


def test_one_column_is_no_table(producer: Producer) -> None:
    with pytest.raises(SchemaMismatch, match="takes a pyarrow Table.*not Series"):
        producer.produce_batch("t", pd.Series([1]))


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


@pytest.mark.parametrize("method", ["flush", "close"])
@pytest.mark.parametrize("timeout", [-1, -1.0, None])
def test_below_zero_is_for_ever(cluster: FakeCluster, producer: Producer, method: str, timeout: float | None) -> None:
    cluster.answering = False
    producer.produce("t", b"v")
    cluster.wait_for(lambda: cluster.links and cluster.links[0].unanswered)
    left: list[int] = []
    thread = threading.Thread(target=lambda: left.append(getattr(producer, method)(timeout)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    cluster.answering = True
    cluster.links[0].answer()
    thread.join(WAIT_S)
    assert left == [0]


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_timeout_is_a_number_of_seconds(producer: Producer, timeout: Any) -> None:
    for wait in (producer.flush, producer.close):
        with pytest.raises(TypeError, match="number of seconds"):
            wait(timeout)
    assert producer.produce("t", b"v").result(WAIT_S), "it was not closed"


def test_flush_says_how_many_are_left(cluster: FakeCluster, producer: Producer) -> None:
    cluster.answering = False
    for _ in range(7):
        producer.produce("t", b"v")
    assert producer.flush(0.01) == 7
    assert producer.poll(0) == 0
