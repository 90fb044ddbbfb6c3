"""Commands about partitions that exist: leaders that change their ISR, and elections that somebody asks for."""

from __future__ import annotations

import msgspec

from rayqueue.coordination.commands import Result
from rayqueue.coordination.leadership import prefer, resigned, uncleanly, with_isr, without
from rayqueue.coordination.records import BrokerLeavingRecord, PartitionRecord, Record
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
    ControlledShutdownRequest,
    ControlledShutdownResponse,
    ElectLeadersRequest,
    ElectLeadersResponse,
    Empty,
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
    topic, partition = partition_of(state, request.topic_id, request.partition)
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
    topic, partition = partition_of(state, change.topic_id, change.partition)
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
    gone = (broker_id, slot) in state.lost or broker_id in state.leaving
    if actor is None or actor.incarnation != incarnation or (joins and gone):
        raise ClusterMismatch(f"process {incarnation} of broker {broker_id} is over, or gone")


def elect_leaders(state: ClusterState, request: ElectLeadersRequest) -> Result:
    """Gives partitions to the leaders that placement wanted, where those are in sync; or, unclean, gives those that
    have none to whoever is there. None: all partitions."""
    records: list[Record] = []
    wanted = [(t.topic_id, p.partition) for t, p in state.partitions()] if request.keys is None else request.keys
    errors = []
    for topic_id, number in wanted:
        try:
            topic, partition = partition_of(state, topic_id, number)
        except RayQueueError as error:
            errors.append(type(error).__name__)
            continue
        record = uncleanly(state, topic, partition, True) if request.unclean else prefer(state, topic, partition)
        if record is not None:
            records.append(record)
        led = state.is_there(partition, partition.leader) if request.unclean else _by_preferred(partition)
        errors.append("" if record is not None or led else "NotEnoughReplicas")
    return Result(records, ElectLeadersResponse(-1, len(records), errors))


def _by_preferred(partition: PartitionRecord) -> bool:
    return partition.leader == partition.replicas[0]


def controlled_shutdown(state: ClusterState, request: ControlledShutdownRequest) -> Result:
    """A broker is about to end: what its replica actors lead is led by others, and they leave every ISR, before that.

    Raises:
        ClusterMismatch: this process of the broker has a successor.
    """
    broker = state.brokers.get(request.broker_id)
    if broker is None or broker.incarnation != request.incarnation:
        raise ClusterMismatch(f"process {request.incarnation} of broker {request.broker_id} is over")
    records: list[Record] = []
    leaders: set[tuple[int, int]] = set()
    remaining = 0
    for topic, partition in state.partitions():
        if broker.broker_id not in partition.isr:
            continue
        record = without(state, topic, partition, broker.broker_id)
        if record is None:
            remaining += any(state.may_lead(partition, one) for one in partition.replicas if one != broker.broker_id)
            continue
        records.append(record)
        slot = state.slot_of(record, record.leader)
        if record.leader != partition.leader and slot is not None:
            leaders.add((record.leader, slot))
    if state.leaving.get(broker.broker_id) != broker.incarnation:
        records.append(BrokerLeavingRecord(broker.broker_id, broker.incarnation))
    response = ControlledShutdownResponse(-1, remaining)
    return Result(records, response, frozenset(leaders), False, request.timeout_ms)


def partition_of(state: ClusterState, topic_id: bytes, number: int) -> tuple[Topic, PartitionRecord]:
    """The topic and the partition.

    Raises:
        UnknownTopicOrPartition: there is none such.
    """
    topic = state.topics_by_id.get(topic_id)
    if topic is None or not 0 <= number < len(topic.partitions):
        raise UnknownTopicOrPartition(f"there is no partition {number} of topic id {topic_id.hex()}")
    return topic, topic.partitions[number]
