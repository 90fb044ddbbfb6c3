"""Settings of a cluster's brokers: `rayqueue.start(config=...)`. A topic setting given there is the topics' default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayqueue.config.settings import Setting, boolean, integer, optional, parse, table, text, to_text
from rayqueue.config.topic import TOPIC_SETTINGS, TopicConfig
from rayqueue.errors import ConfigError

# Without `default.replication.factor`: enough to lose any one broker and still have two copies of what is acked.
DEFAULT_REPLICAS_MAX = 3

BROKER_SETTINGS = table(
    Setting("auto.create.topics.enable", False, boolean, "create a missing topic when it is first produced to"),
    Setting("num.partitions", 1, integer(1, 100_000), "partitions of a topic that is created automatically"),
    Setting(
        "default.replication.factor",
        None,
        optional(integer(1, 1000)),
        "replicas of a topic when nobody says; None: as many as there are brokers, three at most",
    ),
    Setting("log.retention.check.interval.ms", 5_000, integer(10), "how often retention looks at closed segments"),
    Setting(
        "num.replica.actors", None, optional(integer(1, 256)), "replica actors a broker runs; None: about one a core"
    ),
    Setting(
        "num.standby.replica.actors",
        1,
        integer(0, 256),
        "processes a broker runs beside them, to take over at once from one that dies",
    ),
    Setting(
        "listen.host", None, optional(text), "address to listen on; None: loopback on one machine, else the node's"
    ),
    Setting("advertised.host", None, optional(text), "the host clients are told; None: the one listened on"),
    Setting("port", 0, integer(0, 65_535), "port of the first broker, others follow; 0: chosen once, then kept"),
    Setting("token", None, optional(text), "the token clients need; None: made at start where one is needed"),
    Setting("socket.request.max.bytes", 100 * 1024 * 1024, integer(1024), "largest produce request taken"),
    Setting("max.in.flight.requests", 64, integer(1, 4096), "produce requests a stream may have unanswered"),
    Setting(
        "queued.max.bytes", 256 * 1024 * 1024, integer(1 << 20), "bytes a replica actor holds before it stops reading"
    ),
    Setting("fetch.max.bytes", 4 * 1024 * 1024, integer(1024), "bytes of one push to a consumer"),
    Setting("producer.id.expiration.ms", 24 * 3600 * 1000, integer(1), "forget an idle producer's sequence after"),
    Setting("replica.lag.time.max.ms", 10_000, integer(100), "a follower behind for so long leaves the ISR"),
    Setting("replica.fetch.backoff.ms", 100, integer(1), "wait before a follower asks a leader again"),
    Setting("auto.leader.rebalance.enable", True, boolean, "give partitions back to their preferred leaders by itself"),
    Setting(
        "leader.imbalance.check.interval.seconds", 300, integer(1), "how often the balance of leaders is looked at"
    ),
    Setting(
        "leader.imbalance.per.broker.percentage",
        10,
        integer(0, 100),
        "partitions a broker was to lead and does not, in percent, above which it gets them back",
    ),
    Setting(
        "offsets.topic.num.partitions", 16, integer(1, 1000), "shards of the consumer groups, each with one coordinator"
    ),
    Setting(
        "offsets.topic.replication.factor",
        None,
        optional(integer(1, 1000)),
        "replicas of what is known of consumer groups; None: as default.replication.factor",
    ),
    Setting(
        "offsets.retention.minutes", 7 * 24 * 60, integer(1), "forget offsets of a group that is without members for"
    ),
    Setting("offset.metadata.max.bytes", 4096, integer(0), "longest text committed with an offset"),
    Setting(
        "group.disconnect.grace.ms",
        3_000,
        integer(-1),
        "a member whose connection broke has so long to come back; one that is alive, and only cut off, reads on for "
        "its session.timeout.ms beside those who have taken over; -1: its session.timeout.ms, and "
        "nobody reads beside it",
    ),
    Setting(
        "log.cleaner.dedupe.buffer.size",
        128 << 20,
        integer(1 << 20),
        "bytes a replica actor uses for the keys of a log that it compacts",
    ),
    Setting(
        "log.cleaner.io.max.bytes.per.second",
        64 << 20,
        integer(1024),
        "bytes a second that compaction reads and writes in a replica actor",
    ),
    Setting("max.partitions", 100_000, integer(1), "partitions the cluster takes"),
)


@dataclass(frozen=True)
class BrokerConfig:
    """Checked settings of the brokers, and the defaults of topics (dotted names, as text)."""

    auto_create_topics_enable: bool = False
    num_partitions: int = 1
    default_replication_factor: int | None = None
    log_retention_check_interval_ms: int = 5_000
    num_replica_actors: int | None = None
    num_standby_replica_actors: int = 1
    listen_host: str | None = None
    advertised_host: str | None = None
    port: int = 0
    token: str | None = None
    socket_request_max_bytes: int = 100 * 1024 * 1024
    max_in_flight_requests: int = 64
    queued_max_bytes: int = 256 * 1024 * 1024
    fetch_max_bytes: int = 4 * 1024 * 1024
    producer_id_expiration_ms: int = 24 * 3600 * 1000
    replica_lag_time_max_ms: int = 10_000
    replica_fetch_backoff_ms: int = 100
    auto_leader_rebalance_enable: bool = True
    leader_imbalance_check_interval_seconds: int = 300
    leader_imbalance_per_broker_percentage: int = 10
    offsets_topic_num_partitions: int = 16
    offsets_topic_replication_factor: int | None = None
    offsets_retention_minutes: int = 7 * 24 * 60
    offset_metadata_max_bytes: int = 4096
    group_disconnect_grace_ms: int = 3_000
    log_cleaner_dedupe_buffer_size: int = 128 << 20
    log_cleaner_io_max_bytes_per_second: int = 64 << 20
    max_partitions: int = 100_000
    topic_defaults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Any = None) -> BrokerConfig:
        """Checks a dict, or a pydantic model, of broker and default topic settings.

        Raises:
            ConfigError: unknown name, malformed value, or not built yet.
        """
        mapping = _mapping(given)
        topic = {k: v for k, v in mapping.items() if k in TOPIC_SETTINGS or k.replace("_", ".") in TOPIC_SETTINGS}
        broker = {k: v for k, v in mapping.items() if k not in topic}
        TopicConfig.parse(topic)
        values = parse(BROKER_SETTINGS, broker, "broker")
        defaults = {k.replace("_", "."): to_text(v) for k, v in topic.items()}
        return cls(**{s.attribute: values[s.name] for s in BROKER_SETTINGS.values()}, topic_defaults=defaults)


def _mapping(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    dump = getattr(given, "model_dump", None)
    if dump is None:
        raise ConfigError(f"config is a dict or a pydantic model, not {type(given).__name__}")
    return dict(dump(exclude_unset=True))
