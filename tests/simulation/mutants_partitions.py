"""Bugs planted into the cores of replication and coordination, and into their shells, one function each: the simulator
must catch them, and stay able to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from rayqueue.coordination import commands_partitions, commands_processes, leadership, unclean
from rayqueue.coordination.records import PartitionRecord
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.coordination.unclean import awaits_logs
from rayqueue.replication import events as ev
from rayqueue.replication.flushing import Flushing
from rayqueue.replication.follower import Follower, State
from rayqueue.replication.in_sync import InSync
from rayqueue.replication.leader import Leader
from rayqueue.replication.progress import Progress
from tests.simulation.partitions_broker import Broker


def ack_before_replication(self: Leader, durable: int) -> int:
    """What the leader holds counts as committed."""
    return durable


def truncate_by_high_watermark(self: Follower) -> list[ev.Effect]:
    """A follower first cuts off what it does not know to be committed (KIP-101 tells what comes of it)."""
    if self.leader == ev.NO_LEADER:
        return []
    self.state = State.CUTTING
    return [ev.Truncate(self._log.high_watermark)]


def follow_any_epoch(self: Follower, leader_epoch: int) -> bool:
    """Whoever feeds is the leader."""
    return True


def skip_the_flush(self: Flushing) -> None:
    """What is written counts as durable, whatever the topic asks for."""
    self.durable_end = max(self.durable_end, self._log.written_end)


def lead_on_after_a_restart(self: Broker, state: ClusterState) -> bool:
    """What was committed for the process before is taken for one's own."""
    return True


def shrink_at_once(self: InSync, isr: frozenset[int]) -> None:
    """What is proposed counts as if it were committed, a removal too."""
    self.outstanding = True
    self.committed = self.maximal = isr


def join_without_epoch_start(self: Leader, follower: Progress) -> bool:
    """The high watermark as this leader knows it is enough."""
    return follower.fed and follower.end >= self._log.high_watermark


def count_any_incarnation(self: Leader, event: ev.FetchAcked, follower: Progress) -> bool:
    """An ack is an ack, whoever of its broker's processes said it."""
    return event.leader_epoch == self.leader_epoch


def forget_what_was_refused(self: InSync, partition_epoch: int, retry_ms: int) -> None:
    """A refused addition counts no more, though it may have been taken when it was asked for first."""
    if partition_epoch == self.partition_epoch:
        self.outstanding, self.retry_ms, self.maximal = False, retry_ms, self.committed


def cut_where_the_leader_says(self: Follower, epoch: int, end: int, now_ms: int) -> list[ev.Effect]:
    """The end of an epoch that this log has nothing of is taken for an offset of it: it may lie inside of a batch."""
    log = self._log
    end = min(end, log.epochs.end_of(epoch, log.log_end)[1])
    if self.state is State.FED or not log.settled or end >= log.log_end:
        return self._fault(now_ms)
    self.state = State.CUTTING
    return [ev.Truncate(end) if end >= log.log_start else ev.ResetLog(end)]


def count_unclean_starts_as_clean(self: Broker) -> bool:
    """Whatever the machine has lost, its replicas are as good as they were."""
    return False


def leave_a_process_that_was_replaced(self: Broker) -> None:
    """It goes on, though nobody takes anything of it any more."""


def start_unnoticed(state: ClusterState, broker_id: int, slot: int) -> list[PartitionRecord]:
    """A new process is as good as the one before: in sync, and the leader in the same epoch."""
    return []


def join_by_number(state: ClusterState, partition: PartitionRecord, broker_id: int, incarnation: str) -> None:
    """Whichever process of a broker was caught up, the one that is there now joins the ISR (KIP-903 tells why not)."""


def eligible_for_ever(state: ClusterState, topic: Topic, partition: PartitionRecord, isr: list[int]) -> list[int]:
    """Who leaves the ISR may lead, also where those that are left go on without it."""
    return sorted({*partition.elr, *partition.isr} - set(isr))


def lead_by_first_come(state: ClusterState, partition: PartitionRecord, there: int) -> PartitionRecord | None:
    """Of those that started uncleanly the first that is there leads, whatever the others may hold."""
    if not awaits_logs(partition):
        return None
    epochs = {"leader_epoch": partition.leader_epoch + 1, "partition_epoch": partition.partition_epoch + 1}
    return msgspec.structs.replace(partition, leader=there, isr=[there], unclean=[], **epochs)


MUTANTS: Mapping[str, tuple[Any, str, Callable[..., Any]]] = {
    "ack before replication": (Leader, "_committed_end", ack_before_replication),
    "truncate by high watermark": (Follower, "start", truncate_by_high_watermark),
    "no epoch check on a follower": (Follower, "_of_my_epoch", follow_any_epoch),
    "skipped flush": (Flushing, "_settle", skip_the_flush),
    "old epoch after a restart": (Broker, "is_mine", lead_on_after_a_restart),
    "shrunk ISR before it is committed": (InSync, "propose", shrink_at_once),
    "join without the epoch start": (Leader, "_may_join", join_without_epoch_start),
    "ack of a stale incarnation": (Leader, "_counts", count_any_incarnation),
    "refused addition forgotten": (InSync, "refuse", forget_what_was_refused),
    "cut inside of a batch": (Follower, "_diverged", cut_where_the_leader_says),
    "unclean start counted as clean": (Broker, "started_uncleanly", count_unclean_starts_as_clean),
    "replaced process goes on": (Broker, "start_anew", leave_a_process_that_was_replaced),
    "start that changes nothing": (commands_processes, "after_start", start_unnoticed),
    "member by its number": (commands_partitions, "_check_member", join_by_number),
    "eligible for ever": (leadership, "_eligible", eligible_for_ever),
    "logs not compared": (unclean, "_by_log", lead_by_first_come),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Within the block the code has this bug; None: it is as it is."""
    if name is None:
        yield
        return
    owner, attribute, bug = MUTANTS[name]
    with patch.object(owner, attribute, bug):
        yield
