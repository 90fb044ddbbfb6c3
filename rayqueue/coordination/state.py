"""The cluster's state: what the metadata log says. Only `replay` mutates it; a recovery is a replay from the start.

Held by the coordinator (its own log) and by every broker and replica actor (which follow the log through the action
`watch`). Equal logs give equal states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.config.settings import to_text
from rayqueue.config.topic import TOPIC_SETTINGS, TopicConfig
from rayqueue.coordination.records import (
    BrokerLeavingRecord,
    BrokerRecord,
    BrokerStateRecord,
    ClusterRecord,
    ConfigRecord,
    CoordinatorRecord,
    GroupActorRecord,
    PartitionRecord,
    ProducerIdsRecord,
    ReassignmentThrottleRecord,
    Record,
    RemoveTopicRecord,
    ReplicaActorRecord,
    ReplicaActorStateRecord,
    TopicRecord,
)
from rayqueue.errors import CorruptRecord

NO_LEADER = -1

_BUILT_IN = {name: to_text(s.default) for name, s in TOPIC_SETTINGS.items() if not s.later}


class Topic(msgspec.Struct):
    """A topic, its overrides and its partitions.

    Attributes:
        schema: log schema, IPC. typed: whether the user gave one. key_column: "" for none.
        overrides: settings of the topic itself, dotted names, as text.
        partitions: entry i is partition i.
        factors: how many of them have so many replicas, not counting those that are being added.
    """

    name: str
    topic_id: bytes
    schema: bytes
    typed: bool
    key_column: str
    overrides: dict[str, str]
    partitions: list[PartitionRecord]
    factors: dict[int, int]

    @property
    def replication_factor(self) -> int:
        """Replicas of its first partition; 0 before there is one."""
        return len(replicas_before(self.partitions[0])) if self.partitions else 0

    @property
    def smallest_factor(self) -> int:
        """Replicas of the partition that has fewest: they may differ while it is reassigned, and by being so."""
        return min(self.factors, default=0)


def replicas_before(partition: PartitionRecord) -> list[int]:
    """The replicas without those that are being added."""
    return partition.replicas[: len(partition.replicas) - len(partition.adding)]


def effective_configs(overrides: Mapping[str, str], defaults: Mapping[str, str], replicas: int) -> dict[str, str]:
    """All settings of a topic as text, by dotted name: its own, else the cluster's default, else the built-in one.

    `min.insync.replicas` that nobody sets is max(1, replicas - 1). A topic's own `partition.by` switches off a
    partitioner that is only a default (and the reverse), so the result is valid whenever the overrides are.
    """
    merged = {**_BUILT_IN, "min.insync.replicas": str(max(1, replicas - 1)), **defaults, **overrides}
    if merged["partition.by"] and merged["partitioner"] not in ("default", "hash"):
        if "partitioner" not in overrides:
            merged["partitioner"] = "default"
        elif "partition.by" not in overrides:
            merged["partition.by"] = ""
    return merged


class ClusterState:
    """Everything the metadata log has said so far.

    Invariants: `topics` and `topics_by_id` hold the same topics; partitions of a topic are numbered 0 to n - 1;
    see PartitionRecord and `validate`.
    """

    def __init__(self, topic_defaults: Mapping[str, str] | None = None) -> None:
        """topic_defaults: the cluster's topic settings (`BrokerConfig.topic_defaults`)."""
        self.topic_defaults = dict(topic_defaults or {})
        self.cluster_id = ""
        self.created_ms = 0
        self.coordinators: dict[int, CoordinatorRecord] = {}
        self.brokers: dict[int, BrokerRecord] = {}
        self.alive: dict[int, bool] = {}
        self.replica_actors: dict[tuple[int, int], ReplicaActorRecord] = {}
        self.group_actors: dict[int, GroupActorRecord] = {}  # by broker
        self.lost: set[tuple[int, int]] = set()  # replica actors whose process counts as gone
        self.topics: dict[str, Topic] = {}
        self.topics_by_id: dict[bytes, Topic] = {}
        self.leaving: dict[int, str] = {}  # brokers that end in order, by the incarnation that does
        self.reassigning: set[tuple[bytes, int]] = set()  # partitions that are
        self.reassignment_throttle = 0  # see ReassignmentThrottleRecord
        self.partition_count = 0
        self.next_producer_id = 0

    # --- the only way to change it -------------------------------------------------------------------------------

    def replay(self, record: Record) -> None:
        """Applies one record.

        Raises:
            CorruptRecord: the record cannot follow what was replayed before.
        """
        match record:
            case ClusterRecord():
                if self.cluster_id and self.cluster_id != record.cluster_id:
                    raise CorruptRecord(f"the metadata log is of two clusters, {self.cluster_id}, {record.cluster_id}")
                self.cluster_id, self.created_ms = record.cluster_id, record.created_ms
            case CoordinatorRecord():
                self.coordinators[record.coordinator_id] = record
            case BrokerRecord():
                self._replay_broker(record)
            case BrokerStateRecord():
                self.alive[record.broker_id] = record.alive
            case ReplicaActorRecord():
                self.replica_actors[record.broker_id, record.slot] = record
                self.lost.discard((record.broker_id, record.slot))
            case GroupActorRecord():
                self.group_actors[record.broker_id] = record
            case ReplicaActorStateRecord():
                self._replay_actor_state(record)
            case TopicRecord():
                topic = Topic(record.name, record.topic_id, record.schema, record.typed, record.key_column, {}, [], {})
                self.topics[record.name] = self.topics_by_id[record.topic_id] = topic
            case PartitionRecord():
                self._replay_partition(record)
            case ConfigRecord():
                topic = self._known(record.topic_id)
                if record.value is None:
                    topic.overrides.pop(record.name, None)
                else:
                    topic.overrides[record.name] = record.value
            case RemoveTopicRecord():
                topic = self._known(record.topic_id)
                del self.topics_by_id[topic.topic_id], self.topics[topic.name]
                self.partition_count -= len(topic.partitions)
                for partition in topic.partitions:
                    self.reassigning.discard((topic.topic_id, partition.partition))
            case ProducerIdsRecord():
                self.next_producer_id = max(self.next_producer_id, record.next_id)
            case BrokerLeavingRecord():
                self.leaving[record.broker_id] = record.incarnation
            case ReassignmentThrottleRecord():
                self.reassignment_throttle = record.bytes_per_s

    def replay_all(self, records: Iterable[Record]) -> None:
        """Applies records in order."""
        for record in records:
            self.replay(record)

    def _replay_broker(self, record: BrokerRecord) -> None:
        self.brokers[record.broker_id] = record
        self.alive[record.broker_id] = True
        if self.leaving.get(record.broker_id) != record.incarnation:
            self.leaving.pop(record.broker_id, None)
        for key in [k for k in self.replica_actors if k[0] == record.broker_id and k[1] >= record.pool_size]:
            del self.replica_actors[key]
            self.lost.discard(key)

    def _replay_actor_state(self, record: ReplicaActorStateRecord) -> None:
        key = record.broker_id, record.slot
        actor = self.replica_actors.get(key)
        if actor is None or actor.incarnation != record.incarnation:
            raise CorruptRecord(f"the metadata log speaks of a process of replica actor {key} that is over")
        if record.there:
            self.lost.discard(key)
        else:
            self.lost.add(key)

    def _replay_partition(self, record: PartitionRecord) -> None:
        topic = self._known(record.topic_id)
        if record.partition < len(topic.partitions):
            _recount(topic, topic.partitions[record.partition], record)
            topic.partitions[record.partition] = record
        elif record.partition == len(topic.partitions):
            _recount(topic, None, record)
            topic.partitions.append(record)
            self.partition_count += 1
        else:
            raise CorruptRecord(
                f"the metadata log has partition {record.partition} of topic {topic.name!r} "
                f"after {len(topic.partitions)} partitions"
            )
        if record.target:
            self.reassigning.add((record.topic_id, record.partition))
        else:
            self.reassigning.discard((record.topic_id, record.partition))

    def _known(self, topic_id: bytes) -> Topic:
        topic = self.topics_by_id.get(topic_id)
        if topic is None:
            raise CorruptRecord(f"the metadata log speaks of topic id {topic_id.hex()} before it creates it")
        return topic

    # --- look-ups ------------------------------------------------------------------------------------------------

    def configs(self, topic: Topic) -> dict[str, str]:
        """The topic's effective settings, all of them, as text by dotted name."""
        return effective_configs(topic.overrides, self.topic_defaults, topic.smallest_factor)

    def topic_config(self, topic: Topic) -> TopicConfig:
        """The topic's effective settings, parsed."""
        return TopicConfig.parse(self.configs(topic))

    def slot_of(self, partition: PartitionRecord, broker_id: int) -> int | None:
        """The slot of the replica actor that hosts the partition on a broker; None when it has no replica there."""
        if broker_id not in partition.replicas:
            return None
        broker = self.brokers.get(broker_id)
        slot = partition.slots[partition.replicas.index(broker_id)]
        return slot % broker.pool_size if broker else slot

    def leader_actor(self, partition: PartitionRecord) -> ReplicaActorRecord | None:
        """The replica actor that leads the partition; None while there is no leader, or it has never registered."""
        slot = self.slot_of(partition, partition.leader)
        return None if slot is None else self.replica_actors.get((partition.leader, slot))

    def is_there(self, partition: PartitionRecord, broker_id: int) -> bool:
        """Whether the process that hosts the partition on a broker counts as there."""
        slot = self.slot_of(partition, broker_id)
        return slot is not None and (broker_id, slot) in self.replica_actors and (broker_id, slot) not in self.lost

    def may_lead(self, partition: PartitionRecord, broker_id: int) -> bool:
        """Whether that process is there to stay."""
        return self.is_there(partition, broker_id) and broker_id not in self.leaving

    def partitions(self) -> Iterator[tuple[Topic, PartitionRecord]]:
        """All partitions, topic by topic."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                yield topic, partition

    def partitions_on(self, broker_id: int, slot: int) -> list[tuple[Topic, PartitionRecord]]:
        """Partitions with a replica in that replica actor."""
        return [(t, p) for t, p in self.partitions() if self.slot_of(p, broker_id) == slot]

    def group_brokers(self) -> set[int]:
        """Brokers that need a group coordinator beside them: they have a replica of the topic of groups."""
        topic = self.topics.get(GROUPS_TOPIC)
        return {broker_id for partition in topic.partitions for broker_id in partition.replicas} if topic else set()

    def alive_brokers(self) -> list[BrokerRecord]:
        """Brokers that count as alive, by id."""
        return [self.brokers[i] for i in sorted(self.brokers) if self.alive.get(i)]

    # --- invariants ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Asserts every invariant."""
        assert {t.topic_id: t.name for t in self.topics.values()} == {i: t.name for i, t in self.topics_by_id.items()}
        assert self.partition_count == sum(len(t.partitions) for t in self.topics.values())
        assert all(name == topic.name for name, topic in self.topics.items())
        assert set(self.alive) <= set(self.brokers), "a state for a broker that never registered"
        for (broker_id, slot), actor in self.replica_actors.items():
            assert (actor.broker_id, actor.slot) == (broker_id, slot)
            assert 0 <= slot < self.brokers[broker_id].pool_size
        assert self.lost <= set(self.replica_actors), "a process is lost that never was"
        assert set(self.leaving) <= set(self.brokers)
        assert set(self.group_actors) <= set(self.brokers)
        assert all(broker_id == actor.broker_id for broker_id, actor in self.group_actors.items())
        for topic, partition in self.partitions():
            assert topic.partitions[partition.partition] is partition
            validate_partition(partition)
        for topic in self.topics.values():
            assert topic.factors == Counter(len(replicas_before(one)) for one in topic.partitions)
        moving = {(p.topic_id, p.partition) for _, p in self.partitions() if p.target}
        assert moving == self.reassigning


