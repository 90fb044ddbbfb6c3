"""What an AdminClient takes and returns: plain values, printable, each with `to_dict` for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

INTERNAL_PREFIX = "__"


@dataclass(frozen=True)
class NewTopic:
    """A topic to create; see `AdminClient.create_topic`."""

    name: str
    partitions: int = 1
    replication_factor: int | None = None
    config: Mapping[str, Any] | None = None
    schema: pa.Schema | None = None
    key_column: str | None = None


@dataclass(frozen=True)
class PartitionDescription:
    """A partition as it is now.

    Attributes:
        leader: broker id of the leader, -1 while there is none.
        endpoint: "host:port" of the replica actor that leads it, "" while there is none.
        replicas, isr: broker ids. elr: those not in sync that hold every acked record (KIP-966).
        adding, removing: those of the replicas that a reassignment adds and will remove.
        unclean_epoch: the last leader epoch that began with an unclean election, or -1.
        start_offset: first offset that can be read; None when the leader did not answer.
        end_offset: the next offset to be written (the high watermark); None when the leader did not answer.
        size: bytes of its segments at the leader; None when the leader did not answer.
        segments: how many those are.
        path: the leader's directory, on the leader's node.
        error: why the leader did not answer, or "".
    """

    partition: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    endpoint: str = ""
    start_offset: int | None = None
    end_offset: int | None = None
    size: int | None = None
    segments: int | None = None
    path: str = ""
    error: str = ""
    adding: list[int] = field(default_factory=list)
    removing: list[int] = field(default_factory=list)
    elr: list[int] = field(default_factory=list)
    unclean_epoch: int = -1

    @property
    def records(self) -> int | None:
        """Records that can be read; None when the leader did not answer."""
        if self.start_offset is None or self.end_offset is None:
            return None
        return self.end_offset - self.start_offset


@dataclass(frozen=True)
class TopicDescription:
    """A topic and its partitions as they are now.

    Attributes:
        topic_id: the UUID's 32 hex digits; a topic deleted and created again has another.
        schema: the user's Arrow schema of a typed topic (without the log's `timestamp`), or None.
        key_column: the column that keys a typed topic's records, or None.
        configs: effective settings, by Kafka's names, as text.
        overrides: names of the settings that were set on the topic itself.
    """

    name: str
    topic_id: str
    partitions: list[PartitionDescription]
    schema: pa.Schema | None
    key_column: str | None
    configs: dict[str, str]
    overrides: list[str]

    @property
    def replication_factor(self) -> int:
        """Replicas of the first partition, not counting those that are being added."""
        return len(self.partitions[0].replicas) - len(self.partitions[0].adding) if self.partitions else 0

    @property
    def records(self) -> int | None:
        """Records that can be read in all partitions; None when a leader did not answer."""
        counts = [p.records for p in self.partitions]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def size(self) -> int | None:
        """Bytes of all partitions at their leaders; None when a leader did not answer."""
        known = [p.size for p in self.partitions if p.size is not None]
        return sum(known) if len(known) == len(self.partitions) else None

    @property
    def internal(self) -> bool:
        """Whether it is one of rayqueue's own."""
        return self.name.startswith(INTERNAL_PREFIX)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the schema as {column: type}."""
        return {
            "name": self.name,
            "topic_id": self.topic_id,
            "internal": self.internal,
            "replication_factor": self.replication_factor,
            "records": self.records,
            "size": self.size,
            "schema": None if self.schema is None else {f.name: str(f.type) for f in self.schema},
            "key_column": self.key_column,
            "configs": dict(self.configs),
            "overrides": list(self.overrides),
            "partitions": [{**asdict(p), "records": p.records} for p in self.partitions],
        }

    def __repr__(self) -> str:
        columns = ", ".join(f"{f.name}: {f.type}" for f in self.schema or ())
        typed = f", schema=({columns})" if columns else ""
        keyed = f", key_column={self.key_column!r}" if self.key_column else ""
        own = {name: self.configs[name] for name in self.overrides if name in self.configs}
        settings = f", config={own}" if own else ""
        head = f"TopicDescription({self.name!r}, replication_factor={self.replication_factor}{typed}{keyed}{settings})"
        return "\n".join([head, *(f"  {_partition_line(p)}" for p in self.partitions)])


def _partition_line(p: PartitionDescription) -> str:
    leader = "no leader" if p.leader < 0 else f"leader {p.leader} (epoch {p.leader_epoch})"
    offsets = f"offsets {p.start_offset} to {p.end_offset}, {p.size} bytes" if not p.error else p.error
    moving = f" (adding {p.adding}, removing {p.removing})" if p.adding or p.removing else ""
    return f"partition {p.partition}: {leader}, replicas {p.replicas}{moving}, isr {p.isr}, {offsets}"


@dataclass(frozen=True)
class PartitionReassignment:
    """A partition that is being given other replicas.

    Attributes:
        replicas: all at present, broker ids. adding, removing: of these, those that come and those that will go.
        isr: who is in sync; when all that come are, those that go leave.
    """

    replicas: list[int]
    adding: list[int]
    removing: list[int]
    isr: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ConfigEntry:
    """A topic's effective setting.

    Attributes:
        value: as text.
        is_default: nobody set it, neither on the topic nor at the cluster's start.
        source: "topic", "cluster" or "default".
        doc: what it does, in a line.
    """

    name: str
    value: str
    is_default: bool
    source: str
    doc: str = field(default="", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BrokerDescription:
    """A broker. leads: how many partitions it leads; replicas: how many it hosts."""

    broker_id: int
    host: str
    port: int
    node_id: str
    alive: bool
    leads: int
    replicas: int


@dataclass(frozen=True)
class ClusterDescription:
    """The cluster as one of its brokers sees it.

    Attributes:
        coordinator: "host:port" of the active coordinator, "" when none is known.
        metadata_index: how far the metadata log has come.
        partitions: of all topics, internal ones too.
        without_leader, under_replicated: "topic-partition" of those, sorted.
    """

    cluster_id: str
    brokers: list[BrokerDescription]
    coordinator: str
    coordinator_epoch: int
    metadata_index: int
    topics: int
    partitions: int
    without_leader: list[str]
    under_replicated: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        head = (
            f"ClusterDescription({self.cluster_id}, coordinator {self.coordinator or 'unknown'}, "
            f"{self.topics} topics, {self.partitions} partitions, {len(self.without_leader)} without leader, "
            f"{len(self.under_replicated)} under-replicated)"
        )
        lines = (
            f"  broker {b.broker_id}: {b.host}:{b.port}, {'alive' if b.alive else 'dead'}, leads {b.leads} of "
            f"{b.replicas} replicas"
            for b in self.brokers
        )
        return "\n".join([head, *lines])
