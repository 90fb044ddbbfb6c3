"""Replicas whose process started uncleanly: what was not fsynced of their logs may be lost (KIP-966).

Such a replica leads by no right of the ISR or of the eligible replicas any more: it leaves both, and has to follow a
leader again. Where no other is left, nobody leads until every member of the last ISR and ELR has come back and said
where its log ends; then the one with the highest (last leader epoch, log end) leads: whatever was acked and is on any
disk is in its log. One that was the only member leads at once, for there is nobody to compare it with: that is so with
one replica.

Who left in this way is remembered (`PartitionRecord.unclean`) until a leader has asked for an ISR: by then somebody
leads for sure. Without that proof a leader may be one that went down in the same power failure, and has not come back
to say so.

Where the topic flushes before each ack nothing acked can be lost in this way, and a start is a start.

Every function gives the records of the partitions that change, and changes nothing.
"""

from __future__ import annotations

import msgspec

from rayqueue.coordination.leadership import started, taken_over
from rayqueue.coordination.records import PartitionRecord, UncleanReplica
from rayqueue.coordination.state import NO_LEADER, ClusterState, Topic


def after_unclean_start(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """A replica actor has a new process, and its machine may have lost what the one before had written."""
    changed = []
    for topic, partition in state.partitions_on(broker_id, slot):
        if state.configs(topic)["flush.messages"] == "1":
            record = started(state, topic, partition, broker_id)
        else:
            record = _distrusted(state, topic, partition, broker_id)
            if record is not None:
                record = _by_log(state, record, broker_id) or record
        if record is not None:
            changed.append(record)
    return changed


def after_come_back(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """A process is there, again or anew: it may be the one that was waited for."""
    found = [_by_log(state, partition, broker_id) for _, partition in state.partitions_on(broker_id, slot)]
    return [record for record in found if record is not None]


def with_log_end(
    state: ClusterState, partition: PartitionRecord, broker_id: int, last_epoch: int, log_end: int
) -> PartitionRecord | None:
    """The partition once a replica has said where its log ends; None when that is asked of it no more."""
    known = UncleanReplica(broker_id, last_epoch, log_end)
    unclean = [known if one.broker_id == broker_id else one for one in partition.unclean]
    if not awaits_logs(partition) or unclean == partition.unclean:
        return None
    record = msgspec.structs.replace(partition, unclean=unclean, partition_epoch=partition.partition_epoch + 1)
    return _by_log(state, record, broker_id) or record


def awaits_logs(partition: PartitionRecord) -> bool:
    """Whether nobody may lead before all logs are compared: until then they stay as they are."""
    return partition.leader == NO_LEADER and not (partition.isr or partition.elr) and bool(partition.unclean)


def _distrusted(
    state: ClusterState, topic: Topic, partition: PartitionRecord, broker_id: int
) -> PartitionRecord | None:
    """The partition without this replica in ISR and ELR; None when that changes nothing."""
    known = [one.broker_id for one in partition.unclean]
    if broker_id not in (*partition.isr, *partition.elr, *known):
        return None
    others = [one for one in partition.unclean if one.broker_id != broker_id]
    if partition.leader != NO_LEADER:  # with it, logs may have changed since they were told
        others = [UncleanReplica(one.broker_id) for one in others]
    record = msgspec.structs.replace(
        partition,
        isr=[one for one in partition.isr if one != broker_id],
        elr=[one for one in partition.elr if one != broker_id],
        unclean=[*others, UncleanReplica(broker_id)],
    )
    if partition.leader in record.isr:
        return msgspec.structs.replace(record, partition_epoch=partition.partition_epoch + 1)
    able = [one for one in (*record.isr, *record.elr) if state.is_there(partition, one)]
    if able:
        return taken_over(state, topic, record, able[0])
    epoch = partition.leader_epoch + (partition.leader != NO_LEADER)
    return msgspec.structs.replace(
        record, leader=NO_LEADER, leader_epoch=epoch, partition_epoch=partition.partition_epoch + 1
    )


def _by_log(state: ClusterState, partition: PartitionRecord, there: int) -> PartitionRecord | None:
    """The partition led by the replica with the highest log; None while some are not known, or that one is away.

    Args:
        there: a replica that is there, though the state may not know it yet.
    """
    unclean = partition.unclean
    if not awaits_logs(partition) or (len(unclean) > 1 and any(one.log_end < 0 for one in unclean)):
        return None
    highest = max((one.last_epoch, one.log_end) for one in unclean)
    # Logs with the same end hold the same: the first of those that are there, by the order of placement, will do.
    able = {one.broker_id for one in unclean if (one.last_epoch, one.log_end) == highest}
    present = (one for one in partition.replicas if one in able and (one == there or state.is_there(partition, one)))
    best = next(present, None)
    if best is None:
        return None
    return msgspec.structs.replace(
        partition,
        leader=best,
        isr=[best],
        unclean=[],
        leader_epoch=partition.leader_epoch + 1,
        partition_epoch=partition.partition_epoch + 1,
    )
