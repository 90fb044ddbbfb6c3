"""Topics: creation, deletion, added partitions, settings, and every bad input."""

from __future__ import annotations

import pytest

from rayqueue.config import BrokerConfig
from rayqueue.coordination.cluster_rules import check_cluster_config
from rayqueue.coordination.records import PartitionRecord
from rayqueue.errors import ConfigError
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    CreatePartitionsRequest,
    DeleteTopicsRequest,
    MetadataRequest,
    NamedError,
    TopicSpec,
)
from tests.unit.coordination.harness import Harness, create, spec


@pytest.fixture
def cluster() -> Harness:
    harness = Harness()
    for broker_id in range(3):
        harness.broker(broker_id)
    return harness


def failure(cluster: Harness, topic: TopicSpec) -> NamedError:
    end = len(cluster.log)
    (result,) = cluster.call(create(topic)).results
    assert len(cluster.log) == end, "a refused topic left records"
    assert result.error
    return result


def test_a_created_topic_is_described_with_its_leaders_and_settings(cluster: Harness) -> None:
    response = cluster.create("clicks", 3, **{"retention.ms": "1000"})
    assert response.results == [NamedError("clicks")]
    metadata = cluster.call(MetadataRequest(["clicks", "absent"]))
    (topic,) = metadata.topics
    assert metadata.index == response.index == len(cluster.log)
    assert [p.leader for p in topic.partitions] == [0, 1, 2]
    assert [p.port for p in topic.partitions] == [9200, 9301, 9400]
    assert all(len(p.isr) == 3 for p in topic.partitions) and topic.configs["min.insync.replicas"] == "2"
    assert topic.configs["retention.ms"] == "1000"
    assert topic.configs["segment.bytes"] == str(1 << 30)
    assert not topic.typed and topic.schema == b"key,value"


def test_topics_of_one_request_succeed_and_fail_each_on_its_own(cluster: Harness) -> None:
    response = cluster.change(create(spec("a"), spec("bad name"), spec("a"), spec("b", 2)))
    assert [r.error for r in response.results] == ["", "InvalidTopic", "TopicAlreadyExists", ""]
    assert set(cluster.state.topics) == {"a", "b"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "../x", "ä", "a\n", "a\x00", "x" * 250, "__consumer_offsets"]
)
def test_a_bad_name_is_refused(cluster: Harness, name: str) -> None:
    assert failure(cluster, spec(name)).error == "InvalidTopic"


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "...", "x" * 249])
def test_a_good_name_is_taken(cluster: Harness, name: str) -> None:
    assert cluster.create(name).results[0].error == ""


@pytest.mark.parametrize("partitions", [0, -2, 100_001])
def test_a_bad_number_of_partitions_is_refused(cluster: Harness, partitions: int) -> None:
    assert failure(cluster, spec("a", partitions)).error == "InvalidPartitions"


def test_the_limit_counts_the_partitions_of_the_whole_cluster() -> None:
    cluster = Harness({"max.partitions": 5})
    cluster.broker(0)
    assert cluster.create("a", 3).results[0].error == ""
    assert failure(cluster, spec("b", 3)).error == "InvalidPartitions"
    both = cluster.change(create(spec("c", 2), spec("d", 1)))
    assert [r.error for r in both.results] == ["", "InvalidPartitions"]
    assert cluster.change(DeleteTopicsRequest(["a"])).results[0].error == ""
    assert cluster.create("e", 3).results[0].error == ""


def test_a_replication_factor_above_the_brokers_or_below_one_is_refused(cluster: Harness) -> None:
    above = failure(cluster, spec("a", replication_factor=4))
    assert above.error == "InvalidReplicationFactor" and "3 are alive" in above.message
    assert failure(cluster, spec("a", replication_factor=0)).error == "InvalidReplicationFactor"


def test_without_brokers_nothing_can_be_created() -> None:
    nobody = failure(Harness(), spec("a"))
    assert nobody.error == "InvalidReplicationFactor" and "0 are alive" in nobody.message


@pytest.mark.parametrize(
    ("brokers", "config", "factor"),
    [(1, {}, 1), (2, {}, 2), (3, {}, 3), (5, {}, 3), (3, {"default.replication.factor": 1}, 1)],
)
def test_the_default_replication_factor(brokers: int, config: dict[str, int], factor: int) -> None:
    cluster = Harness(config)
    for broker_id in range(brokers):
        cluster.broker(broker_id)
    cluster.create("a")
    assert cluster.state.topics["a"].replication_factor == factor
    assert cluster.state.configs(cluster.state.topics["a"])["min.insync.replicas"] == str(max(1, factor - 1))


