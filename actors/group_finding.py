"""Who serves a group: what every broker answers, from the metadata log that it follows."""

from __future__ import annotations

import logging

from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.client.murmur2 import murmur2
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import GroupCoordinatorNotAvailable
from rayqueue.protocol.group_messages import FindGroupCoordinator, GroupCoordinatorAddress
from rayqueue.protocol.messages import CreateGroupsTopic, TopicsResponse

log = logging.getLogger(__name__)

# For the topic of groups to be created, and for its leaders to serve.
CREATE_TIMEOUT_MS = 5_000
CALL_MARGIN_S = 1.0
# Longest wait for another leader than the one that has refused the asker.
NEWER_WAIT_S = 0.2


def shard_of(group_id: str, partitions: int) -> int:
    """Which partition of the topic of groups is a group's."""
    return (murmur2(group_id.encode()) & 0x7FFFFFFF) % partitions


def find_group_coordinator(
    request: FindGroupCoordinator, follower: MetadataFollower, coordinator: CoordinatorChannel
) -> GroupCoordinatorAddress:
    """Answers the action of that name; creates the topic of groups when it is asked for the first time.

    Raises:
        GroupCoordinatorNotAvailable: nobody serves the group at the moment.
        RayQueueError: the topic of groups cannot be created.
    """
    if not follower.read(lambda state, index, epoch: GROUPS_TOPIC in state.topics):
        _create(follower, coordinator)
    answer, index = follower.read(lambda state, index, epoch: (_look(state, request), index))
    if isinstance(answer, GroupCoordinatorAddress) and answer.leader_epoch > request.known:
        return answer
    # Another one is about to take over, or the asker was refused by one that was just about to.
    follower.wait_for(index + 1, NEWER_WAIT_S)
    answer = follower.read(lambda state, index, epoch: _look(state, request))
    if isinstance(answer, str):
        raise GroupCoordinatorNotAvailable(answer)
    return answer


def _create(follower: MetadataFollower, coordinator: CoordinatorChannel) -> None:
    request = CreateGroupsTopic(CREATE_TIMEOUT_MS)
    timeout_s = CREATE_TIMEOUT_MS / 1000 + CALL_MARGIN_S
    created = coordinator.call("create_groups_topic", request, TopicsResponse, timeout_s)
    for result in created.results:
        if result.error:
            raise GroupCoordinatorNotAvailable(f"the topic {result.name!r} cannot be created: {result.message}")
    follower.wait_for(created.index, CALL_MARGIN_S)
    log.info("the topic %r is there: this cluster has consumer groups from now on", GROUPS_TOPIC)


def _look(state: ClusterState, request: FindGroupCoordinator) -> GroupCoordinatorAddress | str:
    """Who serves, or why nobody does."""
    topic = state.topics.get(GROUPS_TOPIC)
    if topic is None:
        return f"the topic {GROUPS_TOPIC!r} is not known here yet: try again"
    shard = shard_of(request.group_id, len(topic.partitions)) if request.shard < 0 else request.shard
    if shard >= len(topic.partitions):
        return f"there are {len(topic.partitions)} shards of groups, not {shard + 1}"
    partition = topic.partitions[shard]
    if state.leader_actor(partition) is None:
        return f"partition {shard} of {GROUPS_TOPIC!r} has no leader: try again; `rayqueue status` shows what is down"
    actor = state.group_actors.get(partition.leader)
    if actor is None:
        return f"the group coordinator of broker {partition.leader} is being started: try again"
    return GroupCoordinatorAddress(
        shard, partition.leader, actor.host, actor.port, actor.incarnation, partition.leader_epoch
    )
