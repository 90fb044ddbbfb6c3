"""Settings: both spellings, nearest names, ranges, contradictions, and what is not built yet."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from rayqueue.config import (
    CONSUMER_SETTINGS,
    PRODUCER_SETTINGS,
    BrokerConfig,
    ConsumerConfig,
    ProducerConfig,
    TopicConfig,
    merge,
)
from rayqueue.config.settings import Setting
from rayqueue.errors import ConfigError


def test_both_spellings_are_the_same() -> None:
    assert ProducerConfig.parse({"linger.ms": 5}) == ProducerConfig.parse({"linger_ms": 5})
    assert TopicConfig.parse({"retention_ms": "7"}).retention_ms == 7


@pytest.mark.parametrize(
    ("parse", "key", "near"),
    [
        (ProducerConfig.parse, "linger", "linger.ms"),
        (ProducerConfig.parse, "batchsize", "batch.size"),
        (ConsumerConfig.parse, "auto_offset", "auto.offset.reset"),
        (TopicConfig.parse, "retention.time.ms", "retention.ms"),
        (BrokerConfig.parse, "num.partition", "num.partitions"),
    ],
)
def test_an_unknown_name_gets_the_nearest(parse: Any, key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near.replace(".", r"\.")):
        parse({key: 1})


@pytest.mark.parametrize(
    ("parse", "given"),
    [
        (ProducerConfig.parse, {"acks": 2}),
        (ProducerConfig.parse, {"acks": True}),
        (ProducerConfig.parse, {"linger.ms": -1}),
        (ProducerConfig.parse, {"linger.ms": "soon"}),
        (ProducerConfig.parse, {"compression.type": "snappy"}),
        (ProducerConfig.parse, {"partitioner": "random"}),
        (ProducerConfig.parse, {"enable.idempotence": "yes"}),
        (ConsumerConfig.parse, {"auto.offset.reset": "smallest"}),
        (ConsumerConfig.parse, {"max.poll.records": 0}),
        (TopicConfig.parse, {"segment.bytes": 1023}),
        (TopicConfig.parse, {"retention.ms": 1.5}),
        (TopicConfig.parse, {"retention.records": "many"}),
        (BrokerConfig.parse, {"port": 65536}),
        (BrokerConfig.parse, {"listen.host": 7}),
        (BrokerConfig.parse, 3),
    ],
)
def test_a_malformed_value_is_refused(parse: Any, given: Any) -> None:
    with pytest.raises(ConfigError):
        parse(given)


def later(table: dict[str, Setting]) -> list[str]:
    return [name for name, setting in table.items() if setting.later]


@pytest.mark.parametrize("name", later(PRODUCER_SETTINGS))
def test_producer_settings_to_come(name: str) -> None:
    with pytest.raises(ConfigError, match="not available yet"):
        ProducerConfig.parse({name: PRODUCER_SETTINGS[name].default})


@pytest.mark.parametrize("name", later(CONSUMER_SETTINGS))
def test_consumer_settings_to_come(name: str) -> None:
    with pytest.raises(ConfigError, match="not available yet"):
        ConsumerConfig.parse({name: CONSUMER_SETTINGS[name].default})


@pytest.mark.parametrize(
    ("policy", "compacted", "deleted"),
    [
        ("delete", False, True),
        ("compact", True, False),
        ("compact,delete", True, True),
        ("delete, compact", True, True),
    ],
)
def test_cleanup_policies(policy: str, compacted: bool, deleted: bool) -> None:
    config = TopicConfig.parse({"cleanup.policy": policy})
    assert (config.compacted, config.deleted) == (compacted, deleted)


@pytest.mark.parametrize("policy", ["", "compacted", "compact,compact", "compact;delete", "delete,", 1, None])
def test_what_is_no_cleanup_policy(policy: object) -> None:
    with pytest.raises(ConfigError, match="delete, compact, or compact,delete"):
        TopicConfig.parse({"cleanup.policy": policy})


def test_the_lags_of_compaction_do_not_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"min\.compaction\.lag\.ms 2 is above max\.compaction\.lag\.ms 1"):
        TopicConfig.parse({"min.compaction.lag.ms": 2, "max.compaction.lag.ms": 1})


def test_idempotence_follows_acks_unless_it_contradicts_them() -> None:
    assert ProducerConfig.parse({}).enable_idempotence
    assert not ProducerConfig.parse({"acks": 1}).enable_idempotence
    assert not ProducerConfig.parse({"max.in.flight": 6}).enable_idempotence
    for clash in ({"acks": 0}, {"acks": "1"}, {"retries": 0}, {"max.in.flight": 6}):
        with pytest.raises(ConfigError, match=r"enable\.idempotence needs"):
            ProducerConfig.parse({"enable.idempotence": True, **clash})


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("earliest", "earliest"),
        ("by_duration:PT1H", "by_duration:3600000"),
        ("by_duration:P1DT2H3M4.5S", "by_duration:93784500"),
        ("by_duration:p2d", "by_duration:172800000"),
        ("by_duration:250", "by_duration:250"),
        (timedelta(minutes=1), "by_duration:60000"),
    ],
)
def test_where_to_begin_without_an_offset(given: Any, taken: str) -> None:
    assert ConsumerConfig.parse({"auto.offset.reset": given}).auto_offset_reset == taken


@pytest.mark.parametrize("given", ["by_duration", "by_duration:", "by_duration:P", "by_duration:PT", "by_time:PT1H", 5])
def test_where_not_to_begin(given: Any) -> None:
    with pytest.raises(ConfigError, match="by_duration:P1DT2H30M"):
        ConsumerConfig.parse({"auto.offset.reset": given})
    with pytest.raises(ConfigError, match="0 ms or more"):
        ConsumerConfig.parse({"auto.offset.reset": timedelta(seconds=-1)})


def test_settings_of_groups_are_for_groups() -> None:
    grouped = {"group.id": "g", "session.timeout.ms": 6_000}
    assert ConsumerConfig.parse(grouped).heartbeat_interval_ms == 2_000, "often enough for a short session"
    assert ConsumerConfig.parse({"enable_auto_commit": False}).group_id is None, "which is what it does anyway"
    for setting in CONSUMER_SETTINGS.values():
        if setting.name in ("max.poll.interval.ms", "auto.commit.interval.ms", "partition.assignment"):
            with pytest.raises(ConfigError, match=r"group\.id"):
                ConsumerConfig.parse({setting.attribute: setting.default})


def test_partition_by_routes_by_hash() -> None:
    assert TopicConfig.parse({"partition.by": "carrier"}).partition_by == "carrier"
    with pytest.raises(ConfigError, match=r"partition\.by"):
        TopicConfig.parse({"partition.by": "carrier", "partitioner": "sticky"})


def test_a_cluster_takes_topic_defaults_and_models() -> None:
    class Settings(BaseModel):
        retention_ms: int = 5
        num_partitions: int = 3
        segment_bytes: int = 1 << 20

    config = BrokerConfig.parse(Settings(retention_ms=9, num_partitions=4))
    assert (config.num_partitions, config.topic_defaults) == (4, {"retention.ms": "9"})
    with pytest.raises(ConfigError):
        BrokerConfig.parse({"retention.ms": "long"})


def test_dict_and_keywords_merge_but_do_not_contradict() -> None:
    assert merge({"linger.ms": 5}, {"acks": 1}) == {"linger.ms": 5, "acks": 1}
    assert merge({"linger.ms": 5}, {"linger_ms": 5}) == {"linger.ms": 5}
    with pytest.raises(ConfigError, match="given twice"):
        merge({"linger.ms": 5}, {"linger_ms": 6})
    with pytest.raises(ConfigError, match="dict or keyword"):
        merge("linger.ms=5", {})  # type: ignore[arg-type]