def test_a_default_counts_brokers_that_are_away(cluster: Harness) -> None:
    """Else a topic made in that moment would have fewer replicas for ever, and nobody would have asked for it."""
    cluster.stop("b2.0")
    cluster.advance(60_000)
    assert len(cluster.state.alive_brokers()) == 2
    refused = failure(cluster, spec("a"))
    assert refused.error == "InvalidReplicationFactor" and "2 are alive" in refused.message
    assert cluster.change(create(spec("a", replication_factor=2))).results == [NamedError("a")]


@pytest.mark.parametrize(
    ("configs", "hint"),
    [
        ({"retention.msec": "1"}, "retention.ms"),
        ({"retention.ms": "soon"}, "whole number"),
        ({"retention.ms": "-2"}, "whole number"),
        ({"cleanup.policy": "compacted"}, "compact,delete"),
        ({"partitioner": "modulo"}, "round_robin"),
        ({"segment.bytes": "1023"}, "1024"),
        ({"delete.retention.ms": "-1"}, "whole number"),
        ({"retention.ms": "1", "retention_ms": "2"}, "twice"),
        ({"max.message.bytes": str(200 << 20)}, "socket.request.max.bytes"),
        ({"partition.by": "user"}, "typed topic"),
        ({"min.insync.replicas": "4"}, "min.insync.replicas 4 is above the replication factor of topic 'a', 3"),
    ],
)
def test_a_bad_setting_is_refused_with_what_to_do(cluster: Harness, configs: dict[str, str], hint: str) -> None:
    result = failure(cluster, spec("a", configs=configs))
    assert result.error == "ConfigError" and hint in result.message


def test_routing_columns_must_be_there_and_hashable(cluster: Harness) -> None:
    assert failure(cluster, spec("a", schema=b"bad")).error == "SchemaMismatch"
    assert failure(cluster, spec("a", key_column="user")).error == "SchemaMismatch"
    missing = failure(cluster, spec("a", schema=b"user,speed!", key_column="usr"))
    assert missing.error == "SchemaMismatch" and "user, speed" in missing.message
    assert "hashed" in failure(cluster, spec("a", schema=b"user,speed!", key_column="speed")).message
    by = {"partition.by": "speed"}
    assert failure(cluster, spec("a", schema=b"user,speed!", configs=by)).error == "ConfigError"
    good = spec("a", schema=b"user,speed!", key_column="user", configs={"partition.by": "user"})
    assert cluster.change(create(good)).results == [NamedError("a")]
    assert cluster.state.topics["a"].typed and cluster.state.topics["a"].key_column == "user"


def test_defaults_come_from_the_cluster_and_a_topic_overrides_them() -> None:
    cluster = Harness({"retention.ms": 5, "partitioner": "sticky", "num.partitions": 4})
    cluster.broker(0)
    cluster.change(create(spec("a", -1), spec("b", 1, configs={"retention_ms": "7"})))
    topics = {t.name: t for t in cluster.call(MetadataRequest(None)).topics}
    assert len(topics["a"].partitions) == 4
    assert topics["a"].configs["retention.ms"] == "5" and topics["b"].configs["retention.ms"] == "7"
    # a topic's own partition.by wins over a partitioner that is only the default
    cluster.change(create(spec("c", schema=b"user", configs={"partition.by": "user"})))
    config = cluster.state.topic_config(cluster.state.topics["c"])
    assert (config.partition_by, config.partitioner) == ("user", "default")


def test_settings_are_altered_all_or_none(cluster: Harness) -> None:
    cluster.create("a", 1, **{"retention.ms": "1000", "segment.bytes": "2048"})
    end = len(cluster.log)
    (bad,) = cluster.call(AlterConfigRequest("a", {"retention.ms": "5", "segment.bytes": "1"})).results
    assert bad.error == "ConfigError" and len(cluster.log) == end
    done = cluster.change(AlterConfigRequest("a", {"retention_ms": "5", "segment.bytes": None, "flush.ms": "10"}))
    assert done.results == [NamedError("a")]
    assert cluster.state.topics["a"].overrides == {"retention.ms": "5", "flush.ms": "10"}
    end = len(cluster.log)
    assert cluster.call(AlterConfigRequest("a", {"flush.ms": "10"})).results == [NamedError("a")]
    assert len(cluster.log) == end, "setting what is set already needs no record"
    assert cluster.call(AlterConfigRequest("b", {})).results[0].error == "UnknownTopicOrPartition"
    assert cluster.call(AlterConfigRequest("a", {"retention": "1"})).results[0].error == "ConfigError"
    assert cluster.call(AlterConfigRequest("a", {"partition.by": "key"})).results[0].error == "ConfigError"


