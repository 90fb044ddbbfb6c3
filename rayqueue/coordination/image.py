"""The image of the metadata log: the cluster's state, and what else follows from the log alone.

Every coordinator keeps one of what is committed. The active one has a second that runs ahead of it: a command is
replayed there at once, so that the next command sees it.

An image can be written down (`dump`) in place of the log that made it: that is a snapshot. It is a list of records too,
the fewest that give the same state, so whoever can follow a log can begin with a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from rayqueue.coordination.records import (
    BrokerLeavingRecord,
    BrokerRecord,
    BrokerStateRecord,
    ClusterRecord,
    ConfigRecord,
    CoordinatorRecord,
    GroupActorRecord,
    ProducerIdsRecord,
    ReassignmentThrottleRecord,
    Record,
    ReplicaActorRecord,
    ReplicaActorStateRecord,
    TopicRecord,
    decode_record,
    encode_record,
)
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import CorruptRecord

_REMEMBERED_INCARNATIONS = 16

BROKER, COORDINATOR, GROUPS = -1, -2, -3  # in place of a slot
Process = tuple[int, int]  # broker id and slot; or the id of a broker or coordinator, and what it is


class _Dump(msgspec.Struct, array_like=True):
    """An image on disk or on the wire. See MetadataImage."""

    end: int
    records: list[bytes]
    superseded: list[tuple[int, int, list[str]]]
    registered: list[tuple[int, int, int]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Dump)


class MetadataImage:
    """See the module.

    Attributes:
        state: the cluster's.
        end: how many records it has replayed: the index of the next.
        registered: by process, `end` just after its registration.
    """

    def __init__(self, topic_defaults: Mapping[str, str] | None = None) -> None:
        self.state = ClusterState(topic_defaults)
        self.end = 0
        self.registered: dict[Process, int] = {}
        self._superseded: dict[Process, deque[str]] = {}

    def __repr__(self) -> str:
        return f"MetadataImage({self.state.cluster_id!r}, {self.end} records)"

    def replay(self, record: Record) -> None:
        """Applies one record.

        Raises:
            CorruptRecord: it cannot follow what was replayed before.
        """
        key = _process_of(record)
        present = self._incarnation(key)
        self.state.replay(record)
        self.end += 1
        if self._incarnation(key) != present:
            self.registered[key] = self.end
            if present:
                self._superseded.setdefault(key, deque(maxlen=_REMEMBERED_INCARNATIONS)).append(present)

    def is_superseded(self, process: Process, incarnation: str) -> bool:
        """Whether this incarnation is over: another one has registered after it."""
        return incarnation in self._superseded.get(process, ())

    def _incarnation(self, key: Process) -> str:
        process: CoordinatorRecord | BrokerRecord | ReplicaActorRecord | GroupActorRecord | None
        if key[1] == COORDINATOR:
            process = self.state.coordinators.get(key[0])
        elif key[1] == GROUPS:
            process = self.state.group_actors.get(key[0])
        else:
            process = self.state.brokers.get(key[0]) if key[1] == BROKER else self.state.replica_actors.get(key)
        return process.incarnation if process else ""

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def records(self) -> list[bytes]:
        """The fewest records, encoded, that give this state."""
        return [encode_record(record) for record in state_records(self.state)]

    def dump(self, records: list[bytes] | None = None) -> bytes:
        """All of it, for `load`. records: `records()`, if they are in hand."""
        superseded = [(*key, list(over)) for key, over in self._superseded.items()]
        registered = [(*key, index) for key, index in self.registered.items()]
        return _encoder.encode(_Dump(self.end, self.records() if records is None else records, superseded, registered))

    @classmethod
    def load(cls, data: bytes, topic_defaults: Mapping[str, str] | None = None) -> MetadataImage:
        """The image that was written down; none at all (b"") is an empty one.

        Raises:
            CorruptRecord: these bytes are no image.
        """
        image = cls(topic_defaults)
        if not data:
            return image
        try:
            dump = _decoder.decode(data)
            image.state.replay_all(decode_record(record) for record in dump.records)
        except msgspec.DecodeError as error:
            raise CorruptRecord(f"a snapshot of the metadata cannot be read: {error}") from error
        image.end = dump.end
        image.registered = {(broker_id, slot): index for broker_id, slot, index in dump.registered}
        for broker_id, slot, over in dump.superseded:
            image._superseded[broker_id, slot] = deque(over, maxlen=_REMEMBERED_INCARNATIONS)
        return image


def _process_of(record: Record) -> Process:
    """Which process a record may be about."""
    if isinstance(record, CoordinatorRecord):
        return record.coordinator_id, COORDINATOR
    if isinstance(record, GroupActorRecord):
        return record.broker_id, GROUPS
    return getattr(record, "broker_id", -1), getattr(record, "slot", BROKER)


def state_records(state: ClusterState) -> list[Record]:
    """The fewest records that give this state."""
    records: list[Record] = []
    if state.cluster_id:
        records.append(ClusterRecord(state.cluster_id, state.created_ms))
    records += state.coordinators.values()
    for broker_id, broker in state.brokers.items():
        records.append(broker)
        if not state.alive[broker_id]:
            records.append(BrokerStateRecord(broker_id, False))
    records += [BrokerLeavingRecord(broker_id, process) for broker_id, process in state.leaving.items()]
    for key, actor in state.replica_actors.items():
        records.append(actor)
        if key in state.lost:
            records.append(ReplicaActorStateRecord(*key, actor.incarnation, False))
    records += state.group_actors.values()
    for topic in state.topics.values():
        records.append(TopicRecord(topic.name, topic.topic_id, topic.schema, topic.typed, topic.key_column))
        records += [ConfigRecord(topic.topic_id, name, value) for name, value in topic.overrides.items()]
        records += topic.partitions
    if state.next_producer_id:
        records.append(ProducerIdsRecord(state.next_producer_id))
    if state.reassignment_throttle:
        records.append(ReassignmentThrottleRecord(state.reassignment_throttle))
    return records
