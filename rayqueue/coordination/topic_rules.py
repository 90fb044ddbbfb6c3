"""What a topic must be like: its name, partitions, settings and key column. Wire input, so everything is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rayqueue.config.names import INTERNAL_TOPICS, check_topic_name
from rayqueue.config.settings import to_text
from rayqueue.config.topic import TOPIC_SETTINGS, TopicConfig, topic_setting_name
from rayqueue.errors import ConfigError, InvalidPartitions, InvalidTopic, SchemaMismatch


class Schemas(Protocol):
    """What must be known of Arrow schemas; the shell brings it, so that nothing here needs pyarrow."""

    def log_schema(self, user_schema: bytes) -> bytes:
        """The log schema (IPC) for a user's schema (IPC), b"" for Kafka's record. Raises SchemaMismatch."""
        ...

    def columns(self, log_schema: bytes) -> dict[str, bool]:
        """The columns but `timestamp`, in order, and whether a column can be a key (it can be hashed)."""
        ...


def check_name(name: str) -> None:
    """Raises InvalidTopic unless the name can be a topic's."""
    check_topic_name(name)
    if name in INTERNAL_TOPICS:
        raise InvalidTopic(f"the topic name {name!r} is reserved: choose another name")


def check_not_internal(name: str, what: str) -> None:
    """Raises InvalidTopic for a topic of the cluster's own; what: that is not done with it."""
    if name in INTERNAL_TOPICS:
        raise InvalidTopic(f"{name!r} is rayqueue's own and cannot be {what}")


def check_partitions(partitions: int, present: int, limit: int) -> None:
    """Raises InvalidPartitions unless a topic may be given so many partitions.

    Args:
        partitions: those to add. present: those of the whole cluster. limit: `max.partitions`.
    """
    if partitions < 1:
        raise InvalidPartitions(f"a topic has at least 1 partition, not {partitions}")
    if present + partitions > limit:
        raise InvalidPartitions(
            f"{partitions} more partitions are too many: the cluster has {present} and takes {limit} (max.partitions)"
        )


def checked_overrides(given: Mapping[str, str], max_request_bytes: int) -> dict[str, str]:
    """The settings by dotted name, their values as they will be shown.

    Raises:
        ConfigError: unknown, malformed, contradicting, not built yet, or larger than a request may be.
    """
    TopicConfig.parse(given)
    checked: dict[str, str] = {}
    for key, value in given.items():
        name = topic_setting_name(key)
        if name in checked:
            raise ConfigError(f"{name!r} is given twice: leave one of the two out")
        checked[name] = to_text(TOPIC_SETTINGS[name].check(value))
    if int(checked.get("max.message.bytes", 0)) > max_request_bytes:
        raise ConfigError(
            f"max.message.bytes {checked['max.message.bytes']} is above {max_request_bytes}, the largest request that "
            "brokers take (socket.request.max.bytes): lower it, or start the brokers with a larger one"
        )
    return checked


def check_min_insync(configured: str | None, replicas: int, what: str) -> None:
    """Raises ConfigError when acks=all asks for more replicas than there are: no such append could succeed.

    Args:
        configured: `min.insync.replicas` as set, or None. what: whose replicas they are, for the message.
    """
    if configured is not None and int(configured) > replicas:
        raise ConfigError(
            f"min.insync.replicas {configured} is above the replication factor of {what}, {replicas}: an append with "
            f"acks=all could never succeed; set it to at most {replicas}"
        )


def check_compaction(policy: str | None, typed: bool, key_column: str) -> None:
    """Raises ConfigError when a topic without keys is to be compacted. policy: `cleanup.policy` as set, or None."""
    if typed and not key_column and policy is not None and "compact" in policy:
        raise ConfigError(
            f"cleanup.policy {policy} keeps the newest record of each key, and this typed topic has no key column: "
            "create it with key_column, or leave cleanup.policy at delete"
        )


def check_key_columns(columns: Mapping[str, bool], typed: bool, key_column: str, partition_by: str) -> None:
    """Checks that the columns which route records exist and can be hashed.

    Raises:
        SchemaMismatch: about the key column. ConfigError: about `partition.by`.
    """
    if not typed:
        if key_column:
            raise SchemaMismatch(f"key_column {key_column!r} needs a typed topic: give a schema, or leave it out")
        if partition_by:
            raise ConfigError(f"partition.by {partition_by!r} needs a typed topic: give a schema, or leave it out")
        return
    problem = _problem(columns, key_column)
    if problem:
        raise SchemaMismatch(f"key_column {problem}")
    problem = _problem(columns, partition_by)
    if problem:
        raise ConfigError(f"partition.by {problem}")


def _problem(columns: Mapping[str, bool], column: str) -> str:
    if not column:
        return ""
    if column not in columns:
        return f"{column!r} is no column of the topic; there are {', '.join(columns)}"
    if not columns[column]:
        return f"{column!r} cannot be hashed: use a column of strings, bytes or integers"
    return ""
