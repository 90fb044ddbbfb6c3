"""Who leads a partition, and who is in sync: what the loss or the start of a replica actor's process changes.

::

    lost     in sync, others are too  -> out of the ISR; a leader's place goes to the first of the others that is alive
             the last one in sync     -> an eligible one that is alive leads; if there is none, the last one is waited
                                         for: only it is known to hold every acked record
    resigned (its log has failed) as lost, but the process is there: it is passed over until it has started anew
    leaving  as lost, but while nobody else is in sync it leads on, and it does not lead again
    started  as above, for the process before it, whose loss nobody may have noticed; then
             leader, or eligible where the leader's process is gone -> leads, under a new leader epoch

A process start is a new incarnation. It has to follow the leader again before it counts as in sync, also when its
files are whole (KIP-903): so it is taken out of the ISR first, and only the leader asks for it to be put back.

A replica that leaves an ISR which thereby falls below `min.insync.replicas` holds everything below the high watermark,
which cannot move until the ISR has grown again: it is kept as eligible (ELR, KIP-966).

Unclean is to lead without being in sync or eligible: what only others hold is lost then. That is done on request only
(`elect_leaders(unclean=True)`, or the topic's unclean.leader.election.enable), and never while another choice is there.

Every function gives the records of the partitions that change, and changes nothing.
"""

from __future__ import annotations

import msgspec

from rayqueue.coordination.records import PartitionRecord
from rayqueue.coordination.state import NO_LEADER, ClusterState, Topic, replicas_before


