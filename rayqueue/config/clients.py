"""Settings of producers, consumers and admin clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rayqueue.config.settings import (
    INT32_MAX,
    INT64_MAX,
    Setting,
    Table,
    anything,
    boolean,
    integer,
    number,
    one_of,
    optional,
    parse,
    table,
    text,
)
from rayqueue.errors import ConfigError

GROUP_ID_CHARS_MAX = 249  # as of a topic's name


def _addresses(value: Any) -> str:
    """The list as text; that its entries are host:port is checked by who knows how to read them."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, str) for entry in value):
        return ",".join(value)
    if not isinstance(value, str):
        raise ValueError('"host:port,...", a list of "host:port", or "auto"')
    return value


_COMMON = (
    Setting(
        "bootstrap.servers",
        "auto",
        _addresses,
        "host:port,... or a list of these; auto: the cluster's, found through Ray",
    ),
    Setting("cluster", "default", text, "name of the cluster that auto looks for"),
    Setting("token", None, optional(text), "the cluster's token; None: RAYQUEUE_TOKEN, or Ray's"),
    Setting("client.id", "rayqueue", text, "a name for the brokers' logs"),
    Setting("request.timeout.ms", 10_000, integer(1, INT32_MAX), "how long one request may take"),
    Setting("retry.backoff.ms", 20, integer(1, INT32_MAX), "first wait before a request is tried again"),
    Setting("retry.backoff.max.ms", 500, integer(1, INT32_MAX), "longest wait between tries"),
    Setting("metadata.max.age.ms", 300_000, integer(1, INT32_MAX), "metadata is asked again after"),
    Setting("socket.connection.setup.timeout.ms", 5_000, integer(1, INT32_MAX), "how long connecting may take"),
)


_DURATION = re.compile(r"P(?!$)(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)
BY_DURATION = "by_duration"


def _offset_reset(value: Any) -> str:
    """The policy; a duration as "by_duration:<ms>"."""
    if isinstance(value, timedelta):
        ms = value // timedelta(milliseconds=1)
    else:
        name, _, text = str(value).partition(":")
        if value in ("earliest", "latest", "none"):
            return str(value)
        found = _DURATION.fullmatch(text.upper())
        if name != BY_DURATION or not (found or text.isdigit()):
            raise ValueError("earliest, latest, none, by_duration:P1DT2H30M, or a timedelta")
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
        ms = round(1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days)))) if found else int(text)
    if not 0 <= ms <= INT64_MAX:
        raise ValueError("a duration of 0 ms or more")
    return f"{BY_DURATION}:{ms}"


