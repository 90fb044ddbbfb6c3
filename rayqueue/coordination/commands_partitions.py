"""Commands about partitions that exist: leaders that change their ISR, and elections that somebody asks for."""

from __future__ import annotations

import msgspec

from rayqueue.coordination.commands import Result
from rayqueue.coordination.leadership import prefer, resigned, with_isr
from rayqueue.coordination.records import PartitionRecord, Record
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.errors import (
    ClusterMismatch,
    FencedLeaderEpoch,
    NotLeaderOrFollower,
    ProtocolError,
    RayQueueError,
    UnknownTopicOrPartition,
)
from rayqueue.protocol.messages import (
    AlterPartition,
    AlterPartitionsRequest,
    AlterPartitionsResponse,
    Empty,
    PreferLeadersRequest,
    PreferLeadersResponse,
    ResignLeaderRequest,
)


def alter_partitions(state: ClusterState, request: AlterPartitionsRequest) -> Result:
    """A leader changes who is in sync (KIP-497): compare and set on the partition epoch, each partition on its own.

    Each member is named with the incarnation whose log the leader has seen to be caught up (KIP-903): one that has been
    restarted since may have lost what it had, and is refused.

    Raises:
        ClusterMismatch: the caller has a successor, or counts as gone.
    """
    _check_caller(state, request)
    records: list[Record] = []
    errors = []
    for change in request.partitions:
        try:
            record = _altered(state, request, change)
            errors.append("")
        except RayQueueError as error:
            errors.append(type(error).__name__)
        else:
            if record is not None:
                records.append(record)
    return Result(records, AlterPartitionsResponse(-1, errors))


def resign_leader(state: ClusterState, request: ResignLeaderRequest) -> Result:
    """A leader that cannot go on: see `leadership.resigned`.

    Raises:
        ClusterMismatch, UnknownTopicOrPartition: the caller leads it no more.
    """
    _check_caller(state, request)
    topic, partition = _partition(state, request.topic_id, request.partition)
    if (partition.leader, partition.leader_epoch) != (request.broker_id, request.leader_epoch):
        return Result([], Empty())
    record = resigned(state, topic, partition)
    return Result([] if record is None else [record], Empty())


def _check_caller(state: ClusterState, request: AlterPartitionsRequest | ResignLeaderRequest) -> None:
    key = request.broker_id, request.slot
    actor = state.replica_actors.get(key)
    if actor is None or actor.incarnation != request.incarnation or key in state.lost:
        raise ClusterMismatch(f"process {request.incarnation} of replica actor {key} leads nothing any more")


def _altered(state: ClusterState, request: AlterPartitionsRequest, change: AlterPartition) -> PartitionRecord | None:
    topic, partition = _partition(state, change.topic_id, change.partition)
    if partition.leader != request.broker_id or state.slot_of(partition, partition.leader) != request.slot:
        raise NotLeaderOrFollower("another replica leads now")
    isr = sorted(broker_id for broker_id, _ in change.isr)
    late = change.partition_epoch < partition.partition_epoch
    if late and change.leader_epoch == partition.leader_epoch and isr == sorted(partition.isr):
        return None  # asked again, because the first answer was lost
    if change.leader_epoch != partition.leader_epoch or change.partition_epoch != partition.partition_epoch:
        raise FencedLeaderEpoch(
            f"epochs {change.leader_epoch}, {change.partition_epoch} are over: "
            f"{partition.leader_epoch}, {partition.partition_epoch} are the partition's"
        )
    if partition.leader not in isr or len(set(isr)) < len(isr) or not set(isr) <= set(partition.replicas):
        raise ProtocolError(f"an ISR {isr} of leader {partition.leader} with replicas {partition.replicas}")
    for broker_id, incarnation in change.isr:
        _check_member(state, partition, broker_id, incarnation)
    # Somebody leads for sure: who started uncleanly has to follow, and is compared with nobody any more.
    return msgspec.structs.replace(with_isr(state, topic, partition, isr), unclean=[])


def _check_member(state: ClusterState, partition: PartitionRecord, broker_id: int, incarnation: str) -> None:
    """One that was in sync already may be away: the coordinator is about to take it out itself."""
    slot = state.slot_of(partition, broker_id)
    assert slot is not None
    actor = state.replica_actors.get((broker_id, slot))
    joins = broker_id not in partition.isr
    if actor is None or actor.incarnation != incarnation or (joins and (broker_id, slot) in state.lost):
        raise ClusterMismatch(f"process {incarnation} of broker {broker_id} is over, or gone")


def prefer_leaders(state: ClusterState, request: PreferLeadersRequest) -> Result:
    """Gives partitions back to the leaders that placement wanted, where those are in sync; None: all partitions."""
    records: list[Record] = []
    wanted = [(t.topic_id, p.partition) for t, p in state.partitions()] if request.keys is None else request.keys
    errors = []
    for topic_id, number in wanted:
        try:
            topic, partition = _partition(state, topic_id, number)
        except RayQueueError as error:
            errors.append(type(error).__name__)
            continue
        record = prefer(state, topic, partition)
        if record is not None:
            records.append(record)
        held = record is not None or partition.leader == partition.replicas[0]
        errors.append("" if held else "NotEnoughReplicas")
    return Result(records, PreferLeadersResponse(-1, len(records), errors))


def _partition(state: ClusterState, topic_id: bytes, number: int) -> tuple[Topic, PartitionRecord]:
    topic = state.topics_by_id.get(topic_id)
    if topic is None or not 0 <= number < len(topic.partitions):
        raise UnknownTopicOrPartition(f"there is no partition {number} of topic id {topic_id.hex()}")
    return topic, topic.partitions[number]
