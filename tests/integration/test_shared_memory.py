"""Large batches through memory that producer and server share: what was acked is in the log, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.actors import data_server
from rayqueue.client import data_channel
from rayqueue.client.data_channel import Exchange
from rayqueue.client.io.shared_memory import ClientMemory, ServerMemory
from rayqueue.errors import ProtocolError
from rayqueue.producer import Producer
from rayqueue.protocol import codec
from rayqueue.protocol.messages import ProduceRequest, TopicInfo
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.test_producer import World
from tests.integration.wire_client import WireClient, answer, produce, put, random_values, records

WAIT_S = 30.0
ROWS = 1000

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has sealed memory")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path_factory.mktemp("data")) as made:
        yield made


@pytest.fixture
def world(cluster: InProcessCluster) -> Iterator[World]:
    made = World(cluster)
    yield made
    made.admin.close()


@pytest.fixture
def wire(cluster: InProcessCluster) -> Iterator[WireClient]:
    made = WireClient(cluster)
    yield made
    made.close()


@pytest.fixture
def topic(wire: WireClient, request: pytest.FixtureRequest) -> TopicInfo:
    return wire.create(request.node.name.replace("[", ".").replace("]", "")[:200])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each large batch: how many of its rows went through the socket, 0 or 1."""
    seen: list[int] = []
    send = Exchange.send

    def noted(self: Exchange, message: bytes, rows: list[pa.Buffer] | None = None) -> None:
        if self.memory is not None or rows:
            seen.append(sum(row.size > ROWS * 100 for row in rows or ()))
        send(self, message, rows)

    monkeypatch.setattr(Exchange, "send", noted)
    return seen


def tables(count: int, rows: int = ROWS) -> list[pa.Table]:
    return [pa.table({"value": pa.array(random_values(rows), pa.binary())}) for _ in range(count)]


def check(world: World, topic: str, given: list[pa.Table], futures: list[Any], partitions: int = 1) -> None:
    """Every table stands where its future says, and nothing else is there."""
    stored = {number: world.values(topic, number) for number in range(partitions)}
    for table, future in zip(given, futures, strict=True):
        ((partition, offset, count),) = future.result(WAIT_S)
        assert count == len(table)
        assert stored[partition][offset : offset + count] == table["value"].to_pylist()
    assert sum(map(len, stored.values())) == sum(map(len, given))


def connect(world: World, producer: Producer, sent: list[int]) -> None:
    """What is encoded before there is a connection is sent."""
    producer.produce(world.topic(), b"v").result(WAIT_S)
    del sent[:]


@pytest.mark.parametrize("partitions", [1, 3])
def test_tables_arrive_and_not_through_the_socket(world: World, sent: list[int], partitions: int) -> None:
    topic, given = world.topic(partitions), tables(40)
    with world.producer() as producer:
        connect(world, producer, sent)
        futures = [producer.produce_batch(topic, table) for table in given]
    check(world, topic, given, futures, partitions)
    assert sent
    assert not any(sent)


def test_rows_arrive_that_way_too(world: World, sent: list[int]) -> None:
    topic, values = world.topic(), random_values(20_000)
    with world.producer(linger_ms=20) as producer:
        connect(world, producer, sent)
        futures = [producer.produce(topic, value) for value in values]
    assert world.values(topic) == values
    assert [future.result(0).offset for future in futures] == list(range(20_000))
    assert not any(sent)


