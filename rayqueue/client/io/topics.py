"""What a producer knows of a topic it produces to."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from rayqueue.client.accumulator import Chunk
from rayqueue.client.io.keys import key_bytes
from rayqueue.client.io.rows import RowChecker
from rayqueue.client.lanes import Lane
from rayqueue.client.partitioner import Partitioner
from rayqueue.config.clients import ProducerConfig
from rayqueue.errors import RayQueueError, UnknownTopicOrPartition
from rayqueue.protocol.messages import PartitionInfo, TopicInfo
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, deserialize_schema

PartitionFunction = Callable[[bytes | None, int], int]

_START_BELOW = 1 << 31


class ProducerTopic:
    """A topic, as the hot path, the encoder and the machine need it.

    Args:
        random: chooses where round robin begins.

    Attributes:
        chunk: the open chunk, or None. contended: several threads have appended to it. Guarded by the accumulator's
            lock.
        plain: keys and values are bytes as they come: the hot path may take them.
        plain_log: batches have the default schema and are not compressed.
        full_at: bytes at which a chunk is closed.
        record_max: `max.message.bytes`.
        lanes: one a partition. available: the partitions with a leader.
        route_column: the typed column whose hash routes a record, or None.
        function: the caller's own partitioner, or None.
        codec: "none", "lz4", "zstd". refreshed_ms: when the metadata came.
        checker: checks rows of a typed topic. start: where round robin begins.
    """

    __slots__ = (
        "available", "checker", "chunk", "codec", "contended", "full_at", "function", "info", "key_column", "lanes",
        "name", "partitioner", "plain", "plain_log", "record_max", "refreshed_ms", "route_column", "schema", "start",
        "typed",
    )  # fmt: skip

    def __init__(self, info: TopicInfo, config: ProducerConfig, random: Random) -> None:
        self.name = info.name
        self.schema: pa.Schema = deserialize_schema(info.schema)
        self.typed = info.typed
        self.key_column = info.key_column or None
        self.checker = RowChecker(self.schema, info.name)
        self.chunk: Chunk | None = None
        self.contended = False
        self.full_at = 0
        self.refreshed_ms = 0.0
        self.lanes: list[Lane] = []
        self.start = random.randrange(_START_BELOW)
        self.partitioner = Partitioner(start=self.start)
        self.update(info, config)
        serialized = config.value_serializer is not None or config.key_serializer is not None
        self.plain = not self.typed and self.function is None and not serialized

    def __repr__(self) -> str:
        return f"ProducerTopic({self.name!r}, partitions={len(self.lanes)})"

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return len(self.info.partitions)

    def update(self, info: TopicInfo, config: ProducerConfig) -> None:
        """Takes new metadata: leaders, partitions, settings."""
        self.info = info
        self.record_max = int(info.configs.get("max.message.bytes", 1 << 20))
        stored = info.configs.get("compression.type", "producer")
        self.codec = config.compression_type if stored == "producer" else stored
        self.plain_log = not self.typed and self.codec == "none" and self.schema.equals(DEFAULT_SCHEMA)
        self.available = [p.partition for p in info.partitions if p.leader >= 0 and p.host]
        own = config.partitioner
        strategy = own if isinstance(own, str) else info.configs.get("partitioner", "default")
        if strategy != self.partitioner.strategy:
            self.partitioner = Partitioner(strategy, self.start)
        self.function: PartitionFunction | None = own if callable(own) else None
        by = info.configs.get("partition.by") or None
        self.route_column = (by if own is None and by else self.key_column) if self.typed else "key"


def call_partitioner(topic: ProducerTopic, key: Any) -> int:
    """What the caller's own partitioner says of a key (a typed column's value as the bytes it hashes as).

    Raises:
        RayQueueError: the function raised, or gave no partition of the topic.
    """
    assert topic.function is not None, "called only with a partitioner function"
    try:
        partition = topic.function(key_bytes(key), topic.partitions)
    except Exception as error:
        raise RayQueueError(f"the partitioner raised {type(error).__name__}: {error}") from error
    if not isinstance(partition, (int, np.integer)) or not 0 <= partition < topic.partitions:
        raise UnknownTopicOrPartition(
            f"the partitioner chose {partition!r}, topic {topic.name!r} has partitions 0 to {topic.partitions - 1}"
        )
    return int(partition)


def leader_of(partition: PartitionInfo) -> Any:
    """The replica actor that leads a partition, as the machine's node: (host, port, incarnation, broker id)."""
    if partition.leader < 0 or not partition.host:
        return None
    return (partition.host, partition.port, partition.incarnation, partition.leader)
