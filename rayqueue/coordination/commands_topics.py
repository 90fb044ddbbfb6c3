"""Commands about topics: `(state, request) -> Result`. An error of one topic is an outcome of that topic alone."""

from __future__ import annotations

import msgspec

from rayqueue.config.broker import DEFAULT_REPLICAS_MAX
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.config.topic import topic_setting_name
from rayqueue.coordination.commands import Actors, Result, Surroundings
from rayqueue.coordination.placement import Placement
from rayqueue.coordination.records import ConfigRecord, PartitionRecord, Record, RemoveTopicRecord, TopicRecord
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.coordination.topic_rules import (
    check_compaction,
    check_key_columns,
    check_min_insync,
    check_name,
    check_not_internal,
    check_partitions,
    checked_overrides,
)
from rayqueue.errors import (
    ConfigError,
    InvalidPartitions,
    RayQueueError,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    CreateGroupsTopic,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    NamedError,
    TopicSpec,
    TopicsResponse,
)

FIRST_LEADER_EPOCH = 0
# What is read of the topic of groups is all of it, however old: so it is compacted, and its segments are small, for the
# one that is written to is not. What the cluster's topics have by default is for the users' topics.
GROUPS_TOPIC_SETTINGS = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 << 20),
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "retention.records": "-1",
    "message.timestamp.type": "CreateTime",
    "unclean.leader.election.enable": "false",
}
# The largest says what a member has: some ten bytes a partition.
GROUPS_RECORD_BYTES_MAX = 8 * 1024 * 1024


def outcome(name: str, error: RayQueueError | None = None) -> NamedError:
    """How it went for one topic."""
    return NamedError(name) if error is None else NamedError(name, type(error).__name__, str(error))


def create_topics(state: ClusterState, request: CreateTopicsRequest, around: Surroundings) -> Result:
    """Creates topics, each on its own; the response waits until the leaders of all partitions serve."""
    creation = _Creation(state, around)
    results = []
    for spec in request.topics:
        try:
            creation.add(spec)
            results.append(outcome(spec.name))
        except RayQueueError as error:
            results.append(outcome(spec.name, error))
    response = TopicsResponse(-1, results)
    return Result(creation.records, response, frozenset(creation.actors), True, request.timeout_ms)


def create_groups_topic(state: ClusterState, request: CreateGroupsTopic, around: Surroundings) -> Result:
    """Creates the topic of groups, unless it is there; the response waits until the leaders of all partitions serve."""
    topic = state.topics.get(GROUPS_TOPIC)
    if topic is not None:
        response = TopicsResponse(-1, [outcome(GROUPS_TOPIC)])
        return Result([], response, leaders(state, topic), True, request.timeout_ms)
    config = around.config
    factor = config.offsets_topic_replication_factor or -1
    largest = min(GROUPS_RECORD_BYTES_MAX, config.socket_request_max_bytes)
    settings = {**GROUPS_TOPIC_SETTINGS, "max.message.bytes": str(largest)}
    spec = TopicSpec(GROUPS_TOPIC, config.offsets_topic_num_partitions, factor, settings, b"", "")
    creation = _Creation(state, around)
    try:
        creation.make(spec)
    except RayQueueError as error:
        return Result([], TopicsResponse(-1, [outcome(GROUPS_TOPIC, error)]))
    return Result(
        creation.records,
        TopicsResponse(-1, [outcome(GROUPS_TOPIC)]),
        frozenset(creation.actors),
        True,
        request.timeout_ms,
    )


class _Creation:
    """The topics of one request: later ones see the names, partitions and load of earlier ones."""

    def __init__(self, state: ClusterState, around: Surroundings) -> None:
        self._state = state
        self._around = around
        self._placement = Placement(state)
        self._names = set(state.topics)
        self._partitions = state.partition_count
        self.records: list[Record] = []
        self.actors: set[tuple[int, int]] = set()

    def add(self, spec: TopicSpec) -> None:
        check_name(spec.name)
        self.make(spec)

    def make(self, spec: TopicSpec) -> None:
        """`add`, whatever the name."""
        if spec.name in self._names:
            raise TopicAlreadyExists(f"there is a topic {spec.name!r}: delete it first, or use it (exist_ok=True)")
        config = self._around.config
        partitions = config.num_partitions if spec.partitions == -1 else spec.partitions
        check_partitions(partitions, self._partitions, config.max_partitions)
        factor = self._default_factor() if spec.replication_factor == -1 else spec.replication_factor
        self._placement.check(factor)
        overrides = checked_overrides(spec.configs, config.socket_request_max_bytes)
        name = "min.insync.replicas"
        check_min_insync(overrides.get(name, config.topic_defaults.get(name)), factor, f"topic {spec.name!r}")
        schema = self._around.schemas.log_schema(spec.schema)
        typed = bool(spec.schema)
        columns = self._around.schemas.columns(schema)
        check_key_columns(columns, typed, spec.key_column, overrides.get("partition.by", ""))
        policy = overrides.get("cleanup.policy", config.topic_defaults.get("cleanup.policy"))
        check_compaction(policy, typed, spec.key_column)

        topic_id = self._around.new_topic_id()
        self.records.append(TopicRecord(spec.name, topic_id, schema, typed, spec.key_column))
        self.records += [ConfigRecord(topic_id, name, value) for name, value in sorted(overrides.items())]
        self.records += new_partitions(self._placement, topic_id, range(partitions), factor, self.actors)
        self._names.add(spec.name)
        self._partitions += partitions

    def _default_factor(self) -> int:
        """Counts every broker that ever registered: a topic made while one is away must not live on fewer for ever."""
        given = self._around.config.default_replication_factor
        return given or max(1, min(DEFAULT_REPLICAS_MAX, len(self._state.brokers)))