@pytest.mark.parametrize("size", [64 * 1024, 512 * 1024])
def test_what_does_not_fit_is_sent(world: World, sent: list[int], monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(data_server, "ServerMemory", lambda: ServerMemory(size))
    topic, given = world.topic(), tables(40)
    with world.producer() as producer:
        futures = [producer.produce_batch(topic, table) for table in given]
    check(world, topic, given, futures)
    assert any(sent), "too large for the memory, or there was no room"


@pytest.mark.parametrize("where", ["server", "client"])
def test_who_cannot_share_sends(world: World, sent: list[int], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError("not here")

    monkeypatch.setattr(
        *((data_server, "ServerMemory") if where == "server" else (data_channel, "ClientMemory")), refuse
    )
    topic, given = world.topic(), tables(10)
    with world.producer() as producer:
        futures = [producer.produce_batch(topic, table) for table in given]
    check(world, topic, given, futures)
    assert all(sent)


def test_without_answers_nothing_is_shared(world: World, sent: list[int]) -> None:
    topic, given = world.topic(), tables(5)
    with world.producer(acks=0, enable_idempotence=False) as producer:
        for table in given:
            producer.produce_batch(topic, table)
        producer.flush(WAIT_S)
        producer.produce_batch(topic, tables(1)[0])
    assert all(sent)


def test_nothing_is_lost_or_doubled_when_the_server_is_killed_under_it(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        world = World(cluster)
        topic, given, futures = world.topic(), tables(60), []
        with world.producer() as producer:
            for number, table in enumerate(given):
                futures.append(producer.produce_batch(topic, table))
                if number % 20 == 10:
                    futures[-5].result(WAIT_S)
                    cluster.stop_replica(0)
                if number % 20 == 15:
                    cluster.start_replica(0)
        check(world, topic, given, futures)
        world.admin.close()


def test_a_client_that_is_killed_leaves_whole_batches_and_disturbs_nobody(world: World) -> None:
    topic = world.topic()
    program = f"""
        import os, pyarrow as pa, rayqueue
        producer = rayqueue.Producer(bootstrap_servers={world.cluster.bootstrap_servers!r})
        table = pa.table({{"value": pa.array([b"%05d" % i + os.urandom(95) for i in range({ROWS})], pa.binary())}})
        producer.produce_batch({topic!r}, table).result(30)
        print("going", flush=True)
        while True:
            producer.produce_batch({topic!r}, table)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"going\n"
        with world.producer() as producer:
            before = producer.produce_batch(topic, tables(1)[0]).result(WAIT_S)
            child.send_signal(signal.SIGKILL)
            child.wait(WAIT_S)
            after = producer.produce_batch(topic, tables(1)[0]).result(WAIT_S)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    assert after[0][1] > before[0][1]
    theirs = [
        value for at, value in enumerate(world.values(topic)) if at // ROWS * ROWS not in (before[0][1], after[0][1])
    ]
    assert [value[:5] for value in theirs] == [b"%05d" % (i % ROWS) for i in range(len(theirs))]


@pytest.mark.parametrize("place", [(-8, 800), (1 << 40, 800), (0, -1), (0, 1 << 40), (4, 800), ((16 << 20) - 8, 800)])
def test_a_notice_that_lies_ends_its_stream_and_no_more(
    wire: WireClient, topic: TopicInfo, place: tuple[int, int]
) -> None:
    exchange = wire.open("produce", topic)
    table = records([b"v" * 100] * 400)
    header = put(exchange, wire.batch(topic, [b"v" * 100] * 400), table)
    header.position, header.size = place
    exchange.send(codec.encode(ProduceRequest(1, -1, [header])))
    with pytest.raises(ProtocolError):
        answer(exchange)
    assert produce(wire.open("produce", topic), wire.batch(topic, [b"fine"])).base_offset == 0


def test_a_notice_without_memory_or_without_acks_ends_its_stream(wire: WireClient, topic: TopicInfo) -> None:
    table = records([b"v" * 100] * 400)
    for acks, shared in ((0, True), (-1, False)):
        exchange = wire.open("produce", topic)
        header = put(exchange, wire.batch(topic, [b"v" * 100] * 400), table)
        other = exchange if shared else _unshared(wire, topic)
        other.send(codec.encode(ProduceRequest(1, acks, [header])))
        with pytest.raises(ProtocolError):
            answer(other)


def _unshared(wire: WireClient, topic: TopicInfo) -> Exchange:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_server.DataServer, "_welcome_to", lambda self, exchange, framed: self._welcome)
        return wire.open("produce", topic)


def test_bytes_that_changed_after_their_crc_are_refused(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    values = [b"v" * 100] * 400
    header = put(exchange, wire.batch(topic, values), records(values))
    memory: ClientMemory = exchange.memory  # type: ignore[assignment]
    memory._view[header.position + header.size - 4000] ^= 1
    exchange.send(codec.encode(ProduceRequest(1, -1, [header])))
    assert answer(exchange).results[0].error == "CorruptRecord"
    memory._view[header.position + header.size - 4000] ^= 1
    exchange.send(codec.encode(ProduceRequest(2, -1, [header])))
    assert answer(exchange).results[0].base_offset == 0


def test_what_was_given_up_keeps_its_place_until_it_is_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may read it as late as that: bytes put there meanwhile would be written in its stead."""
    topic = world.topic()
    writes: list[tuple[int, int]] = []
    write = ClientMemory.write

    def noted(self: ClientMemory, batch: pa.RecordBatch) -> pa.Buffer | None:
        message = write(self, batch)
        assert message is not None
        writes.append((message.address, message.size))
        return message

    monkeypatch.setattr(ClientMemory, "write", noted)
    replica = world.cluster.replicas[0, 0]
    with Producer(
        bootstrap_servers=world.cluster.bootstrap_servers, delivery_timeout_ms=300, request_timeout_ms=30_000
    ) as producer:
        producer.produce_batch(topic, tables(1)[0]).result(WAIT_S)
        with replica._driver._inside:  # it writes nothing, and answers nothing
            late = producer.produce_batch(topic, tables(1)[0])
            assert late.exception(WAIT_S) is not None
            del writes[:-1]
            producer.produce_batch(topic, tables(1)[0])
            while len(writes) < 2:
                producer.flush(0.01)
        first, second = writes
        assert first[0] + first[1] <= second[0] or second[0] + second[1] <= first[0]
