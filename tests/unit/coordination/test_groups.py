"""What the metadata knows of consumer groups: the topic of groups, and the processes of the group coordinators."""

from __future__ import annotations

import pytest

from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination.events import WatchEnded, WatchStarted
from rayqueue.coordination.image import GROUPS, MetadataImage
from rayqueue.coordination.records import GroupActorRecord
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    CreateGroupsTopic,
    CreatePartitionsRequest,
    DeleteTopicsRequest,
    RegisterGroupActor,
    TopicsResponse,
)
from tests.unit.coordination.harness import Harness, create, dump, spec


@pytest.fixture
def cluster() -> Harness:
    harness = Harness({"offsets.topic.num.partitions": 4, "retention.ms": 1000, "max.message.bytes": 2000})
    for broker_id in range(3):
        harness.broker(broker_id)
    return harness


def register(broker_id: int, incarnation: str) -> RegisterGroupActor:
    return RegisterGroupActor(broker_id, incarnation, "127.0.0.1", 9200 + broker_id)


def outcomes(response: TopicsResponse) -> list[str]:
    return [result.error for result in response.results]


# --- the topic of groups --------------------------------------------------------------------------------------------


def test_the_topic_of_groups_is_made_once_as_the_settings_say(cluster: Harness) -> None:
    assert outcomes(cluster.change(CreateGroupsTopic())) == [""]
    topic, end = cluster.state.topics[GROUPS_TOPIC], len(cluster.log)
    assert (len(topic.partitions), topic.replication_factor) == (4, 3)
    assert cluster.state.group_brokers() == {0, 1, 2}
    configs = cluster.state.configs(topic)
    assert (configs["retention.ms"], configs["max.message.bytes"]) == ("-1", "8388608"), "not as users' topics have it"
    assert outcomes(cluster.change(CreateGroupsTopic())) == [""] and len(cluster.log) == end


def test_more_replicas_of_it_than_brokers_are_refused() -> None:
    cluster = Harness({"offsets.topic.replication.factor": 2})
    cluster.broker(0)
    assert cluster.state.group_brokers() == set()
    assert outcomes(cluster.change(CreateGroupsTopic())) == ["InvalidReplicationFactor"]
    cluster.broker(1)
    assert outcomes(cluster.change(CreateGroupsTopic())) == [""]
    assert cluster.state.topics[GROUPS_TOPIC].replication_factor == 2


def test_users_neither_make_nor_delete_nor_split_it(cluster: Harness) -> None:
    assert outcomes(cluster.call(create(spec(GROUPS_TOPIC)))) == ["InvalidTopic"]
    cluster.change(CreateGroupsTopic())
    end = len(cluster.log)
    assert outcomes(cluster.call(DeleteTopicsRequest([GROUPS_TOPIC]))) == ["InvalidTopic"]
    assert outcomes(cluster.call(CreatePartitionsRequest(GROUPS_TOPIC, 8))) == ["InvalidTopic"]
    assert len(cluster.log) == end
    assert outcomes(cluster.change(AlterConfigRequest(GROUPS_TOPIC, {"segment.bytes": "100000"}))) == [""]


# --- the processes --------------------------------------------------------------------------------------------------


def test_a_group_coordinator_registers_and_the_next_takes_its_place(cluster: Harness) -> None:
    cluster.call(register(1, "g1.0"))
    end = len(cluster.log)
    cluster.call(register(1, "g1.0"))
    assert len(cluster.log) == end, "the same process again"
    cluster.call(register(1, "g1.1"))
    assert cluster.state.group_actors == {1: GroupActorRecord(1, "g1.1", "127.0.0.1", 9201)}
    for _ in range(2):
        with pytest.raises(ClusterMismatch):
            cluster.call(register(1, "g1.0"))
        cluster.call(register(1, "g1.1"))
        cluster.restart()  # the log alone remembers it


def test_it_needs_its_broker(cluster: Harness) -> None:
    with pytest.raises(BrokerNotAvailable):
        cluster.call(register(7, "x"))


def test_the_end_of_one_changes_no_leader(cluster: Harness) -> None:
    cluster.create("a", 6)
    cluster.call(register(1, "g1.0"))
    end = len(cluster.log)
    cluster.step(WatchStarted("g1.0"))
    assert cluster.machine.is_watching("g1.0")
    cluster.step(WatchEnded("g1.0"))
    assert not cluster.machine.is_watching("g1.0")
    cluster.broker(1)
    assert len(cluster.log) == end


def test_a_snapshot_holds_what_the_log_does(cluster: Harness) -> None:
    cluster.call(register(0, "g0.0"))
    cluster.call(register(0, "g0.1"))
    cluster.change(CreateGroupsTopic())
    image = MetadataImage.load(cluster.machine.image.dump(), cluster.config.topic_defaults)
    assert dump(image.state) == dump(cluster.state)
    assert image.is_superseded((0, GROUPS), "g0.0") and not image.is_superseded((0, -1), "g0.0")