def new_partitions(
    placement: Placement, topic_id: bytes, numbers: range, factor: int, actors: set[tuple[int, int]]
) -> list[PartitionRecord]:
    """Records of new partitions; the replica actors that will lead them are added to `actors`."""
    records = []
    for number in numbers:
        replicas, slots = placement.place(factor)
        actors.add((replicas[0], slots[0]))
        isr = list(replicas)
        records.append(PartitionRecord(topic_id, number, replicas, slots, isr, [], replicas[0], FIRST_LEADER_EPOCH, 0))
    return records


def create_partitions(state: ClusterState, request: CreatePartitionsRequest, around: Surroundings) -> Result:
    """Adds partitions to a topic, up to a new total."""
    try:
        topic = _topic(state, request.name)
        check_not_internal(topic.name, "given more partitions: each group has its own among those that there are")
        present = len(topic.partitions)
        if request.partitions <= present:
            raise InvalidPartitions(
                f"topic {topic.name!r} has {present} partitions, and partitions are never taken away: "
                f"ask for more than {present}, not {request.partitions}"
            )
        check_partitions(request.partitions - present, state.partition_count, around.config.max_partitions)
        actors: set[tuple[int, int]] = set()
        numbers = range(present, request.partitions)
        records = new_partitions(Placement(state), topic.topic_id, numbers, topic.replication_factor, actors)
    except RayQueueError as error:
        return Result([], TopicsResponse(-1, [outcome(request.name, error)]))
    response = TopicsResponse(-1, [outcome(request.name)])
    return Result(list(records), response, frozenset(actors), True, request.timeout_ms)


def delete_topics(state: ClusterState, request: DeleteTopicsRequest) -> Result:
    """Deletes topics; the response waits until the replica actors that are there have let go of them."""
    records: list[Record] = []
    results = []
    actors: set[tuple[int, int]] = set()
    gone: set[str] = set()
    for name in request.names:
        try:
            topic = _topic(state, name)
            check_not_internal(name, "deleted: it holds the offsets of all consumer groups")
            if name in gone:
                raise UnknownTopicOrPartition(f"topic {name!r} stands twice in the request")
        except RayQueueError as error:
            results.append(outcome(name, error))
            continue
        gone.add(name)
        actors |= hosts(state, topic)
        records.append(RemoveTopicRecord(topic.topic_id))
        results.append(outcome(name))
    return Result(records, TopicsResponse(-1, results), frozenset(actors), False, request.timeout_ms)


def alter_config(state: ClusterState, request: AlterConfigRequest, around: Surroundings) -> Result:
    """Sets and removes overrides of a topic, all or none of them."""
    try:
        topic = _topic(state, request.name)
        named = {topic_setting_name(key): value for key, value in request.configs.items()}
        if len(named) < len(request.configs):
            raise ConfigError("a setting is given twice, in two spellings: leave one of the two out")
        after = {name: value for name, value in topic.overrides.items() if name not in named}
        after |= {name: value for name, value in named.items() if value is not None}
        checked = checked_overrides(after, around.config.socket_request_max_bytes)
        if "min.insync.replicas" in named:
            after_all = {**around.config.topic_defaults, **checked}
            replicas = topic.smallest_factor
            check_min_insync(after_all.get("min.insync.replicas"), replicas, f"topic {topic.name!r}")
        columns = around.schemas.columns(topic.schema)
        check_key_columns(columns, topic.typed, topic.key_column, checked.get("partition.by", ""))
        policy = checked.get("cleanup.policy", around.config.topic_defaults.get("cleanup.policy"))
        check_compaction(policy, topic.typed, topic.key_column)
    except RayQueueError as error:
        return Result([], TopicsResponse(-1, [outcome(request.name, error)]))
    records: list[Record] = []
    for name in sorted(named):
        if checked.get(name) != topic.overrides.get(name):
            records.append(ConfigRecord(topic.topic_id, name, checked.get(name)))
    if any(isinstance(record, ConfigRecord) and record.name == "min.insync.replicas" for record in records):
        # Eligible is who left while the high watermark could not move. With another minimum it may.
        records += [
            msgspec.structs.replace(p, elr=[], partition_epoch=p.partition_epoch + 1) for p in topic.partitions if p.elr
        ]
    response = TopicsResponse(-1, [outcome(request.name)])
    return Result(records, response, hosts(state, topic), False, request.timeout_ms)


def hosts(state: ClusterState, topic: Topic) -> Actors:
    """The replica actors that host replicas of the topic."""
    found = set()
    for partition in topic.partitions:
        for broker_id in partition.replicas:
            slot = state.slot_of(partition, broker_id)
            assert slot is not None
            found.add((broker_id, slot))
    return frozenset(found)


def leaders(state: ClusterState, topic: Topic) -> Actors:
    """The replica actors that lead partitions of the topic."""
    found = (state.leader_actor(partition) for partition in topic.partitions)
    return frozenset((actor.broker_id, actor.slot) for actor in found if actor is not None)


def _topic(state: ClusterState, name: str) -> Topic:
    topic = state.topics.get(name)
    if topic is None:
        raise UnknownTopicOrPartition(f"there is no topic {name!r}; `rayqueue topic list` shows those that exist")
    return topic
