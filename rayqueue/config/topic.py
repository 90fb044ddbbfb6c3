"""Settings of a topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayqueue.config.settings import (
    INT32_MAX,
    INT64_MAX,
    Setting,
    boolean,
    integer,
    number,
    one_of,
    parse,
    resolve,
    table,
    text,
)
from rayqueue.errors import ConfigError

_limit = integer(-1)


def _policy(value: Any) -> str:
    """delete, compact, or both, in either order."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if not parts or len(set(parts)) < len(parts) or not {"delete", "compact"}.issuperset(parts):
        raise ValueError("one of delete, compact, or compact,delete")
    return ",".join(sorted(parts))


TOPIC_SETTINGS = table(
    Setting("retention.ms", 7 * 24 * 3600 * 1000, _limit, "delete segments older than this; -1: never"),
    Setting("retention.bytes", -1, _limit, "delete segments beyond so many bytes a partition; -1: no limit"),
    Setting("retention.records", -1, _limit, "delete segments beyond so many records a partition; -1: no limit"),
    Setting("cleanup.policy", "delete", _policy, "delete: retention; compact: of each key the newest; or both"),
    Setting("segment.bytes", 1 << 30, integer(1024, INT32_MAX), "roll a segment at this size"),
    Setting("segment.ms", 7 * 24 * 3600 * 1000, integer(1), "roll a segment at this age"),
    Setting("min.insync.replicas", 1, integer(1, 1000), "replicas an acks=all append needs"),
    Setting("max.message.bytes", 1024 * 1024, integer(1, 512 * 1024 * 1024), "largest record; batches are split"),
    Setting(
        "delete.retention.ms",
        24 * 3600 * 1000,
        integer(0),
        "how long tombstones (null values) stay once they have been compacted",
    ),
    Setting("min.compaction.lag.ms", 0, integer(0), "records younger than this are not compacted"),
    Setting("max.compaction.lag.ms", INT64_MAX, integer(1), "records older than this are compacted at once"),
    Setting(
        "min.cleanable.dirty.ratio",
        0.5,
        number(0, 1),
        "compact once this part of the log has not been compacted",
    ),
    Setting("flush.messages", INT64_MAX, integer(1), "fsync each so many records; 1: before the ack"),
    Setting("flush.ms", INT64_MAX, integer(0), "fsync at the latest so long after an append"),
    Setting(
        "compression.type",
        "producer",
        one_of("producer", "none", "lz4", "zstd"),
        "how batches are stored; producer: as the producer chose",
    ),
    Setting(
        "message.timestamp.type",
        "CreateTime",
        one_of("CreateTime", "LogAppendTime"),
        "the producer's time or the log's",
    ),
    Setting("unclean.leader.election.enable", False, boolean, "let a replica lead that may lack acked records"),
    Setting(
        "partitioner",
        "default",
        one_of("default", "round_robin", "hash", "sticky"),
        "default: keyed records by hash, unkeyed round robin",
    ),
    Setting("partition.by", "", text, "the column of a typed topic whose hash routes a record"),
)


@dataclass(frozen=True)
class TopicConfig:
    """A topic's effective settings; ms and bytes as in Kafka, -1 for no limit."""

    retention_ms: int
    retention_bytes: int
    retention_records: int
    cleanup_policy: str
    delete_retention_ms: int
    min_compaction_lag_ms: int
    max_compaction_lag_ms: int
    min_cleanable_dirty_ratio: float
    segment_bytes: int
    segment_ms: int
    min_insync_replicas: int
    max_message_bytes: int
    flush_messages: int
    flush_ms: int
    compression_type: str
    message_timestamp_type: str
    unclean_leader_election_enable: bool
    partitioner: str
    partition_by: str

    @property
    def compacted(self) -> bool:
        """Whether of each key the newest record stays."""
        return "compact" in self.cleanup_policy

    @property
    def deleted(self) -> bool:
        """Whether retention deletes."""
        return "delete" in self.cleanup_policy

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> TopicConfig:
        """Checks settings by dotted or underscored name.

        Raises:
            ConfigError: unknown name, malformed value, or not built yet.
        """
        values = parse(TOPIC_SETTINGS, given, "topic")
        if values["min.compaction.lag.ms"] > values["max.compaction.lag.ms"]:
            raise ConfigError(
                f"min.compaction.lag.ms {values['min.compaction.lag.ms']} is above max.compaction.lag.ms "
                f"{values['max.compaction.lag.ms']}: records cannot be left alone for longer than they may wait"
            )
        if values["partition.by"] and values["partitioner"] not in ("default", "hash"):
            raise ConfigError(
                f"partition.by routes by hash, but partitioner is {values['partitioner']!r}: leave one of the two out"
            )
        return cls(**{s.attribute: values[s.name] for s in TOPIC_SETTINGS.values() if not s.later})


def topic_setting_name(key: str) -> str:
    """The dotted name of a topic setting given in either spelling.

    Raises:
        ConfigError: there is no such setting, or it is not built yet.
    """
    return resolve(TOPIC_SETTINGS, key, "topic").name
