"""The load generators against the real data plane: they do what they are told, no more, and count it right."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rayqueue.admin import AdminClient
from rayqueue.consumer import Consumer
from rayqueue.errors import RecordTooLarge
from rayqueue.perf.consume import ArrowOut, ArrowOutStreamed, RowsOut
from rayqueue.perf.latency import STAMP, Receiver, Sender
from rayqueue.perf.one_by_one import OneByOne
from rayqueue.perf.payload import SUM_BELOW, random_values, touch_all
from rayqueue.perf.produce import BatchesIn, RowsIn
from rayqueue.testing.inprocess import InProcessCluster

LONG_S = 60.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    directory: Path = tmp_path_factory.mktemp("perf")
    with InProcessCluster(directory / "data") as cluster:
        yield {"bootstrap_servers": cluster.bootstrap_servers}


@pytest.fixture
def topic(client: dict[str, Any], request: pytest.FixtureRequest) -> str:
    name = f"t{abs(hash(request.node.name))}"
    with AdminClient(**client) as admin:
        admin.create_topic(name, 2)
    return name


def values(client: dict[str, Any], topic: str) -> list[bytes]:
    with Consumer(topic, auto_offset_reset="earliest", stop_at="latest", **client) as consumer:
        return [message.value for message in consumer]


class Progress:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.records = self.bytes = 0

    def __call__(self, records: int, size: int) -> None:
        self.records += records
        self.bytes += size


def test_rows_are_as_many_as_asked_for(client: dict[str, Any], topic: str) -> None:
    progress = Progress()
    with RowsIn(client, linger_ms=1) as load:
        found = load.run(topic, 12, LONG_S, 2_345, progress)
        assert found["records"] == progress.records == 2_345 and progress.bytes == 2_345 * 12
        assert len(values(client, topic)) == 2_346  # the first one warms up
        load.run(topic, 12, LONG_S, 4, warm_up=False)
    written = values(client, topic)
    assert len(written) == 2_350 and set(written) == set(random_values(1000, 12))


def test_rows_end_with_the_time_and_keep_to_a_rate(client: dict[str, Any], topic: str) -> None:
    with RowsIn(client) as load:
        found = load.run(topic, 10, 0.05, 10_000_000)
        assert 0 < found["records"] < 10_000_000
        # 30 records at 100 a second cannot take less.
        assert load.run(topic, 10, LONG_S, 30, rate=100)["seconds"] >= 0.29


@pytest.mark.parametrize("acks", ["all", 1, 0])
def test_latencies_of_sampled_rows_and_of_all_batches(client: dict[str, Any], topic: str, acks: Any) -> None:
    latencies: list[int] = []
    with RowsIn(client, acks=acks) as load:
        assert load.run(topic, 10, LONG_S, 1_050, timed=latencies.append)["records"] == 1_050
    assert len(latencies) == 11 and all(0 < one < LONG_S * 1e9 for one in latencies)
    with BatchesIn(client, acks=acks) as batches:
        batches.run(topic, 10, 10, LONG_S, records_max=95, timed=latencies.append, warm_up=False)
    assert len(latencies) == 21


def test_batches_are_bounded_by_bytes_and_by_records(client: dict[str, Any], topic: str) -> None:
    progress = Progress()
    with BatchesIn(client) as load:
        assert load.run(topic, 100, 10, LONG_S, bytes_max=10_500)["records"] == 1_100  # whole batches
        assert len(values(client, topic)) == 1_200
        found = load.run(topic, 100, 10, math.inf, records_max=1_050, progress=progress, warm_up=False)
    assert found["records"] == progress.records == 1_050
    assert len(values(client, topic)) == 2_250


def test_a_record_that_cannot_be_written_is_told(client: dict[str, Any], topic: str) -> None:
    with RowsIn(client) as load, pytest.raises(RecordTooLarge):
        load.run(topic, 64 << 20, LONG_S, 1)


def test_all_readers_find_the_same_bytes(client: dict[str, Any], topic: str) -> None:
    with BatchesIn(client) as load:
        load.run(topic, 300, 100, LONG_S, records_max=3_000)
    with RowsIn(client) as rows:
        rows.run(topic, 100, LONG_S, 700)
    expected = touch_all(values(client, topic)) % SUM_BELOW
    for kind, tuning in ((RowsOut, {}), (RowsOut, {"num_messages": 1}), (ArrowOut, {}), (ArrowOutStreamed, {})):
        progress = Progress()
        with kind(client, topic, **tuning) as reader:
            for _ in range(2):
                found = reader.run(4_001, progress)
                assert (found["records"], found["bytes"], found["sum"]) == (4_001, 400_100, expected)
            assert reader.run(17)["records"] == 17
        assert (progress.records, progress.bytes) == (8_002, 800_200)


@pytest.mark.parametrize("kind", [RowsOut, ArrowOut])
def test_a_reader_may_end_where_the_topic_ends(client: dict[str, Any], topic: str, kind: Any) -> None:
    with BatchesIn(client) as load:
        load.run(topic, 10, 10, LONG_S, records_max=990)
    with kind(client, topic, stop_at="latest") as reader:
        assert reader.run(to_end=True)["records"] == 1_000
        assert reader.run(5_000, to_end=True)["records"] == 1_000
        assert reader.run(30, to_end=True)["records"] == 30


def test_a_reader_waits_for_what_comes_later(client: dict[str, Any], topic: str) -> None:
    with ThreadPoolExecutor() as pool, ArrowOut(client, topic) as reader, BatchesIn(client) as load:
        reading = pool.submit(reader.run, 1_000)
        load.run(topic, 100, 10, LONG_S, records_max=1_000)
        assert reading.result(LONG_S)["records"] == 1_000


def test_items_one_by_one(client: dict[str, Any]) -> None:
    with AdminClient(**client) as admin:
        admin.create_topic("items")
    load = OneByOne(client, "items")
    try:
        assert load.awaited(20)["seconds"] > 0
        assert load.pipelined(1_500)["seconds"] > 0
        assert load.awaited(3)["seconds"] > 0
    finally:
        load.close()
    assert len(values(client, "items")) == 1 + 20 + 1_500 + 3


def test_items_of_somebody_else_are_noticed(client: dict[str, Any]) -> None:
    with AdminClient(**client) as admin:
        admin.create_topic("shared")
    load = OneByOne(client, "shared")
    try:
        with RowsIn(client) as other:
            other.run("shared", 10, LONG_S, 1)
        with pytest.raises(AssertionError, match="not the one that was put"):
            load.awaited(1)
    finally:
        load.close()


def test_every_record_is_sent_and_received_with_its_moment(client: dict[str, Any], topic: str) -> None:
    progress = Progress()
    with ThreadPoolExecutor() as pool, Receiver(client, topic) as receiver, Sender(client, topic) as sender:
        for _ in range(2):  # records of the round before are not counted
            begin = time.monotonic_ns() + 10_000_000
            receiving = pool.submit(receiver.latencies, begin, 200, 50_000_000)
            assert sender.run(begin, 200, 1_000, 20, progress)["late_ms"] >= 0
            latencies = receiving.result(LONG_S)
            assert len(latencies) == 150 and min(latencies) > 0
    assert (progress.records, progress.bytes) == (400, 8_000)
    sent = values(client, topic)
    assert len(sent) == 401 and sorted(map(len, sent)) == [STAMP] + [20] * 400