def _group_id(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= GROUP_ID_CHARS_MAX:
        raise ValueError(f"text of 1 to {GROUP_ID_CHARS_MAX} characters")
    return value


def _acks(value: Any) -> int:
    acks = {"all": -1, "-1": -1, "0": 0, "1": 1}.get(str(value))
    if acks is None or isinstance(value, bool):
        raise ValueError("0, 1 or all")
    return acks


def _partitioner(value: Any) -> Any:
    if callable(value):
        return value
    return one_of("default", "round_robin", "hash", "sticky")(value)


PRODUCER_SETTINGS = table(
    *_COMMON,
    Setting("acks", -1, _acks, "0: none, 1: the leader's, all: every in-sync replica's"),
    Setting(
        "enable.idempotence",
        None,
        optional(boolean),
        "no duplicates, no reordering; None: with acks=all, unless retries or max.in.flight forbid it (then a warning)",
    ),
    Setting("linger.ms", 0.0, number(0, 3_600_000), "wait so long for a batch to fill"),
    Setting("batch.size", 256 * 1024, integer(1, 64 << 20), "bytes of a partition's batch"),
    Setting("max.request.size", 1 << 20, integer(1024, 64 << 20), "bytes of one request to a replica actor"),
    Setting("buffer.memory", 64 << 20, integer(1024), "bytes of records waiting; then produce blocks"),
    Setting(
        "max.block.ms", 60_000, integer(0, INT32_MAX), "how long produce waits for room in the buffer, and for metadata"
    ),
    Setting(
        "delivery.timeout.ms",
        120_000,
        integer(1, INT32_MAX),
        "how long a record may be on its way; not below linger.ms",
    ),
    Setting("retries", INT32_MAX, integer(0, INT32_MAX), "how often a batch is sent again"),
    Setting("max.in.flight", 5, integer(1, 64), "unanswered requests a replica actor; at most 5 when idempotent"),
    Setting("compression.type", "none", one_of("none", "lz4", "zstd"), "of batches, where the topic leaves it to us"),
    Setting(
        "partitioner", None, optional(_partitioner), "instead of the topic's: a name, or f(key, partitions) -> int"
    ),
    Setting("value.serializer", None, anything, "f(value) -> bytes, 'json' or 'utf-8'"),
    Setting("key.serializer", None, anything, "f(key) -> bytes, 'json' or 'utf-8'"),
    Setting("transactional.id", None, anything, "", later="transactions are not built yet"),
)

CONSUMER_SETTINGS = table(
    *_COMMON,
    Setting(
        "auto.offset.reset",
        "latest",
        _offset_reset,
        "where to start without an offset: earliest, latest, none (an error), or by_duration:P1DT2H (KIP-1106; also a "
        "timedelta): at the first record that is no older",
    ),
    Setting("max.poll.records", 500, integer(1), "records that iteration takes at a time"),
    Setting("fetch.min.bytes", 1, integer(1, 1 << 30), "wait for so many bytes"),
    Setting("fetch.max.wait.ms", 500, integer(0, INT32_MAX), "but no longer than"),
    Setting("fetch.max.bytes", 32 << 20, integer(1024), "bytes prefetched from one replica actor"),
    Setting("max.partition.fetch.bytes", 8 << 20, integer(1024), "bytes prefetched of one partition"),
    Setting("check.crcs", True, boolean, "check each batch's CRC32C"),
    Setting("mapped.reads", True, boolean, "map segments that lie on this host"),
    Setting("value.deserializer", None, anything, "f(bytes) -> value, 'json' or 'utf-8'"),
    Setting("key.deserializer", None, anything, "f(bytes) -> key, 'json' or 'utf-8'"),
    Setting("group.id", None, optional(_group_id), "the group that shares the partitions; none: it stands alone"),
    Setting(
        "group.instance.id",
        None,
        optional(_group_id),
        "a name of its own in the group: a member that returns under it within its session finds its partitions kept",
    ),
    Setting(
        "enable.auto.commit",
        True,
        boolean,
        "commit what was handed out before the last poll, each auto.commit.interval.ms, and on revoke and close",
    ),
    Setting("auto.commit.interval.ms", 5_000, integer(1, INT32_MAX), "how often"),
    Setting(
        "session.timeout.ms",
        45_000,
        integer(100, INT32_MAX),
        "a member not heard of for so long is out of its group; one that is cut off reads on for so long, though "
        "others may have its partitions after group.disconnect.grace.ms; not below 3 heartbeat.interval.ms",
    ),
    Setting("heartbeat.interval.ms", 3_000, integer(10, INT32_MAX), "the member's thread says that it lives"),
    Setting("max.poll.interval.ms", 300_000, integer(1, INT32_MAX), "time between polls that is worth a warning"),
    Setting(
        "max.poll.interval.action",
        "warn",
        one_of("warn", "leave"),
        "what follows: warn (it stays a member, and is warned of with its lag), or leave the group until the next poll",
    ),
    Setting(
        "partition.assignment",
        "uniform",
        one_of("uniform", "range"),
        "how the group shares partitions: uniform (balanced, and moved as little as can be), or range (by topic)",
    ),
    Setting("isolation.level", "read_uncommitted", text, "", later="transactions are not built yet"),
)

_OF_GROUPS = (
    "group.instance.id",
    "enable.auto.commit",
    "auto.commit.interval.ms",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "max.poll.interval.action",
    "partition.assignment",
)

ADMIN_SETTINGS = table(*_COMMON)


@dataclass(frozen=True)
class CommonConfig:
    """What every client has; times in ms."""

    bootstrap_servers: str
    cluster: str
    token: str | None
    client_id: str
    request_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    metadata_max_age_ms: int
    socket_connection_setup_timeout_ms: int


@dataclass(frozen=True)
class AdminConfig(CommonConfig):
    """Checked settings of an AdminClient."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> AdminConfig:
        return cls(**_attributes(ADMIN_SETTINGS, given, "admin"))


@dataclass(frozen=True)
class ProducerConfig(CommonConfig):
    """Checked settings of a Producer.

    Attributes:
        acks: 0, 1, or -1 for all.
        idempotence_lost: the setting that keeps a producer with acks=all from being idempotent, where nobody asked for
            that; empty: none does.
    """

    acks: int
    enable_idempotence: bool
    linger_ms: float
    batch_size: int
    max_request_size: int
    buffer_memory: int
    max_block_ms: int
    delivery_timeout_ms: int
    retries: int
    max_in_flight: int
    compression_type: str
    partitioner: str | Callable[[bytes | None, int], int] | None
    value_serializer: Any
    key_serializer: Any
    idempotence_lost: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ProducerConfig:
        """Checks the settings, alone and against each other.

        Raises:
            ConfigError: idempotence was asked for and acks, retries or max.in.flight forbid it; or a record would be
                given up before it has lingered.
        """
        values = _attributes(PRODUCER_SETTINGS, given, "producer")
        linger, delivery = values["linger_ms"], values["delivery_timeout_ms"]
        if delivery < linger:
            raise ConfigError(
                f"delivery.timeout.ms={delivery} is below linger.ms={linger:g}: a record would be given up before it "
                f"is sent. Make it at least linger.ms + request.timeout.ms={linger + values['request_timeout_ms']:g}"
            )
        asked = values["enable_idempotence"]
        lost = _against_idempotence(values) if asked is None and values["acks"] == -1 else ""
        if asked is None:
            values["enable_idempotence"] = values["acks"] == -1 and not lost
        elif asked:
            _check_idempotence(values)
        return cls(**values, idempotence_lost=lost)


def _against_idempotence(values: Mapping[str, Any]) -> str:
    if values["retries"] == 0:
        return "retries=0"
    return f"max.in.flight={values['max_in_flight']} (above 5)" if values["max_in_flight"] > 5 else ""


def _check_idempotence(values: Mapping[str, Any]) -> None:
    if values["acks"] != -1:
        raise ConfigError("enable.idempotence needs acks=all: leave acks out, or set enable.idempotence=False")
    if values["retries"] == 0:
        raise ConfigError(
            "enable.idempotence needs retries above 0: leave retries out, or set enable.idempotence=False"
        )
    if values["max_in_flight"] > 5:
        raise ConfigError("enable.idempotence needs max.in.flight of at most 5, as many as the log remembers")


@dataclass(frozen=True)
class ConsumerConfig(CommonConfig):
    """Checked settings of a Consumer."""

    auto_offset_reset: str
    max_poll_records: int
    fetch_min_bytes: int
    fetch_max_wait_ms: int
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    check_crcs: bool
    mapped_reads: bool
    value_deserializer: Any
    key_deserializer: Any
    group_id: str | None
    group_instance_id: str | None
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    session_timeout_ms: int
    heartbeat_interval_ms: int
    max_poll_interval_ms: int
    max_poll_interval_action: str
    partition_assignment: str

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ConsumerConfig:
        """Checks the settings, alone and against each other.

        Raises:
            ConfigError: a setting of groups without a group, or heartbeats too rare for the session.
        """
        values = _attributes(CONSUMER_SETTINGS, given, "consumer")
        named = {key.replace("_", ".") for key in given}
        if not values["group_id"]:
            _check_alone(named, values)
        session, heartbeat = values["session_timeout_ms"], values["heartbeat_interval_ms"]
        if 3 * heartbeat > session:
            if "heartbeat.interval.ms" in named:
                raise ConfigError(
                    f"heartbeat.interval.ms={heartbeat} is too rare for session.timeout.ms={session}: a third of that "
                    f"({session // 3}) at most, so that a heartbeat or two may be lost"
                )
            values["heartbeat_interval_ms"] = max(10, session // 3)
        return cls(**values)


def _check_alone(named: set[str], values: Mapping[str, Any]) -> None:
    """A setting that would be without effect is refused; to commit nothing is what a consumer without a group does."""
    for name in _OF_GROUPS:
        if name in named and not (name == "enable.auto.commit" and not values["enable_auto_commit"]):
            raise ConfigError(f"{name} is for members of a group: set group.id too, or leave {name} out")


def _attributes(settings: Table, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    values = parse(settings, given, what)
    return {s.attribute: values[s.name] for s in settings.values() if not s.later}
