"""Values of the public interface."""

from __future__ import annotations

from typing import NamedTuple

OFFSET_BEGINNING = -2
OFFSET_END = -1
NO_OFFSET = -1001

TIMESTAMP_CREATE_TIME = 0
TIMESTAMP_LOG_APPEND_TIME = 1


class TopicPartition:
    """A partition of a topic, with an offset where the call wants one.

    Equality and hash look at topic and partition only, so it serves as a key.

    Attributes:
        topic: the topic's name.
        partition: its number, from 0.
        offset: a position in the partition, or None.
        metadata: text that is committed with the offset, or None.
        leader_epoch: of the record before the offset, where it is known.
    """

    __slots__ = ("leader_epoch", "metadata", "offset", "partition", "topic")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int | None = None,
        metadata: str | None = None,
        leader_epoch: int | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.metadata = metadata
        self.leader_epoch = leader_epoch

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicPartition):
            return NotImplemented
        return self.topic == other.topic and self.partition == other.partition

    def __hash__(self) -> int:
        return hash((self.topic, self.partition))

    def __lt__(self, other: TopicPartition) -> bool:
        return (self.topic, self.partition) < (other.topic, other.partition)

    def __iter__(self):  # type: ignore[no-untyped-def]
        """Unpacks as `topic, partition`."""
        yield self.topic
        yield self.partition

    def __repr__(self) -> str:
        at = "" if self.offset is None else f", offset={self.offset}"
        return f"TopicPartition({self.topic!r}, {self.partition}{at})"


class RecordMetadata(NamedTuple):
    """Where a record was written.

    Attributes:
        topic: the topic's name.
        partition: the partition's number.
        offset: the record's offset; -1 with acks=0, where nobody says.
        timestamp: the record's timestamp, ms since the epoch.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int


class Watermarks(NamedTuple):
    """The offsets between which a partition can be read: `low` (log start) up to, not including, `high`."""

    low: int
    high: int