def test_more_replicas_in_sync_than_there_are_cannot_be_asked_for(cluster: Harness) -> None:
    cluster.create("a", 1, **{"min.insync.replicas": "1"})
    (bad,) = cluster.call(AlterConfigRequest("a", {"min_insync_replicas": "4"})).results
    assert bad.error == "ConfigError" and "4 is above the replication factor of topic 'a', 3" in bad.message
    assert cluster.state.topics["a"].overrides == {"min.insync.replicas": "1"}


def test_a_default_that_a_topic_cannot_meet_is_refused_when_it_is_created_or_comes_back() -> None:
    cluster = Harness({"min.insync.replicas": 2})
    cluster.broker(0)
    assert "min.insync.replicas 2 is above" in failure(cluster, spec("a")).message
    assert cluster.create("a", 1, **{"min.insync.replicas": "1"}).results[0].error == ""
    (bad,) = cluster.call(AlterConfigRequest("a", {"min.insync.replicas": None})).results
    assert bad.error == "ConfigError" and "min.insync.replicas 2 is above" in bad.message
    assert cluster.change(AlterConfigRequest("a", {"retention.ms": "5"})).results[0].error == ""


def test_a_deleted_topic_is_gone_and_its_successor_is_another_topic(cluster: Harness) -> None:
    cluster.create("a", 2)
    first = cluster.state.topics["a"].topic_id
    answers = cluster.change(DeleteTopicsRequest(["a", "nope", "a"])).results
    assert [r.error for r in answers] == ["", "UnknownTopicOrPartition", "UnknownTopicOrPartition"]
    assert cluster.call(MetadataRequest(None)).topics == []
    cluster.create("a", 1)
    assert cluster.state.topics["a"].topic_id != first
    assert cluster.state.topics["a"].overrides == {}


def test_partitions_are_added_and_never_taken_away(cluster: Harness) -> None:
    cluster.create("a", 2)
    before = list(cluster.state.topics["a"].partitions)
    assert cluster.change(CreatePartitionsRequest("a", 5)).results == [NamedError("a")]
    assert cluster.state.topics["a"].partitions[:2] == before
    assert [p.partition for p in cluster.state.topics["a"].partitions] == [0, 1, 2, 3, 4]
    for total, error in ((5, "InvalidPartitions"), (0, "InvalidPartitions"), (200_000, "InvalidPartitions")):
        assert cluster.call(CreatePartitionsRequest("a", total)).results[0].error == error
    assert cluster.call(CreatePartitionsRequest("b", 2)).results[0].error == "UnknownTopicOrPartition"


def test_every_partition_begins_in_sync_with_a_leader(cluster: Harness) -> None:
    cluster.create("a", 6)
    for record in cluster.state.topics["a"].partitions:
        assert isinstance(record, PartitionRecord)
        assert record.isr == record.replicas and record.replicas[0] == record.leader
        assert (record.leader_epoch, record.partition_epoch, record.elr) == (0, 0, [])


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"partition.by": "user"}, "at the topic"),
        ({"min.insync.replicas": 4}, "min.insync.replicas 4 is above the replication factor of the cluster"),
        ({"min.insync.replicas": 2, "default.replication.factor": 1}, "above the replication factor of the cluster"),
        ({"port": 65_000}, "60000"),
        ({"socket.request.max.bytes": 1024, "max.message.bytes": 2048}, "socket.request.max.bytes"),
    ],
)
def test_settings_of_a_cluster_are_checked_against_each_other(config: dict[str, object], hint: str) -> None:
    check_cluster_config(BrokerConfig.parse({"retention.ms": 5, "port": 9500}))
    with pytest.raises(ConfigError, match=hint):
        check_cluster_config(BrokerConfig.parse(config))
