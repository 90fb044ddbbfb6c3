"""What a partition asks of the actor that hosts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rayqueue.replication import events as ev

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition
    from rayqueue.storage.compaction.plan import Plan

Cut = ev.Truncate | ev.ResetLog


class Hands(Protocol):
    """What a partition cannot do itself: what its actor does for all partitions. Called on the loop."""

    def reply(self, reply: ev.Reply) -> None:
        """Tells a producer."""
        ...

    def flush(self, partition: HostedPartition) -> None:
        """Has an fsync made; answered by `Flushed` or `LogFailed`."""
        ...

    def cut(self, partition: HostedPartition, effect: Cut) -> None:
        """Has the log cut back; answered by `cut_done`."""
        ...

    def compact(self, partition: HostedPartition, due: Plan, wall_ms: int) -> None:
        """Has the log compacted; answered by `PartitionCompaction.done`."""
        ...

    def follow(self, partition: HostedPartition, effect: ev.Follow) -> None:
        """Subscribes at the leader."""
        ...

    def unfollow(self, partition: HostedPartition) -> None:
        """Ends the subscription."""
        ...

    def ack(self, partition: HostedPartition, effect: ev.AckFetch) -> None:
        """Tells the leader what is held."""
        ...

    def propose(self, partition: HostedPartition, effect: ev.ProposeIsr) -> None:
        """Asks the coordinator for an ISR."""
        ...

    def resign(self, partition: HostedPartition, effect: ev.Resign) -> None:
        """Asks the coordinator for another leader."""
        ...

    def report(self, partition: HostedPartition, effect: ev.ReportLogEnd) -> None:
        """Tells the coordinator where the log ends."""
        ...

    def later(self, partition: HostedPartition, event: ev.Event) -> None:
        """Has the machine told, in another turn."""
        ...

    def tell_later(self, partition: HostedPartition) -> None:
        """Has `tell_followers` called soon, if nothing goes to them before."""
        ...

    def timed(self, partition: HostedPartition) -> None:
        """The machine may have a deadline: it is asked at the end of the turn."""
        ...
