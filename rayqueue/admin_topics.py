"""From a `NewTopic` to what the coordinator is asked, and from metadata to descriptions. Checks what needs pyarrow;
names, numbers and limits are the coordinator's to judge."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from rayqueue.admin_descriptions import (
    BrokerDescription,
    ClusterDescription,
    ConfigEntry,
    NewTopic,
    PartitionDescription,
    TopicDescription,
)
from rayqueue.config import TOPIC_SETTINGS, TopicConfig
from rayqueue.config.settings import to_text
from rayqueue.config.topic import topic_setting_name
from rayqueue.errors import ConfigError, InvalidPartitions, InvalidReplicationFactor, InvalidTopic, SchemaMismatch
from rayqueue.protocol.messages import LogDescription, MetadataResponse, PartitionInfo, TopicInfo, TopicSpec
from rayqueue.protocol.schemas import deserialize_schema, serialize_schema, typed_log_schema


def topic_spec(topic: NewTopic) -> TopicSpec:
    """What the coordinator is asked for a new topic.

    Raises:
        InvalidTopic, InvalidPartitions, InvalidReplicationFactor: a value is of the wrong type, or below one.
        ConfigError: it is no NewTopic; or a setting is unknown, malformed, contradicts another, or names no column.
        SchemaMismatch: the schema cannot be stored, or has no such key column.
    """
    if not isinstance(topic, NewTopic):
        raise ConfigError(f"a topic to create is NewTopic(name, partitions, ...), not {topic!r}")
    if not isinstance(topic.name, str):
        raise InvalidTopic(f"a topic's name is text, not {type(topic.name).__name__}")
    partitions = _count(topic.partitions, "partitions", InvalidPartitions)
    factor = topic.replication_factor
    replicas = -1 if factor is None else _count(factor, "replication_factor", InvalidReplicationFactor)
    columns = _columns(topic.schema)
    if topic.key_column is not None:
        check_column(topic.key_column, columns, "key_column", SchemaMismatch)
    configs = config_texts(topic.config or {})
    TopicConfig.parse(configs)
    if configs.get("partition.by"):
        check_column(configs["partition.by"], columns, "partition.by", ConfigError)
    schema = b"" if columns is None else serialize_schema(columns)
    return TopicSpec(topic.name, partitions, replicas, configs, schema, topic.key_column or "")


def _count(value: object, what: str, error: type[InvalidPartitions] | type[InvalidReplicationFactor]) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise error(f"{what} must be a whole number of at least 1, not {value!r}")
    return value


def _columns(schema: Any) -> pa.Schema | None:
    """The user's columns as the log stores them (dictionaries decoded), or None for a topic of plain records."""
    if schema is None:
        return None
    if not isinstance(schema, pa.Schema):
        raise SchemaMismatch(
            f"schema is a pyarrow.Schema, not {type(schema).__name__}: pa.schema([('name', pa.string()), ...])"
        )
    return pa.schema(list(typed_log_schema(schema))[:-1])


def check_column(
    column: str, schema: pa.Schema | None, what: str, error: type[SchemaMismatch] | type[ConfigError]
) -> None:
    """Raises `error` unless `column` is one of the schema's; the message has the nearest name."""
    if schema is None:
        raise error(f"{what} {column!r} needs a typed topic: give a schema with that column, or leave {what} out")
    if column not in schema.names:
        near = difflib.get_close_matches(str(column), schema.names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"columns are {', '.join(schema.names[:20])}"
        raise error(f"{what} {column!r} is not a column of the schema; {hint}")


def config_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Settings by dotted name, as text.

    Raises:
        ConfigError: no mapping, an unknown name, a value None, or one setting in two spellings.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"config is a dict of topic settings, not {type(config).__name__}")
    texts: dict[str, str] = {}
    for key, value in config.items():
        name = topic_setting_name(str(key))
        if value is None:
            raise ConfigError(f"{name} is None: leave it out to get the default")
        if name in texts:
            raise ConfigError(f"{name} is given twice")
        texts[name] = to_text(value)
    return texts


def config_changes(config: Mapping[str, Any], topic: TopicInfo) -> dict[str, str | None]:
    """Changes of a topic's settings by dotted name; None takes an override away.

    Raises:
        ConfigError: an unknown name, a malformed value, or the settings would contradict each other.
    """
    if not isinstance(config, Mapping) or not config:
        raise ConfigError("config is a dict of topic settings, such as {'retention.ms': 60_000}; None resets one")
    removed = {topic_setting_name(str(key)) for key, value in config.items() if value is None}
    changed = config_texts({key: value for key, value in config.items() if value is not None})
    both = removed.intersection(changed)
    if both:
        raise ConfigError(f"{', '.join(sorted(both))} is both set and reset: give it once")
    kept = {name: topic.configs[name] for name in topic.overrides if name in topic.configs and name not in removed}
    TopicConfig.parse({**kept, **changed})
    if changed.get("partition.by"):
        check_column(changed["partition.by"], user_schema(topic), "partition.by", ConfigError)
    return {**changed, **dict.fromkeys(removed)}


