"""What a group coordinator takes from the metadata log: which shards are its own, and which topics there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rayqueue.actors.group_reading import Place
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination.records import PartitionRecord, Record, RemoveTopicRecord, TopicRecord
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.groups.events import TopicFacts


class Places(NamedTuple):
    """News of the metadata log.

    Attributes:
        shards: how many there are, 0 before there are groups.
        mine: by shard, where those are led that are the broker's.
        topics: all topics; the same object as before while they are the same.
    """

    shards: int
    mine: Mapping[int, Place]
    topics: Mapping[str, TopicFacts]


class PlacesFollower:
    """Keeps `Places` up with the metadata log; of the follower's thread.

    broker_id: whose shards are asked for.
    """

    def __init__(self, broker_id: int) -> None:
        self._broker_id = broker_id
        self._state: ClusterState | None = None
        self._topics: Mapping[str, TopicFacts] = {}

    def follow(self, state: ClusterState, records: list[Record]) -> Places:
        """Takes in what was replayed into `state`."""
        if state is not self._state:
            self._state, touched = state, None
        else:
            kinds = (TopicRecord, PartitionRecord, RemoveTopicRecord)
            touched = {record.topic_id for record in records if isinstance(record, kinds)}
        if touched is None or touched:
            self._topics = self._facts(state, touched)
        topic = state.topics.get(GROUPS_TOPIC)
        return Places(len(topic.partitions) if topic else 0, self._mine(state, topic), self._topics)

    def _facts(self, state: ClusterState, touched: set[bytes] | None) -> Mapping[str, TopicFacts]:
        if touched is None:
            return {name: _facts_of(topic) for name, topic in state.topics.items()}
        facts = {name: one for name, one in self._topics.items() if one.topic_id not in touched}
        changed = [state.topics_by_id[topic_id] for topic_id in touched if topic_id in state.topics_by_id]
        facts |= {topic.name: _facts_of(topic) for topic in changed}
        return self._topics if facts == self._topics else facts

    def _mine(self, state: ClusterState, topic: Topic | None) -> Mapping[int, Place]:
        mine = {}
        for partition in topic.partitions if topic else ():
            actor = state.leader_actor(partition)
            if actor is not None and actor.broker_id == self._broker_id:
                mine[partition.partition] = Place(
                    partition.topic_id,
                    partition.partition,
                    partition.leader_epoch,
                    actor.broker_id,
                    actor.host,
                    actor.port,
                    actor.incarnation,
                )
        return mine


def _facts_of(topic: Topic) -> TopicFacts:
    return TopicFacts(topic.topic_id, tuple(tuple(one.replicas) for one in topic.partitions))
