"""A bare client of the data plane for tests: says exactly what it is told to, right or wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import google_crc32c
import numpy as np
import pyarrow as pa

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import Exchange
from rayqueue.config import AdminConfig
from rayqueue.protocol import codec, ipc
from rayqueue.protocol.batches import decode
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    CreateTopicsRequest,
    FetchPart,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    Hello,
    ProduceBatch,
    ProduceRequest,
    ProduceResponse,
    ProduceResult,
    TopicInfo,
    TopicSpec,
    TopicsResponse,
)
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.storage.index import unpack_entries
from rayqueue.testing.inprocess import InProcessCluster

TIME = 1_700_000_000_000
TIMEOUT_S = 10.0


def records(values: list[bytes], time: int = TIME) -> pa.RecordBatch:
    """A batch of Kafka's record with these values and no keys."""
    count = len(values)
    times = pa.array(np.full(count, time), pa.int64()).cast(TIMESTAMP_TYPE)
    columns = [pa.nulls(count, pa.binary()), pa.array(values, pa.binary()), pa.nulls(count, HEADERS_TYPE), times]
    return pa.record_batch(columns, schema=DEFAULT_SCHEMA)


def random_values(count: int, size: int = 100) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


@dataclass
class Batch:
    """A serialised batch and what its request says of it; fields can be falsified."""

    topic_id: bytes
    partition: int
    row: pa.Buffer
    record_count: int
    producer: tuple[int, int, int] = (-1, -1, -1)
    leader_epoch: int = -1
    time: int = TIME
    attributes: int = 0
    crc: int | None = None

    def header(self) -> ProduceBatch:
        crc = self.crc
        if crc is None:
            message = ipc.split_message(self.row)
            crc = ipc.wire_crc(message, google_crc32c.value(message.body))
        return ProduceBatch(
            self.topic_id,
            self.partition,
            self.leader_epoch,
            *self.producer,
            self.record_count,
            self.time,
            self.time,
            self.attributes,
            crc,
        )


@dataclass
class Reader:
    """A subscription and what came of it."""

    exchange: Exchange
    schema: pa.Schema
    parts: list[FetchPart] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def step(self) -> FetchPart:
        """Takes one message of one part, or the first of several."""
        message, rows = self.exchange.receive()
        response = codec.decode(message, FetchResponse)
        self.parts += response.parts
        for part, row in zip(response.parts, rows, strict=False):
            entries = unpack_entries(part.entries)
            for entry, batch in zip(entries, decode(row, entries, self.schema), strict=True):
                self.values += batch.column("value").to_pylist()
                self.offsets += range(int(entry["base_offset"]), int(entry["last_offset"]) + 1)
        return response.parts[0]

    def until(self, count: int) -> None:
        """Reads until so many values have come."""
        while len(self.values) < count:
            self.step()


class WireClient:
    """Speaks the protocol to an in-process cluster."""

    def __init__(self, cluster: InProcessCluster) -> None:
        self.cluster = cluster
        self.client = ClusterClient(AdminConfig.parse({"bootstrap.servers": cluster.bootstrap_servers}))
        self._exchanges: list[Exchange] = []

    def create(self, name: str, partitions: int = 1, **configs: str) -> TopicInfo:
        spec = TopicSpec(name, partitions, -1, {k.replace("_", "."): v for k, v in configs.items()}, b"", "")
        response = self.client.call_coordinator("create_topics", CreateTopicsRequest([spec]), TopicsResponse)
        assert not response.results[0].error, response.results[0]
        self.client.refresh([name], min_index=response.index)
        return self.client.topic(name, refresh=True)

    def open(self, kind: str, topic: TopicInfo, partition: int = 0, client_id: str = "") -> Exchange:
        info = self.client.topic(topic.name, refresh=True).partitions[partition]
        hello = Hello(PROTOCOL_VERSION, kind, broker_id=info.leader, incarnation=info.incarnation, client_id=client_id)
        exchange = self.client.data_channel(info.host, info.port).exchange(hello, TIMEOUT_S)
        self._exchanges.append(exchange)
        return exchange

    def batch(self, topic: TopicInfo, values: list[bytes], partition: int = 0, **fields: object) -> Batch:
        row = records(values, int(fields.get("time", TIME))).serialize()  # type: ignore[call-overload]
        return Batch(topic.topic_id, partition, row, len(values), **fields)  # type: ignore[arg-type]

    def subscribe(self, topic: TopicInfo, offset: int, partition: int = 0, credit: int = 1 << 30) -> Reader:
        exchange = self.open("fetch", topic, partition)
        wanted = FetchPartition(1, topic.topic_id, partition, offset, -1, False)
        exchange.send(codec.encode(FetchRequest([wanted], [], credit)))
        return Reader(exchange, DEFAULT_SCHEMA)

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()
        self.client.close()


def send(exchange: Exchange, batches: list[Batch], correlation: int = 0, acks: int = -1) -> None:
    request = ProduceRequest(correlation, acks, [batch.header() for batch in batches])
    exchange.send(codec.encode(request), [batch.row for batch in batches])


def answer(exchange: Exchange) -> ProduceResponse:
    return codec.decode(exchange.receive()[0], ProduceResponse)


def put(exchange: Exchange, batch: Batch, table: pa.RecordBatch) -> ProduceBatch:
    """The header of a batch whose row lies in the memory shared with the server."""
    assert exchange.memory is not None
    message = exchange.memory.write(table)
    assert message is not None
    batch.row = message
    header = batch.header()
    assert exchange.memory.refer(header, message)
    return header


def produce(exchange: Exchange, batch: Batch) -> ProduceResult:
    """Sends one batch and waits for its result."""
    send(exchange, [batch])
    return answer(exchange).results[0]


@contextmanager
def watchdog(seconds: float, exchange: Exchange) -> Iterator[None]:
    """Breaks the exchange when the block takes too long, so that a test fails instead of hanging."""
    timer = threading.Timer(seconds, exchange.close)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