def validate_partition(partition: PartitionRecord) -> None:
    """Asserts the invariants of a partition's record."""
    replicas = set(partition.replicas)
    assert replicas, "a partition without replicas"
    assert len(replicas) == len(partition.replicas) == len(partition.slots), "replicas stand twice or lack a slot"
    assert set(partition.isr) <= replicas and set(partition.elr) <= replicas
    assert not set(partition.isr) & set(partition.elr)
    assert partition.leader == NO_LEADER or partition.leader in partition.isr
    assert partition.leader_epoch >= 0 and partition.partition_epoch >= 0
    assert partition.unclean_epoch <= partition.leader_epoch
    assert all(slot >= 0 for slot in partition.slots)
    unclean = [one.broker_id for one in partition.unclean]
    assert len(set(unclean)) == len(unclean), "a replica that started uncleanly stands twice"
    before, target = replicas_before(partition), set(partition.target)
    assert before and partition.replicas == [*before, *partition.adding], "those that are being added stand last"
    assert target <= replicas and len(target) == len(partition.target)
    assert set(partition.adding) == target - set(before), "what is being added is what the target has besides"


def _recount(topic: Topic, before: PartitionRecord | None, after: PartitionRecord) -> None:
    """Most changes of a partition leave its replicas as many as they were."""
    factors = [None if one is None else len(replicas_before(one)) for one in (before, after)]
    if factors[0] == factors[1]:
        return
    counts = Counter(topic.factors)
    for factor, difference in zip(factors, (-1, 1), strict=True):
        if factor is not None:
            counts[factor] += difference
    topic.factors = {one: count for one, count in sorted(counts.items()) if count}
