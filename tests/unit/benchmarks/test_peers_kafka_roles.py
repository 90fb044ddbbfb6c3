"""What confluent-kafka's roles do, against librdkafka's mock of a cluster; and, where it was fetched, real Kafka."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import default_cache
from benchmarks.harness.interruption import running
from benchmarks.harness.payload import SUM_BELOW, random_values, touch, touch_all, values_table
from benchmarks.harness.system import PeerFailed, System
from benchmarks.peers import kafka_install

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra bench is not installed")

from benchmarks.peers import kafka, kafka_clients, kafka_throughput  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux")

ROWS = 2_500
VALUE_BYTES = 100
LONG_S = 60.0
START_S = 300

Client = dict[str, Any]


@pytest.fixture(scope="module")
def mock() -> Iterator[Client]:
    """A cluster inside this process, as a client sees it."""
    cluster = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield {"bootstrap_servers": f"{broker.host}:{broker.port}", "message_bytes_max": 1 << 26}


@pytest.fixture
def topic(mock: Client, request: pytest.FixtureRequest) -> str:
    """One that the mock makes because it is asked for."""
    name: str = request.node.name.translate({ord(sign): "-" for sign in "[]"})
    admin = confluent_kafka.Producer({"bootstrap.servers": mock["bootstrap_servers"]})
    while admin.list_topics(name, timeout=10).topics[name].error is not None:
        pass
    return name


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Kafka itself, where `python -m benchmarks` has fetched it."""
    cache = default_cache()
    missing = kafka_install.missing(cache) or (None if kafka_install.is_whole(cache) else f"no Kafka in {cache}")
    if missing:
        pytest.skip(missing)
    with kafka.Kafka(warm_s=1.0).start(tmp_path_factory.mktemp("kafka"), cache, print) as system:
        yield system


def made(kind: type, *arguments: Any, **more: Any) -> Any:
    return contextlib.closing(kind(*arguments, **more))


def rows_sent(count: int) -> list[bytes]:
    """The values that `RowsIn` writes: one to connect, then `count`."""
    values = random_values(kafka_throughput.DISTINCT, VALUE_BYTES)
    return [values[0], *(values[number % len(values)] for number in range(count))]


def read_all(client: Client, topic: str, count: int) -> list[bytes]:
    """Every value, by a consumer of the test's own; of one partition in order."""
    config = {"bootstrap.servers": client["bootstrap_servers"], "group.id": "test", "auto.offset.reset": "earliest"}
    consumer = confluent_kafka.Consumer(config)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in partitions])
    values: list[bytes] = []
    while len(values) < count:
        found = consumer.consume(count - len(values), LONG_S)
        assert found and all(message.error() is None for message in found)
        values += [message.value() for message in found]
    consumer.close()
    return values


@pytest.mark.parametrize("tuning", [{}, {"poll_every": 100}, {"queue_buffering_max_messages": 10}], ids=str)
def test_rows_come_back_as_they_went_in(mock: Client, tuning: dict[str, Any]) -> None:
    topic = f"rows-{len(str(tuning))}"
    with made(kafka_throughput.RowsIn, mock, **tuning) as rows_in:
        assert rows_in.run(topic, VALUE_BYTES, LONG_S, ROWS)["records"] == ROWS
    sent = rows_sent(ROWS)
    assert sorted(read_all(mock, topic, ROWS + 1)) == sorted(sent)
    with made(kafka_throughput.RowsOut, mock, topic, fetch_wait_max_ms=10) as rows_out:
        for _ in range(2):
            found = rows_out.run(ROWS + 1)
            assert (found["records"], found["sum"]) == (ROWS + 1, touch_all(sent) % SUM_BELOW)


@pytest.mark.parametrize("tuning", [{}, {"batch": 300}, {"queue_buffering_max_messages": 700}], ids=str)
def test_rows_given_as_lists_come_back_as_they_went_in(mock: Client, tuning: dict[str, Any]) -> None:
    topic = f"lists-{len(str(tuning))}"
    with made(kafka_throughput.RowsInBatches, mock, **tuning) as rows_in:
        for _ in range(2):
            assert rows_in.run(topic, VALUE_BYTES, LONG_S, ROWS)["records"] == ROWS
    assert sorted(read_all(mock, topic, 2 * (ROWS + 1))) == sorted(2 * rows_sent(ROWS))


def test_a_list_that_kafka_refuses_is_an_error_not_a_wait(mock: Client) -> None:
    with made(kafka_throughput.RowsInBatches, mock, message_max_bytes=1000) as rows_in:
        rows_in._sending.produce_waiting("refused", b"x")
        with pytest.raises(confluent_kafka.KafkaException, match="too large"):
            rows_in._produce("refused", [[bytes(5000)] * 3])


@pytest.mark.parametrize(
    ("rates", "windows"),
    [([10, 10.3], 2), ([10, 20, 21], 3), ([10, 9.4, 9.9, 9.5], 4), ([1, 2, 4, 8, 16, 32, 64], kafka.WINDOWS_MAX)],
)
def test_warm_is_who_gets_no_faster(rates: list[float], windows: int) -> None:
    measured = iter(rates)
    assert kafka.until_steady(lambda: (5.0, next(measured))) == windows


