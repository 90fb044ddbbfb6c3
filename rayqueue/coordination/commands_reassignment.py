"""The command that gives partitions other replicas, or takes that back; see `reassignment`."""

from __future__ import annotations

from rayqueue.coordination.commands import Result
from rayqueue.coordination.commands_partitions import partition_of
from rayqueue.coordination.commands_topics import outcome
from rayqueue.coordination.placement import Placement
from rayqueue.coordination.reassignment import MIN_INSYNC, begun, cancelled
from rayqueue.coordination.records import PartitionRecord, ReassignmentThrottleRecord, Record
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.coordination.topic_rules import check_min_insync
from rayqueue.errors import (
    InvalidReplicaAssignment,
    NoReassignmentInProgress,
    NotEnoughReplicas,
    RayQueueError,
)
from rayqueue.protocol.messages import Reassignment, ReassignPartitionsRequest, ReassignPartitionsResponse


def reassign_partitions(state: ClusterState, request: ReassignPartitionsRequest) -> Result:
    """Begins, replaces and cancels reassignments, each partition on its own; answered once that is committed.

    How far they are is in the metadata; the coordinator completes each by itself.
    """
    placement = Placement(state)
    records: list[Record] = []
    results = []
    asked: set[tuple[bytes, int]] = set()
    for change in request.changes:
        key = change.topic_id, change.partition
        name = str(change.partition)
        try:
            topic, partition = partition_of(state, *key)
            name = f"{topic.name}-{partition.partition}"
            if key in asked:
                raise InvalidReplicaAssignment(f"partition {name} stands twice in the request: leave one out")
            record = _changed(state, topic, partition, change, placement)
            results.append(outcome(name))
        except RayQueueError as error:
            results.append(outcome(name, error))
        else:
            asked.add(key)
            if record is not None:
                records.append(record)
    if asked and request.throttle >= 0 and request.throttle != state.reassignment_throttle:
        records.insert(0, ReassignmentThrottleRecord(request.throttle))
    return Result(records, ReassignPartitionsResponse(-1, results))


def _changed(
    state: ClusterState, topic: Topic, partition: PartitionRecord, change: Reassignment, placement: Placement
) -> PartitionRecord | None:
    """None: it is so already.

    Raises:
        InvalidReplicaAssignment, NoReassignmentInProgress, ConfigError, NotEnoughReplicas.
    """
    name, target = f"{topic.name}-{partition.partition}", change.replicas
    if target is None:
        if not partition.target:
            raise NoReassignmentInProgress(f"partition {name} is not being reassigned: there is nothing to cancel")
        record = cancelled(state, partition)
    else:
        _check_target(state, topic, partition, target)
        if target == (partition.target or partition.replicas):
            return None
        record = begun(state, partition, target, placement.slot_on)
    if record is None:
        raise NotEnoughReplicas(
            f"of the replicas that partition {name} would have nobody is in sync and there, so nobody could lead it: "
            "wait, or let it go on"
        )
    return record


def _check_target(state: ClusterState, topic: Topic, partition: PartitionRecord, target: list[int]) -> None:
    name = f"{topic.name}-{partition.partition}"
    if not target or len(set(target)) < len(target):
        raise InvalidReplicaAssignment(f"replicas of partition {name} are different brokers, at least one: {target}")
    strangers = sorted(set(target) - set(state.brokers))
    if strangers:
        known = ", ".join(map(str, sorted(state.brokers)))
        raise InvalidReplicaAssignment(f"there is no broker {strangers[0]} for partition {name}: there are {known}")
    away = sorted(one for one in set(target) - set(partition.replicas) if not state.alive.get(one))
    if away:
        raise InvalidReplicaAssignment(f"broker {away[0]} is not alive, partition {name} cannot move there: start it")
    configured = topic.overrides.get(MIN_INSYNC, state.topic_defaults.get(MIN_INSYNC))
    check_min_insync(configured, len(target), f"partition {name}")