def user_schema(topic: TopicInfo) -> pa.Schema | None:
    """The user's columns of a typed topic, without the log's `timestamp`; None for a topic of plain records."""
    if not topic.typed:
        return None
    columns = [field for field in deserialize_schema(topic.schema) if field.name != "timestamp"]
    return pa.schema(columns)


def difference(topic: TopicInfo, wanted: NewTopic) -> str:
    """How an existing topic differs from what `create_topic` was asked for; "" when it does not."""
    spec = topic_spec(wanted)
    if len(topic.partitions) != spec.partitions:
        return f"{len(topic.partitions)} partitions, not {spec.partitions}"
    replicas = len(topic.partitions[0].replicas) if topic.partitions else 0
    if spec.replication_factor not in (-1, replicas):
        return f"replication factor {replicas}, not {spec.replication_factor}"
    present, asked = user_schema(topic), deserialize_schema(spec.schema) if spec.schema else None
    if (present is None) != (asked is None) or (present is not None and not present.equals(asked)):
        return f"{_columns_text(present)}, not {_columns_text(asked)}"
    if topic.key_column != spec.key_column:
        return f"key column {topic.key_column or 'none'}, not {spec.key_column or 'none'}"
    for name, value in spec.configs.items():
        check = TOPIC_SETTINGS[name].check
        if name not in topic.configs or check(topic.configs[name]) != check(value):
            return f"{name}={topic.configs.get(name)}, not {value}"
    return ""


def _columns_text(schema: pa.Schema | None) -> str:
    return "plain records" if schema is None else "columns (" + ", ".join(f"{f.name}: {f.type}" for f in schema) + ")"


def config_entries(topic: TopicInfo) -> dict[str, ConfigEntry]:
    """Every effective setting of a topic, by dotted name, sorted."""
    entries = {}
    for name in sorted(topic.configs):
        setting = TOPIC_SETTINGS.get(name)
        value = topic.configs[name]
        if name in topic.overrides:
            source = "topic"
        elif setting is None or value == to_text(setting.default) or name == "min.insync.replicas":
            source = "default"
        else:
            source = "cluster"
        entries[name] = ConfigEntry(name, value, source == "default", source, setting.doc if setting else "")
    return entries


def describe(topic: TopicInfo, logs: Mapping[int, LogDescription], problems: Mapping[int, str]) -> TopicDescription:
    """A topic's description.

    Args:
        topic: its metadata.
        logs: what the leaders say, by partition.
        problems: why a leader says nothing, by partition.
    """
    return TopicDescription(
        name=topic.name,
        topic_id=topic.topic_id.hex(),
        partitions=[_partition(p, logs.get(p.partition), problems.get(p.partition, "")) for p in topic.partitions],
        schema=user_schema(topic),
        key_column=topic.key_column or None,
        configs=dict(sorted(topic.configs.items())),
        overrides=sorted(topic.overrides),
    )


def _partition(info: PartitionInfo, log: LogDescription | None, problem: str) -> PartitionDescription:
    endpoint = f"{info.host}:{info.port}" if info.port else ""
    known = PartitionDescription(
        info.partition,
        info.leader,
        info.leader_epoch,
        list(info.replicas),
        list(info.isr),
        endpoint,
        error=problem,
        adding=list(info.adding),
        removing=list(info.removing),
        elr=list(info.elr),
        unclean_epoch=info.unclean_epoch,
    )
    if log is None:
        return known
    return replace(
        known,
        start_offset=log.log_start,
        end_offset=log.high_watermark,
        size=log.size,
        segments=log.segments,
        path=log.path,
    )


def is_under_replicated(info: PartitionInfo) -> bool:
    """Whether a replica is not in sync, but for those that are just being added."""
    return not set(info.replicas) - set(info.adding) <= set(info.isr)


def describe_cluster(metadata: MetadataResponse) -> ClusterDescription:
    """The cluster as its metadata has it."""
    partitions = [(topic.name, info) for topic in metadata.topics for info in topic.partitions]
    brokers = [
        BrokerDescription(
            broker_id=broker.broker_id,
            host=broker.host,
            port=broker.port,
            node_id=broker.node_id,
            alive=broker.alive,
            leads=sum(info.leader == broker.broker_id for _, info in partitions),
            replicas=sum(broker.broker_id in info.replicas for _, info in partitions),
        )
        for broker in sorted(metadata.brokers, key=lambda b: b.broker_id)
    ]
    coordinator = f"{metadata.coordinator_host}:{metadata.coordinator_port}" if metadata.coordinator_port else ""
    return ClusterDescription(
        cluster_id=metadata.cluster_id,
        brokers=brokers,
        coordinator=coordinator,
        coordinator_epoch=metadata.coordinator_epoch,
        metadata_index=metadata.index,
        topics=len(metadata.topics),
        partitions=len(partitions),
        without_leader=sorted(f"{name}-{info.partition}" for name, info in partitions if info.leader < 0),
        under_replicated=sorted(f"{name}-{i.partition}" for name, i in partitions if is_under_replicated(i)),
    )
