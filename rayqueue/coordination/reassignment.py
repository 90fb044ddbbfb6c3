"""Giving a partition other replicas, step by step and without a gap (KIP-455).

::

    settled --begin--> under way: replicas = those it had + those it is being given
       ^                  |   `--begin: another target replaces the first; what only the first would have added goes
       |                  |-- cancelled: replicas = those it had
       `------------------`-- completed: replicas = the target, once all that are added are in sync

Meanwhile nothing else is different: those that are added follow the leader and join the ISR as any replica does, the
ISR's rules hold for all of them, and a leader that is lost is followed by another that is in sync. A replica that is no
longer named gives up its log when it reads so in the metadata log.

Who had it comes first in `replicas`, so what is cancelled leaves no trace. Until it is completed, a topic's replication
factor is that of before: a minimum of in-sync replicas that goes by it must not rise while the new ones copy.

Every function gives records, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rayqueue.coordination.leadership import led_by
from rayqueue.coordination.records import ConfigRecord, PartitionRecord, Record
from rayqueue.coordination.state import NO_LEADER, ClusterState, Topic, effective_configs, replicas_before

MIN_INSYNC = "min.insync.replicas"


def removing(partition: PartitionRecord) -> list[int]:
    """The replicas that it will lose."""
    return [one for one in partition.replicas if one not in partition.target] if partition.target else []


def begun(
    state: ClusterState, partition: PartitionRecord, target: list[int], slot_on: Callable[[int], int]
) -> PartitionRecord | None:
    """The partition on its way to another target; None when nobody in sync could lead it then.

    Args:
        slot_on: chooses the replica actor for a new replica on a broker.
    """
    before = replicas_before(partition)
    if set(target) == set(before):  # another order, or back to what it was
        slots = dict(zip(partition.replicas, partition.slots, strict=True))
        return _with_replicas(state, partition, target, [slots[one] for one in target])
    adding = [one for one in target if one not in before]
    slots = dict(zip(partition.replicas, partition.slots, strict=True))
    slots |= {one: slot_on(one) for one in adding if one not in slots}
    replicas = [*before, *adding]
    return _with_replicas(state, partition, replicas, [slots[one] for one in replicas], target, adding)


def cancelled(state: ClusterState, partition: PartitionRecord) -> PartitionRecord | None:
    """The partition as it was; None when nobody of those in sync that it had could lead it now."""
    before = replicas_before(partition)
    return _with_replicas(state, partition, before, partition.slots[: len(before)])


def completed(state: ClusterState, topic: Topic, partition: PartitionRecord) -> list[Record]:
    """The partition with its target, and what follows from that; nothing while it has to go on.

    Those that go hold what those that stay may still lack: so all that are added must be in sync, and so many of those
    that stay must be in sync and there as an append will need.
    """
    target = partition.target
    if partition.leader == NO_LEADER:
        return []
    stay = [one for one in partition.isr if one in target]
    needed, after = _minimum(state, topic), _minimum_after(state, topic, partition)
    there = [one for one in stay if state.is_there(partition, one)]
    if not set(partition.adding) <= set(stay) or len(there) < min(max(needed, after), len(target)):
        return []
    slots = dict(zip(partition.replicas, partition.slots, strict=True))
    record = _with_replicas(state, partition, target, [slots[one] for one in target])
    if record is None:
        return []
    return [record, *_other_minimum(topic, partition)] if after != needed else [record]


def _with_replicas(
    state: ClusterState,
    partition: PartitionRecord,
    replicas: list[int],
    slots: list[int],
    target: list[int] | None = None,
    adding: list[int] | None = None,
) -> PartitionRecord | None:
    """The partition with these replicas, led by one of them; None when nobody of them that is in sync is there."""
    record = msgspec.structs.replace(
        partition,
        replicas=replicas,
        slots=slots,
        isr=[one for one in partition.isr if one in replicas],
        elr=[one for one in partition.elr if one in replicas],
        unclean=[one for one in partition.unclean if one.broker_id in replicas],
        target=target or [],
        adding=adding or [],
        partition_epoch=partition.partition_epoch + 1,
    )
    if partition.leader in replicas:
        return record
    if partition.leader == NO_LEADER:  # as it is: whoever is waited for must not be given up
        waited_for = {*partition.isr, *partition.elr, *(one.broker_id for one in partition.unclean)}
        return record if waited_for <= set(replicas) else None
    able = [one for one in replicas if one in record.isr and state.is_there(partition, one)]
    # One that is about to end comes last: it would have to be replaced at once.
    able.sort(key=lambda one: not state.may_lead(partition, one))
    return led_by(record, able[0]) if able else None


def _minimum(state: ClusterState, topic: Topic) -> int:
    return int(state.configs(topic)[MIN_INSYNC])


def _minimum_after(state: ClusterState, topic: Topic, partition: PartitionRecord) -> int:
    """`min.insync.replicas` of the topic once the partition is done: nobody set it, it goes by the replicas."""
    factors = {**topic.factors, len(partition.target): 1}
    before = len(replicas_before(partition))
    if before != len(partition.target) and topic.factors[before] == 1:
        del factors[before]
    return int(effective_configs(topic.overrides, state.topic_defaults, min(factors))[MIN_INSYNC])


def _other_minimum(topic: Topic, done: PartitionRecord) -> list[Record]:
    """The topic has another minimum of in-sync replicas now. Its replica actors look at all its partitions again (a
    setting that is none is taken away), and eligible is nobody: that was who left under the other minimum."""
    return [
        ConfigRecord(done.topic_id, MIN_INSYNC, None),
        *(
            msgspec.structs.replace(one, elr=[], partition_epoch=one.partition_epoch + 1)
            for one in topic.partitions
            if one.elr and one.partition != done.partition
        ),
    ]
