"""What a group coordinator takes from the metadata log."""

from __future__ import annotations

import pytest

from rayqueue.actors.group_places import Places, PlacesFollower
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination.records import decode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.groups.events import TopicFacts
from rayqueue.protocol.messages import CreateGroupsTopic, CreatePartitionsRequest, DeleteTopicsRequest
from tests.unit.coordination.harness import Harness


class Followed:
    """A cluster of two brokers, and what the group coordinator of broker 1 is told."""

    def __init__(self) -> None:
        self.cluster = Harness({"offsets.topic.num.partitions": 4, "offsets.topic.replication.factor": 1})
        self.cluster.broker(0, pool=1)
        self.cluster.broker(1, pool=1)
        self.follower = PlacesFollower(1)
        self.state = ClusterState(self.cluster.config.topic_defaults)
        self._read = 0

    def follow(self) -> Places:
        records = [decode_record(data) for data in self.cluster.log[self._read :]]
        self._read = len(self.cluster.log)
        self.state.replay_all(records)
        return self.follower.follow(self.state, records)


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_before_there_are_groups_there_are_no_shards(followed: Followed) -> None:
    followed.cluster.create("a")
    places = followed.follow()
    assert (places.shards, dict(places.mine)) == (0, {})


def test_its_shards_are_those_that_its_broker_leads(followed: Followed) -> None:
    followed.cluster.change(CreateGroupsTopic())
    places = followed.follow()
    led = [p for p in followed.state.topics[GROUPS_TOPIC].partitions if p.leader == 1]
    assert places.shards == 4 and sorted(places.mine) == [p.partition for p in led] and len(led) == 2
    place = places.mine[led[0].partition]
    assert (place.incarnation, place.leader_epoch, place.port) == ("a1/0.0", 0, 9300)
    followed.cluster.actor(1, 0, generation=1)  # the process that leads starts again: under new epochs
    again = followed.follow().mine
    assert again and all((one.incarnation, one.leader_epoch) == ("a1/0.1", 1) for one in again.values())


def test_topics_are_told_with_the_brokers_of_their_replicas(followed: Followed) -> None:
    followed.cluster.create("a", 2)
    followed.cluster.create("b")
    first = followed.follow().topics
    ids = {name: topic.topic_id for name, topic in followed.state.topics.items()}
    assert set(first) == {"a", "b"} and first["a"].topic_id == ids["a"]
    assert [sorted(brokers) for brokers in first["a"].replicas] == [[0, 1], [0, 1]]
    followed.cluster.change(CreatePartitionsRequest("a", 3))
    second = followed.follow().topics
    assert len(second["a"].replicas) == 3 and second["b"] is first["b"]
    followed.cluster.change(DeleteTopicsRequest(["a"]))
    third = followed.follow().topics
    assert third == {"b": TopicFacts(ids["b"], first["b"].replicas)}


def test_what_does_not_concern_topics_tells_nothing_new(followed: Followed) -> None:
    followed.cluster.create("a")
    before = followed.follow().topics
    followed.cluster.actor(0, 0, generation=1)  # another leader epoch, the same replicas
    assert followed.follow().topics is before


def test_a_log_that_starts_over_is_read_anew(followed: Followed) -> None:
    followed.cluster.create("a")
    followed.follow()
    followed.cluster.create("b")
    followed.state = ClusterState(followed.cluster.config.topic_defaults)
    followed.state.replay_all(decode_record(data) for data in followed.cluster.log)
    assert set(followed.follower.follow(followed.state, []).topics) == {"a", "b"}
