"""What clients are told of the state."""

from __future__ import annotations

from rayqueue.coordination.reassignment import removing
from rayqueue.coordination.records import PartitionRecord
from rayqueue.coordination.state import NO_LEADER, ClusterState, Topic
from rayqueue.protocol.messages import (
    BrokerInfo,
    MetadataRequest,
    MetadataResponse,
    PartitionInfo,
    ReplicaAddress,
    TopicInfo,
)


def describe_cluster(
    state: ClusterState, request: MetadataRequest, index: int, coordinator: tuple[str, int], coordinator_epoch: int
) -> MetadataResponse:
    """The answer to a metadata request; topics that do not exist are left out.

    Args:
        index: next index of the metadata log, as far as the state has replayed it.
        coordinator: its host and port.
    """
    if request.topics is None:
        topics = [state.topics[name] for name in sorted(state.topics)]
    else:
        topics = [state.topics[name] for name in dict.fromkeys(request.topics) if name in state.topics]
    brokers = [
        BrokerInfo(b.broker_id, b.host, b.port, b.node_id, b.incarnation, bool(state.alive.get(b.broker_id)))
        for _, b in sorted(state.brokers.items())
    ]
    described = [describe_topic(state, topic) for topic in topics]
    host, port = coordinator
    return MetadataResponse(state.cluster_id, index, brokers, host, port, coordinator_epoch, described)


def describe_topic(state: ClusterState, topic: Topic) -> TopicInfo:
    """A topic with its effective settings and where its partitions are led."""
    return TopicInfo(
        topic.name,
        topic.topic_id,
        topic.schema,
        topic.typed,
        topic.key_column,
        state.configs(topic),
        [_describe_partition(state, partition) for partition in topic.partitions],
        sorted(topic.overrides),
    )


def _describe_partition(state: ClusterState, partition: PartitionRecord) -> PartitionInfo:
    actor = state.leader_actor(partition)
    return PartitionInfo(
        partition.partition,
        partition.leader if actor else NO_LEADER,
        partition.leader_epoch,
        partition.replicas,
        partition.isr,
        actor.host if actor else "",
        actor.port if actor else 0,
        actor.incarnation if actor else "",
        _in_sync_followers(state, partition),
        partition.elr,
        partition.adding,
        removing(partition),
        partition.unclean_epoch,
    )


def _in_sync_followers(state: ClusterState, partition: PartitionRecord) -> list[ReplicaAddress]:
    found = []
    for broker_id in partition.isr:
        if broker_id != partition.leader and state.is_there(partition, broker_id):
            actor = state.replica_actors[broker_id, state.slot_of(partition, broker_id) or 0]
            found.append(ReplicaAddress(broker_id, actor.host, actor.port, actor.incarnation))
    return found
