"""Commands of brokers and replica actors: registration at every process start, and blocks of producer ids."""

from __future__ import annotations

from rayqueue.coordination.commands import Result
from rayqueue.coordination.leadership import after_start
from rayqueue.coordination.records import (
    BrokerRecord,
    BrokerStateRecord,
    CoordinatorRecord,
    GroupActorRecord,
    ProducerIdsRecord,
    Record,
    ReplicaActorRecord,
)
from rayqueue.coordination.state import ClusterState
from rayqueue.coordination.unclean import after_come_back, after_unclean_start, with_log_end
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ConfigError
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    Empty,
    ProducerIdBlock,
    RegisterBroker,
    RegisterCoordinator,
    Registered,
    RegisterGroupActor,
    RegisterReplicaActor,
    ReportLogEnds,
)

PRODUCER_ID_BLOCK = 1_000
MAX_POOL_SIZE = 256


def register_coordinator(state: ClusterState, request: RegisterCoordinator) -> Result:
    """A coordinator's process has started. Another directory under an id that is known is another copy of the log: the
    one before is lost, and will be taken out of the quorum."""
    record = CoordinatorRecord(
        request.coordinator_id,
        request.directory_id,
        request.incarnation,
        request.host,
        request.port,
        request.node_id,
    )
    known = state.coordinators.get(request.coordinator_id) == record
    return Result([] if known else [record], Registered(-1))


def register_broker(state: ClusterState, request: RegisterBroker) -> Result:
    """A broker process has started. The same process may ask again (its first answer was lost).

    Raises:
        ClusterMismatch: the broker id belongs to another directory.
    """
    if request.broker_id < 0 or not 1 <= request.pool_size <= MAX_POOL_SIZE:
        raise ConfigError(
            f"a broker has an id from 0 and 1 to {MAX_POOL_SIZE} replica actors, not id {request.broker_id} and "
            f"{request.pool_size}"
        )
    known = state.brokers.get(request.broker_id)
    if known is not None and known.directory_id != request.directory_id:
        raise ClusterMismatch(
            f"broker id {request.broker_id} belongs to directory {known.directory_id}, not {request.directory_id}: "
            "give back the broker's old directory, or let this one start under a new id"
        )
    record = BrokerRecord(
        request.broker_id,
        request.directory_id,
        request.incarnation,
        request.host,
        request.port,
        request.node_id,
        request.pool_size,
    )
    if known != record:
        return Result([record], Registered(-1))
    alive = bool(state.alive.get(request.broker_id))
    return Result([] if alive else [BrokerStateRecord(request.broker_id, True)], Registered(-1))


def register_replica_actor(state: ClusterState, request: RegisterReplicaActor) -> Result:
    """A replica actor's process has started: see `leadership.after_start`, and `unclean` where it says that what the
    one before had written may be lost.

    Raises:
        BrokerNotAvailable: its broker has not registered yet. ClusterMismatch: the broker has no such slot.
    """
    broker = state.brokers.get(request.broker_id)
    if broker is None:
        raise BrokerNotAvailable(f"broker {request.broker_id} has not registered yet: try again")
    if not 0 <= request.slot < broker.pool_size:
        raise ClusterMismatch(
            f"broker {request.broker_id} has replica actors 0 to {broker.pool_size - 1}, not {request.slot}"
        )
    known = state.replica_actors.get((request.broker_id, request.slot))
    if known is not None and known.incarnation == request.incarnation:
        return Result([], Registered(-1))
    started = ReplicaActorRecord(request.broker_id, request.slot, request.incarnation, request.host, request.port)
    change = after_unclean_start if request.unclean else after_start
    changed = change(state, request.broker_id, request.slot)
    waited_for = [] if request.unclean else after_come_back(state, request.broker_id, request.slot)
    return Result([started, *changed, *waited_for], Registered(-1))


def register_group_actor(state: ClusterState, request: RegisterGroupActor) -> Result:
    """A process of a broker's group coordinator has started.

    Raises:
        BrokerNotAvailable: its broker has not registered yet.
    """
    if request.broker_id not in state.brokers:
        raise BrokerNotAvailable(f"broker {request.broker_id} has not registered yet: try again")
    record = GroupActorRecord(request.broker_id, request.incarnation, request.host, request.port)
    known = state.group_actors.get(request.broker_id) == record
    return Result([] if known else [record], Registered(-1))


def report_log_ends(state: ClusterState, request: ReportLogEnds) -> Result:
    """Replicas that started uncleanly say where their logs end; the highest leads when all have (`unclean`).

    Raises:
        ClusterMismatch: the caller has a successor, or counts as gone.
    """
    key = request.broker_id, request.slot
    actor = state.replica_actors.get(key)
    if actor is None or actor.incarnation != request.incarnation or key in state.lost:
        raise ClusterMismatch(f"process {request.incarnation} of replica actor {key} is over, or gone")
    records: list[Record] = []
    for log in request.logs:
        topic = state.topics_by_id.get(log.topic_id)
        if topic is None or not 0 <= log.partition < len(topic.partitions):
            continue  # deleted meanwhile
        partition = topic.partitions[log.partition]
        if partition.leader_epoch == log.leader_epoch and state.slot_of(partition, request.broker_id) == request.slot:
            record = with_log_end(state, partition, request.broker_id, log.last_epoch, log.log_end)
            if record is not None:
                records.append(record)
    return Result(records, Empty())


def allocate_producer_ids(state: ClusterState, request: AllocateProducerIds) -> Result:
    """Hands a broker a block of producer ids that nobody else gets."""
    first = state.next_producer_id
    return Result([ProducerIdsRecord(first + PRODUCER_ID_BLOCK)], ProducerIdBlock(first, PRODUCER_ID_BLOCK))