def after_loss(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """The process of a replica actor is gone."""
    changed = []
    for topic, partition in state.partitions_on(broker_id, slot):
        record = without(state, topic, partition, broker_id)
        if record is None and partition.leader == broker_id:
            record = cleanly(state, topic, partition)
        if record is not None:
            changed.append(record)
    return changed


def after_start(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """A replica actor has a new process, which the state knows already.

    What it is to lead it leads under a new epoch: a process that cut a torn tail must not write under the epoch of what
    was cut, else the same (epoch, offset) would hold two records.
    """
    found = [started(state, *one, broker_id) for one in state.partitions_on(broker_id, slot)]
    return [record for record in found if record is not None]


def started(state: ClusterState, topic: Topic, partition: PartitionRecord, broker_id: int) -> PartitionRecord | None:
    """One partition of a replica actor that has a new process; None when nothing changes."""
    record = without(state, topic, partition, broker_id)
    if record is None and (partition.leader == broker_id or _orphaned(state, partition, broker_id)):
        record = taken_over(state, topic, partition, broker_id)
    return record


def after_return(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """A process that counted as lost is there after all, in the same incarnation: where it is eligible and nobody
    leads, it does."""
    return [
        taken_over(state, topic, partition, broker_id)
        for topic, partition in state.partitions_on(broker_id, slot)
        if partition.leader != broker_id and _orphaned(state, partition, broker_id)
    ]


def resigned(state: ClusterState, topic: Topic, partition: PartitionRecord) -> PartitionRecord | None:
    """The partition without its leader, which is there but whose log has failed: the next in sync leads, or an eligible
    one; while those are away nobody does, and the first that comes back takes over. None: nobody else may ever lead, so
    it stays the leader, and tells its clients why it serves none."""
    record = without(state, topic, partition, partition.leader)
    able = [one for one in partition.replicas if one in (*partition.isr, *partition.elr) and one != partition.leader]
    if record is not None or not able:
        return record
    there = [one for one in able if state.is_there(partition, one)]
    if there:
        return led_by(with_isr(state, topic, partition, there[:1]), there[0])
    return led_by(with_isr(state, topic, partition, partition.isr), NO_LEADER)


def prefer(state: ClusterState, topic: Topic, partition: PartitionRecord) -> PartitionRecord | None:
    """The partition led by the first of its replicas (where placement wanted its leader); None when it is already, or
    when that one is not in sync, or away."""
    first = partition.replicas[0]
    if partition.leader == first or first not in partition.isr or not state.may_lead(partition, first):
        return None
    return led_by(with_isr(state, topic, partition, partition.isr), first)


def cleanly(state: ClusterState, topic: Topic, partition: PartitionRecord) -> PartitionRecord | None:
    """The partition led by a replica that is there and has all of it, where the leader is not; None: by nobody else."""
    if state.is_there(partition, partition.leader):
        return None
    able = _by_choice(state, partition, {*partition.isr, *partition.elr})
    return taken_over(state, topic, partition, able[0]) if able else None


def uncleanly(
    state: ClusterState, topic: Topic, partition: PartitionRecord, added_too: bool = False
) -> PartitionRecord | None:
    """The partition led by whoever is there, where its leader is not and nobody is who has all of it (KIP-460).

    What the new leader lacks is lost, so it alone is in sync and nobody is eligible: the others follow its log now.
    None when there is a leader, or no replica at all.

    Args:
        added_too: as a last resort, also by a replica that is just being added: it may have nothing at all.
    """
    if state.is_there(partition, partition.leader):
        return None
    able = _by_choice(state, partition, set(partition.replicas if added_too else replicas_before(partition)))
    if partition.leader == NO_LEADER:  # those that have all of it are away, or there with a log that has failed
        able = [one for one in able if one not in (*partition.isr, *partition.elr)]
        # Of those that started uncleanly and have said so the one whose log reaches farthest, then the others.
        ends = {one.broker_id: (one.last_epoch, one.log_end) for one in partition.unclean}
        able.sort(key=lambda one: ends.get(one, (-2, -2)), reverse=True)
    else:
        record = cleanly(state, topic, partition)
        if record is not None:
            return record
    if not able:
        return None
    alone = msgspec.structs.replace(partition, isr=able[:1], elr=[], partition_epoch=partition.partition_epoch + 1)
    return msgspec.structs.replace(led_by(alone, able[0]), unclean_epoch=alone.leader_epoch + 1, unclean=[])


def _by_choice(state: ClusterState, partition: PartitionRecord, members: set[int]) -> list[int]:
    """Those of them that are there, the best leader first: in the order of placement, those about to end last."""
    there = [member for member in partition.replicas if member in members and state.is_there(partition, member)]
    return sorted(there, key=lambda member: not state.may_lead(partition, member))


def with_isr(state: ClusterState, topic: Topic, partition: PartitionRecord, isr: list[int]) -> PartitionRecord:
    """The partition with another ISR under the same leader."""
    elr = _eligible(state, topic, partition, isr)
    return msgspec.structs.replace(partition, isr=isr, elr=elr, partition_epoch=partition.partition_epoch + 1)


def without(state: ClusterState, topic: Topic, partition: PartitionRecord, broker_id: int) -> PartitionRecord | None:
    """The partition without this replica in sync; None when that changes nothing, or when no other in sync is there."""
    rest = [member for member in partition.isr if member != broker_id]
    there = _by_choice(state, partition, set(rest))
    if broker_id not in partition.isr or not there:
        return None
    record = with_isr(state, topic, partition, rest)
    return record if partition.leader in there else led_by(record, there[0])


def _orphaned(state: ClusterState, partition: PartitionRecord, broker_id: int) -> bool:
    """Whether the leader's process is gone and this replica could take its place."""
    return broker_id in (*partition.isr, *partition.elr) and not state.is_there(partition, partition.leader)


def taken_over(state: ClusterState, topic: Topic, partition: PartitionRecord, leader: int) -> PartitionRecord:
    """The partition led by a replica that has all of it, together with those in sync that are there."""
    isr = [member for member in partition.isr if member != leader and state.is_there(partition, member)]
    return led_by(with_isr(state, topic, partition, sorted([*isr, leader])), leader)


def led_by(partition: PartitionRecord, leader: int) -> PartitionRecord:
    """The partition led by another replica, under the next leader epoch."""
    return msgspec.structs.replace(partition, leader=leader, leader_epoch=partition.leader_epoch + 1)


def _eligible(state: ClusterState, topic: Topic, partition: PartitionRecord, isr: list[int]) -> list[int]:
    if len(isr) >= int(state.configs(topic)["min.insync.replicas"]):
        return []
    return sorted({*partition.elr, *partition.isr} - set(isr))
