"""What confluent-kafka's roles of W7 and W9 do, against librdkafka's mock of a cluster."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rayqueue.perf.columns import COLUMNS, batches, plain_rows, touch_columns
from rayqueue.perf.payload import SUM_BELOW, random_values, touch, touch_all, values_table

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra bench is not installed")

from benchmarks.peers import kafka_columns, kafka_drain  # noqa: E402
from benchmarks.peers.kafka_clients import Sending, ipc_stream  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux")

ROWS = 50
VALUE_BYTES = 100
GROUP = 4
LONG_S = 30.0
# Without a producer nothing is fresh: the reader gives up, with all that there is.
STALE_S = 1.0
# Slow enough for the mock, quick enough for a record to be fresh soon.
GROUPS_PER_S = 200

Client = dict[str, Any]


@pytest.fixture(scope="module")
def mock() -> Iterator[Client]:
    """A cluster inside this process, as a client sees it."""
    cluster = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield {"bootstrap_servers": f"{broker.host}:{broker.port}", "message_bytes_max": 1 << 26}


@pytest.fixture
def topic(mock: Client, request: pytest.FixtureRequest) -> str:
    """One that the mock makes because it is asked for, or one more of its partitions would be read."""
    name: str = request.node.name
    admin = confluent_kafka.Producer({"bootstrap.servers": mock["bootstrap_servers"]})
    while admin.list_topics(name, timeout=10).topics[name].error is not None:
        pass
    return name


class OnePartition(Sending):
    """The mock's topics have several partitions; all is written into the first."""

    def produce_waiting(self, topic: str, value: Any, on_delivery: Any = None) -> None:
        self.producer.produce(topic, value, partition=0, on_delivery=on_delivery or self.on_delivery)


@pytest.fixture(autouse=True)
def one_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_drain, "Sending", OnePartition)


def written(client: Client, topic: str, values: list[Any]) -> None:
    with contextlib.closing(OnePartition(client)) as sending:
        for value in values:
            sending.produce_waiting(topic, value)
        sending.flush()


def test_a_reader_of_rows_catches_up_with_a_producer_that_keeps_its_pace(mock: Client, topic: str) -> None:
    values = random_values(ROWS, VALUE_BYTES, seed=9)
    written(mock, topic, values)
    with (
        contextlib.closing(kafka_drain.Drainer(mock, topic, num_messages=10)) as drainer,
        contextlib.closing(kafka_drain.Pacer(mock, topic)) as pacer,
    ):
        nothing_more = drainer.rows(behind=ROWS, timeout_s=STALE_S)
        for _ in range(2):
            pacer.rows(group=GROUP, value_bytes=VALUE_BYTES, rate=GROUP * GROUPS_PER_S)
            found = drainer.rows(behind=20, timeout_s=LONG_S)
            acks = pacer.stop()
            assert found["caught_up"] and found["records"] >= 20
            assert len(acks) >= 1 and all(ms > 0 for _, ms in acks)
            assert acks[-1][0] >= acks[0][0]
    assert (nothing_more["records"], nothing_more["sum"]) == (ROWS, touch_all(values) % SUM_BELOW)


def test_a_reader_of_tables_begins_batches_behind_the_end(mock: Client, topic: str) -> None:
    table = values_table(ROWS, VALUE_BYTES, seed=9)
    written(mock, topic, [ipc_stream(table)] * 4)
    with (
        contextlib.closing(kafka_drain.Drainer(mock, topic)) as drainer,
        contextlib.closing(kafka_drain.Pacer(mock, topic)) as pacer,
    ):
        found = drainer.arrow(behind=3 * ROWS, rows=ROWS, timeout_s=STALE_S)
        assert (found["records"], found["sum"]) == (3 * ROWS, 3 * touch(table["value"]) % SUM_BELOW)
        pacer.batches(rows=ROWS, value_bytes=VALUE_BYTES, rate=ROWS * GROUPS_PER_S)
        assert drainer.arrow(behind=4 * ROWS, rows=ROWS, timeout_s=LONG_S)["caught_up"]
        assert len(pacer.stop()) >= 1


def test_a_pacer_that_nobody_stopped_stops_when_it_is_closed(mock: Client, topic: str) -> None:
    pacer = kafka_drain.Pacer(mock, topic)
    pacer.rows(group=GROUP, value_bytes=VALUE_BYTES, rate=GROUP * GROUPS_PER_S)
    pacer.close()
    assert not pacer._poller.is_alive()


def test_columns_are_picked_from_what_was_fetched_whole(mock: Client, topic: str) -> None:
    tables = list(batches(ROWS, 5))
    written(mock, topic, [ipc_stream(table) for table in tables])
    with contextlib.closing(kafka_columns.ColumnsOut(mock, topic)) as reader:
        reader.check(ROWS, 5)
        for columns in COLUMNS.values():
            expected = sum(touch_columns(table.select(columns)) for table in tables) % SUM_BELOW
            assert reader.read(columns, 5 * ROWS)["sum"] == expected
        with pytest.raises(AssertionError, match="are not the 250"):
            reader.check(ROWS // 2, 10)


def test_json_documents_are_the_rows(mock: Client, topic: str) -> None:
    rows = [row for table in batches(ROWS, 2) for row in plain_rows(table)]
    written(mock, topic, [json.dumps(row).encode() for row in rows])
    with contextlib.closing(kafka_columns.ColumnsOut(mock, topic)) as reader:
        reader.check_rows(ROWS, 2)
        found = reader.read_rows(COLUMNS[3], 2 * ROWS)
    assert found["sum"] == pytest.approx(sum(row["amount"] for row in rows))