def test_batches_come_back_as_they_went_in(mock: Client, topic: str) -> None:
    with made(kafka_throughput.BatchesIn, mock) as batches_in:
        found = batches_in.run(topic, 500, VALUE_BYTES, LONG_S, records_max=ROWS + 10)
        assert found["records"] == ROWS + 10
    table = values_table(500, VALUE_BYTES)
    with made(kafka_throughput.ArrowOut, mock, topic) as arrow_out:
        assert arrow_out.run(500)["sum"] == touch(table["value"]) % SUM_BELOW
        parts = [table] * 6 + [table.slice(0, 10)]
        found = arrow_out.run(ROWS + 510)
        assert found["sum"] == sum(touch(part["value"]) for part in parts) % SUM_BELOW


def test_what_was_sent_on_time_is_received_and_timed(mock: Client, topic: str) -> None:
    roles = kafka.roles()
    with made(roles["receiver"], mock, topic) as receiver, made(roles["sender"], mock, topic, linger_ms=0) as sender:
        receiver.warm()
        begin = time.monotonic_ns()
        sending = threading.Thread(target=sender.run, args=(begin, 100, 1000, VALUE_BYTES))
        sending.start()
        found = receiver.run(begin_ns=begin, count=100, skip_ns=50_000_000)
        sending.join()
    assert found["count"] == 50
    assert 0 < found["p50"] <= found["p99"] <= found["max"]


def test_items_come_out_one_by_one_as_they_went_in(mock: Client, topic: str) -> None:
    with made(kafka.roles()["one_by_one"], mock, topic, sticky_partitioning_linger_ms=0) as queue:
        assert queue.awaited(3)["seconds"] > 0


def test_a_record_that_is_not_written_is_an_error(mock: Client, topic: str) -> None:
    with made(kafka_clients.Sending, mock) as sending:
        sending.produce_waiting(topic, b"x")
        sending.on_delivery(confluent_kafka.KafkaError(confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE), None)
        with pytest.raises(confluent_kafka.KafkaException, match="MSG_SIZE_TOO_LARGE"):
            sending.flush()


def test_a_broker_that_is_gone_is_noticed_by_its_port() -> None:
    down = confluent_kafka.KafkaError(confluent_kafka.KafkaError._ALL_BROKERS_DOWN)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        lifeline = kafka_clients.Lifeline(address)
        lifeline.on_error(down)
        lifeline.check()
    lifeline.check()  # its port has just been asked
    again = kafka_clients.Lifeline(address)
    again.on_error(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TRANSPORT))
    again.check()  # nothing is suspected
    again.on_error(down)
    with pytest.raises(kafka_clients.KafkaGone, match="refuses connections"):
        again.check()


def test_deleted_topics_do_not_count_as_data(tmp_path: Path) -> None:
    for name in ("bench-1-0", "bench-0-0.5c2e-delete"):
        (tmp_path / name).mkdir()
    (tmp_path / "meta.properties").touch()
    assert [log.name for log in tmp_path.iterdir() if kafka.is_kept(log)] == ["bench-1-0"]


@pytest.mark.slow
@pytest.mark.timeout(START_S)
def test_real_kafka_gives_back_what_every_role_wrote(real: System) -> None:
    client, roles = real.client(), real.roles
    before = real.bytes_on_disk()
    with real.topic() as topic, made(roles["rows_in"], client) as rows_in:
        rows_in.run(topic, VALUE_BYTES, LONG_S, ROWS)
        assert read_all(client, topic, ROWS + 1) == rows_sent(ROWS)
        assert real.bytes_on_disk() - before >= ROWS * VALUE_BYTES
        for more in ({}, {"group": "one"}):
            with made(roles["rows_out"], client, topic, **more) as rows_out:
                for _ in range(2):
                    assert rows_out.run(ROWS + 1)["sum"] == touch_all(rows_sent(ROWS)) % SUM_BELOW
    with real.topic(4, flush_messages=1) as topic, made(roles["batches_in"], client) as batches_in:
        batches_in.run(topic, 10_000, VALUE_BYTES, LONG_S, bytes_max=5_000_000)
        with made(roles["arrow_out"], client, topic) as arrow_out:
            whole = touch(values_table(10_000, VALUE_BYTES)["value"])
            assert arrow_out.run(60_000)["sum"] == 6 * whole % SUM_BELOW
    with real.topic() as topic, made(roles["java_rows_in"], client) as java_rows_in:
        assert java_rows_in.run(topic, VALUE_BYTES, 0.1, 2_000)["records"] == 2_000
        assert len(read_all(client, topic, 3_000)) == 3_000


@pytest.mark.slow
@pytest.mark.timeout(START_S)
def test_real_kafka_that_is_killed_ends_in_a_line(tmp_path: Path, real: System) -> None:
    with kafka.Kafka(warm_s=1.0).start(tmp_path, default_cache(), print) as system:
        (pid,) = system.processes()["servers"]
        with (
            pytest.raises(PeerFailed, match=f"the broker .pid {pid}. ended by signal 9$"),
            system.topic() as topic,
            made(system.roles["batches_in"], system.client()) as batches_in,
        ):
            killing = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
            killing.start()
            batches_in.run(topic, ROWS, VALUE_BYTES, LONG_S)
        assert not running(pid)
    (other,) = real.processes()["servers"]
    assert running(other)
