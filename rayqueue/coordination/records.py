"""Records of the metadata log. Only these change the cluster's state, by `ClusterState.replay`; recovery is replay.

Each is a tagged msgspec struct; the tag is a small number that never changes its meaning.
"""

from __future__ import annotations

import msgspec


class ClusterRecord(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """First record of a log: the cluster has been formatted."""

    cluster_id: str
    created_ms: int


class BrokerRecord(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """A broker process has registered (a new incarnation at every process start).

    Attributes:
        directory_id: from the broker's data directory; tells a returning broker from an empty one.
        node_id: Ray's node id. pool_size: its replica actors, slots 0 to pool_size - 1.
    """

    broker_id: int
    directory_id: str
    incarnation: str
    host: str
    port: int
    node_id: str
    pool_size: int


class BrokerStateRecord(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Whether the coordinator counts a broker as alive."""

    broker_id: int
    alive: bool


class ReplicaActorRecord(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """A replica actor's process has registered."""

    broker_id: int
    slot: int
    incarnation: str
    host: str
    port: int


class TopicRecord(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """A topic exists. schema: its log schema (IPC); typed: whether the user gave one; key_column: "" for none."""

    name: str
    topic_id: bytes
    schema: bytes
    typed: bool
    key_column: str


class UncleanReplica(msgspec.Struct, array_like=True, frozen=True):
    """A replica that left the ISR or ELR because what it had not fsynced may be lost.

    Attributes:
        last_epoch, log_end: of its log, as it has said since; -1: not said.
    """

    broker_id: int
    last_epoch: int = -1
    log_end: int = -1


class PartitionRecord(msgspec.Struct, tag=6, array_like=True, frozen=True):
    """The whole state of a partition; each one replaces the last.

    Invariants: leader == -1 or leader in isr; isr and elr are disjoint parts of replicas; leader_epoch never falls;
    partition_epoch rises with every record. slots[i] modulo the pool size of broker replicas[i] is the replica actor.

    Attributes:
        target: the replicas it is being given (`reassignment`), empty while it is not.
        adding: those of them that it did not have; they are the last of `replicas`.
        unclean_epoch: the last leader epoch that began with an unclean election, -1: none did.
        unclean: see `coordination.unclean`.
    """

    topic_id: bytes
    partition: int
    replicas: list[int]
    slots: list[int]
    isr: list[int]
    elr: list[int]
    leader: int
    leader_epoch: int
    partition_epoch: int
    unclean: list[UncleanReplica] = []
    target: list[int] = []
    adding: list[int] = []
    unclean_epoch: int = -1


class ConfigRecord(msgspec.Struct, tag=7, array_like=True, frozen=True):
    """A topic's override of a setting (dotted name), or its removal (None)."""

    topic_id: bytes
    name: str
    value: str | None


class RemoveTopicRecord(msgspec.Struct, tag=8, array_like=True, frozen=True):
    """The topic with this id is gone, with its partitions and settings."""

    topic_id: bytes


class ProducerIdsRecord(msgspec.Struct, tag=9, array_like=True, frozen=True):
    """Producer ids below next_id have been handed out in blocks."""

    next_id: int


class ReplicaActorStateRecord(msgspec.Struct, tag=10, array_like=True, frozen=True):
    """Whether the coordinator counts this process of a replica actor as there. One that registers does."""

    broker_id: int
    slot: int
    incarnation: str
    there: bool


class CoordinatorRecord(msgspec.Struct, tag=11, array_like=True, frozen=True):
    """A coordinator's process has registered: a copy of the metadata log, active or standby.

    Attributes:
        directory_id: of the copy; a directory that was lost comes back as another copy.
        node_id: Ray's node id.
    """

    coordinator_id: int
    directory_id: str
    incarnation: str
    host: str
    port: int
    node_id: str


class BrokerLeavingRecord(msgspec.Struct, tag=12, array_like=True, frozen=True):
    """This process of a broker is about to end in order: what it hosts leads nothing and joins no ISR any more."""

    broker_id: int
    incarnation: str


class ReassignmentThrottleRecord(msgspec.Struct, tag=13, array_like=True, frozen=True):
    """How fast replicas that are being added are fed: bytes a second of each replica actor that leads, 0: no limit."""

    bytes_per_s: int


class GroupActorRecord(msgspec.Struct, tag=14, array_like=True, frozen=True):
    """A process of a broker's group coordinator has registered. Whether it is there is not kept: it leads nothing, and
    who serves a group is whose broker leads the group's partition of the topic of groups."""

    broker_id: int
    incarnation: str
    host: str
    port: int


Record = (
    ClusterRecord
    | BrokerRecord
    | BrokerStateRecord
    | ReplicaActorRecord
    | TopicRecord
    | PartitionRecord
    | ConfigRecord
    | RemoveTopicRecord
    | ProducerIdsRecord
    | ReplicaActorStateRecord
    | CoordinatorRecord
    | BrokerLeavingRecord
    | ReassignmentThrottleRecord
    | GroupActorRecord
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)

encode_record = _encoder.encode


def decode_record(data: bytes | memoryview) -> Record:
    """Decodes a record; msgspec.DecodeError when it is none."""
    return _decoder.decode(data)
