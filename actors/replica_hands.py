"""What a replica actor does for all its partitions' machines: fsyncs, links to leaders, requests to the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rayqueue.actors.compacting import Outcome
from rayqueue.actors.compactor import Compactor
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.disk_thread import DiskThread
from rayqueue.actors.driver import boot_ms
from rayqueue.actors.hands import Cut
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.actors.isr_proposals import IsrProposals
from rayqueue.actors.leader_link import AGAIN_MS, FollowerEvent
from rayqueue.actors.leader_links import LeaderLinks
from rayqueue.protocol.messages import FollowHello, ProduceResult
from rayqueue.replication import events as ev
from rayqueue.storage.compaction.plan import Plan

# Followers hear of a high watermark so much later, when no batch tells them before and nobody waits for it there.
WATERMARK_MS = 10


class Later(msgspec.Struct):
    """An event for a partition's machine, on its way to the loop."""

    partition: HostedPartition
    event: ev.Event


class CutDone(msgspec.Struct):
    """What became of a cut, on its way to the loop."""

    partition: HostedPartition
    event: ev.Truncated | ev.CutFailed | ev.LogFailed


class CompactionDone(msgspec.Struct):
    """What became of a round of compaction, on its way to the loop."""

    partition: HostedPartition
    outcome: Outcome


class ReplicaHands:
    """See `hands.Hands`.

    Args:
        who: this process. token: the cluster's. coordinator: where to ask.
        post: gives an event to the loop's thread. submit: the same, or handles it at once on the caller's.
        compaction_memory, compaction_bytes_per_s: what compaction may use.

    Attributes:
        deadlines: partitions whose machine has one, or was stepped in this turn. Only the loop touches it.
    """

    def __init__(
        self,
        who: FollowHello,
        token: str | None,
        coordinator: CoordinatorChannel,
        post: Callable[[Any], None],
        submit: Callable[[Any], None],
        compaction_memory: int,
        compaction_bytes_per_s: int,
    ) -> None:
        self._post = post
        self.deadlines: set[HostedPartition] = set()
        self._to_tell: dict[HostedPartition, None] = {}
        self._tell_ms: int | None = None  # when; goes on as long as there is something to tell each time
        self._flusher = DiskThread[ev.Flushed]("flusher", self.later)
        self._cutter = DiskThread[ev.Truncated | ev.CutFailed]("cutter", lambda *done: post(CutDone(*done)))
        self._compactor = Compactor(
            compaction_memory, compaction_bytes_per_s, lambda *done: post(CompactionDone(*done))
        )
        self._links = LeaderLinks(who, token, submit)
        self._proposals = IsrProposals(coordinator, who.broker_id, who.slot, who.incarnation, self.later)

    def reply(self, reply: ev.Reply) -> None:
        """Tells a producer."""
        item = reply.ref
        item.request.complete(item.index, ProduceResult(reply.base_offset, reply.timestamp, reply.error, reply.message))

    def flush(self, partition: HostedPartition) -> None:
        """Has an fsync made."""
        self._flusher.submit(partition, lambda: ev.Flushed(partition.log.flush()))

    def cut(self, partition: HostedPartition, effect: Cut) -> None:
        """Has the log cut back."""
        self._cutter.submit(partition, lambda: partition.cut(effect))

    def compact(self, partition: HostedPartition, due: Plan, wall_ms: int) -> None:
        """Has the log compacted."""
        self._compactor.submit(partition, due, wall_ms, partition.replica.producers.ids())

    def follow(self, partition: HostedPartition, effect: ev.Follow) -> None:
        """Subscribes at the leader."""
        self._links.follow(partition, effect)

    def unfollow(self, partition: HostedPartition) -> None:
        """Ends the subscription."""
        self._links.unfollow(partition)

    def ack(self, partition: HostedPartition, effect: ev.AckFetch) -> None:
        """Tells the leader what is held."""
        self._links.ack(partition, effect)

    def propose(self, partition: HostedPartition, effect: ev.ProposeIsr) -> None:
        """Asks the coordinator for an ISR."""
        self._proposals.propose(partition, effect)

    def resign(self, partition: HostedPartition, effect: ev.Resign) -> None:
        """Asks the coordinator for another leader."""
        self._proposals.resign(partition, effect)

    def report(self, partition: HostedPartition, effect: ev.ReportLogEnd) -> None:
        """Tells the coordinator where the log ends."""
        self._proposals.report(partition, effect)

    def later(self, partition: HostedPartition, event: ev.Event) -> None:
        """Has the machine told, in another turn."""
        self._post(Later(partition, event))

    def tell_later(self, partition: HostedPartition) -> None:
        """Has followers told of the high watermark soon."""
        self._to_tell[partition] = None
        if self._tell_ms is None:
            self._tell_ms = boot_ms() + WATERMARK_MS

    def tick(self, now_ms: int) -> None:
        """Tells followers what is due."""
        if self._tell_ms is None or now_ms < self._tell_ms:
            return
        partitions, self._to_tell = self._to_tell, {}
        self._tell_ms = now_ms + WATERMARK_MS if partitions else None
        for partition in partitions:
            if not partition.closed:
                partition.tell_followers()

    def timed(self, partition: HostedPartition) -> None:
        """The machine may have a deadline: it is asked at the end of the turn."""
        self.deadlines.add(partition)

    def fed(self, events: list[FollowerEvent]) -> None:
        """What came from leaders has been written: they may send more."""
        for news in events:
            if news.credit:
                news.link.give_back(news.credit)

    def end_turn(self) -> None:
        """Sends what the turn's effects had to say to leaders."""
        self._links.flush()

    def next_deadline_ms(self) -> int | None:
        """The first of the machines' deadlines."""
        deadlines = [d for p in self.deadlines if (d := p.replica.next_deadline_ms()) is not None]
        if self._links.unsent:
            deadlines.append(boot_ms() + AGAIN_MS)
        if self._tell_ms is not None:
            deadlines.append(self._tell_ms)
        return min(deadlines, default=None)

    def close(self) -> None:
        """Ends links and proposals. Inside the loop."""
        self._links.close()

    def stop(self) -> None:
        """Ends the threads."""
        self._proposals.stop()
        self._flusher.stop()
        self._cutter.stop()
        self._compactor.stop()
