"""The follow exchange, at the leader: what one follower's process is fed, all its partitions on one stream.

A request goes to the partition's machine as an event, and the machine says whether the follower is fed and from where
(`Feed`, `RefuseFetch`, `StopFeeding`). Fed is what is written, not only what is committed: it is the acks of those who
are fed that commit it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from rayqueue.actors.exchange import Exchange
from rayqueue.actors.feed_throttle import FeedThrottle
from rayqueue.actors.push_stream import FEW_RECORDS, PushStream, Subscription
from rayqueue.errors import RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import FollowHello, FollowPart, FollowPartition, FollowRequest, FollowResponse
from rayqueue.replication import events as ev
from rayqueue.storage.compaction.trimming import begun_at
from rayqueue.storage.reader import LogSlice

if TYPE_CHECKING:
    from rayqueue.actors.fresh_batches import FreshBatches
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)


@dataclass(eq=False)
class FeedSubscription(Subscription):
    """Attributes: leader_epoch: under which it is fed; offset -1: not yet. told: (high watermark, log start).
    watched: consumers wait at the follower for the high watermark."""

    leader_epoch: int = -1
    watched: bool = False


class Followed(NamedTuple):
    """News of a follower, for the loop. subscription: of a `FetchFrom`, which it begins."""

    partition: HostedPartition
    event: ev.FetchFrom | ev.FetchAcked | ev.FetchEnded
    stream: FollowStream
    subscription: FeedSubscription


class FollowStream(PushStream[FeedSubscription]):
    """One follower process's stream.

    Args:
        exchange: the stream.
        find: the partition that is hosted here by id and number; raises when there is none.
        submit: gives news to the loop.
        max_bytes: largest push.
        throttle: the process's, for followers that are being added.
    """

    def __init__(
        self,
        exchange: Exchange,
        find: Callable[[bytes, int], HostedPartition],
        submit: Callable[[Followed], None],
        max_bytes: int,
        throttle: FeedThrottle,
    ) -> None:
        super().__init__(exchange, max_bytes)
        self._throttle = throttle
        self._find = find
        self._submit = submit
        self._hello = FollowHello(-1, -1, "")

    @property
    def number(self) -> int:
        """Of the streams of this follower's process to here: later ones have higher numbers."""
        return self._hello.number

    def __repr__(self) -> str:
        return f"FollowStream(broker {self._hello.broker_id} slot {self._hello.slot})"

    def run(self) -> None:
        """Reads to the end of the stream, then tells every partition that this follower is gone."""
        first = self._exchange.receive()
        if first is None:
            return
        self._hello = codec.decode(first[0], FollowHello)
        try:
            while (received := self._exchange.receive()) is not None:
                self._take(codec.decode(received[0], FollowRequest))
        finally:
            for subscription in list(self._subscriptions.values()):
                self._end(subscription)

    # --- the follower's side (the connection's thread) --------------------------------------------------------------

    def _take(self, request: FollowRequest) -> None:
        self._take_credit(request.credit)
        for ack in request.acks:
            subscription = self._subscriptions.get(ack.subscription)
            if subscription is not None:
                subscription.watched = ack.watched
                follower, incarnation = self._hello.broker_id, self._hello.incarnation
                event = ev.FetchAcked(follower, incarnation, ack.leader_epoch, ack.end)
                self._submit(Followed(subscription.partition, event, self, subscription))
        for gone in request.remove:
            subscription = self._subscriptions.pop(gone, None)
            if subscription is not None:
                self._end(subscription)
        for wanted in request.add:
            self._add(wanted)
        self._push()

    def _add(self, wanted: FollowPartition) -> None:
        try:
            self._check_new(wanted.subscription)
            partition = self._find(wanted.topic_id, wanted.partition)
        except RayQueueError as error:
            part = FollowPart(wanted.subscription, wanted.leader_epoch, -1, -1, -1, error=type(error).__name__)
            self._refused.append(part)
            return
        subscription = FeedSubscription(wanted.subscription, partition, -1, leader_epoch=wanted.leader_epoch)
        self._subscriptions[subscription.id] = subscription
        event = ev.FetchFrom(
            self._hello.broker_id, self._hello.incarnation, wanted.leader_epoch, wanted.offset, wanted.last_epoch
        )
        self._submit(Followed(partition, event, self, subscription))

    def _end(self, subscription: FeedSubscription) -> None:
        subscription.ended = True
        event = ev.FetchEnded(self._hello.broker_id, self._hello.incarnation)
        self._submit(Followed(subscription.partition, event, self, subscription))

    # --- what the machine says (the loop) ---------------------------------------------------------------------------

    def feed(self, subscription: FeedSubscription, offset: int) -> None:
        """Pushes what is written from `offset` on."""
        subscription.offset = offset
        self._tell(subscription)
        self._push_soon(few=True)

    def refuse(self, subscription: FeedSubscription, refusal: ev.RefuseFetch) -> None:
        """Answers that it is not fed."""
        partition, producers = subscription.partition, refusal.producers
        start = partition.log.log_start_offset if refusal.error != "OffsetOutOfRange" else refusal.end
        self._close(
            subscription,
            FollowPart(
                subscription.id,
                subscription.leader_epoch,
                partition.high_watermark,
                start,
                partition.log.log_end_offset,
                error=refusal.error,
                epoch=refusal.epoch,
                end=refusal.end,
                producers=b"" if producers is None else producers.dump(),
            ),
        )

    def stop(self, subscription: FeedSubscription) -> None:
        """Pushes nothing more."""
        part = FollowPart(subscription.id, subscription.leader_epoch, -1, -1, -1, error="NotLeaderOrFollower")
        self._close(subscription, part)

    def _close(self, subscription: FeedSubscription, part: FollowPart) -> None:
        subscription.ended = True
        self._refused.append(part)
        self._push_soon(few=True)

    def on_news(self, subscription: FeedSubscription) -> None:
        """The partition has grown, or its high watermark or start has moved."""
        self._tell(subscription)
        self._push_soon(subscription.partition.log.log_end_offset - subscription.offset <= FEW_RECORDS)

    def on_written(self, subscription: FeedSubscription, fresh: FreshBatches | None) -> None:
        """The partition has been written to. fresh: what was written, if it is little."""
        if fresh is None or not self._push_fresh(subscription, fresh):
            self.on_news(subscription)
        elif self._has_news():  # somebody has left it to us meanwhile
            self._push_soon(few=True)

    def _push_fresh(self, subscription: FeedSubscription, fresh: FreshBatches) -> bool:
        """Pushes what was written to a follower that has been fed all before it; else the log is read."""
        if not self._exchange.idle or not self._pushing.acquire(blocking=False):
            return False
        try:
            partition, size = subscription.partition, fresh.row.size
            if subscription.offset != fresh.base_offset or subscription.ended or self._credit < size:
                return False
            if self._throttle.allowance((partition.topic_id, partition.partition), self._hello.broker_id) is not None:
                return False
            subscription.offset = fresh.next_offset
            self._add_credit(-size)
            high_watermark, start = subscription.told = partition.high_watermark, partition.log.log_start_offset
            epoch, end = subscription.leader_epoch, fresh.next_offset
            part = FollowPart(subscription.id, epoch, high_watermark, start, end, fresh.entries)
            self._exchange.send(self._encode([part]), [fresh.row])
            return True
        finally:
            self._pushing.release()

    # --- pushing (any thread, one at a time) ------------------------------------------------------------------------

    def _encode(self, parts: list[FollowPart]) -> bytes:
        return codec.encode(FollowResponse(parts))

    def _part(self, subscription: FeedSubscription, max_bytes: int) -> tuple[FollowPart | None, pa.Buffer | None]:
        partition = subscription.partition
        if subscription.offset < 0:
            return None, None
        high_watermark, start = partition.high_watermark, partition.log.log_start_offset
        end = partition.log.log_end_offset
        part = FollowPart(subscription.id, subscription.leader_epoch, high_watermark, start, end)
        try:
            found = self._read_allowed(subscription, end, max_bytes)
        except Exception as error:  # a fault with one partition: the others go on
            log.error("%s-%d cannot be fed: %s", partition.topic, partition.partition, error)
            part.error = type(error).__name__
            subscription.ended = True
            return part, None
        if partition.replica.leader_epoch != subscription.leader_epoch:
            # What was read may have been cut and written anew under another leader: it is not said in this one's name.
            if found is not None:
                self._add_credit(found[1].size)
            return None, None
        if found is not None:
            part.entries = found[0]
        elif subscription.told == (high_watermark, start):
            return None, None
        subscription.told = (high_watermark, start)
        return part, None if found is None else found[1]

    def _slice(self, subscription: FeedSubscription, max_bytes: int, limit: int) -> LogSlice | None:
        """A follower's log ends where one of the leader's batches ended, which may have been compacted away since."""
        found = super()._slice(subscription, max_bytes, limit)
        return None if found is None else begun_at(found, subscription.offset, subscription.partition.schema)

    def _read_allowed(self, subscription: FeedSubscription, end: int, max_bytes: int) -> tuple[bytes, pa.Buffer] | None:
        """What may be pushed now: where a throttled reassignment adds this follower, no more than that allows."""
        partition = subscription.partition
        allowed = self._throttle.allowance((partition.topic_id, partition.partition), self._hello.broker_id)
        if allowed is None or subscription.offset >= end:
            return self._read(subscription, end, max_bytes)
        if allowed <= 0:
            self._throttle.wait(subscription, lambda: self._throttle_over(subscription))
            return None
        found = self._read(subscription, end, min(max_bytes, allowed))
        if found is not None:
            self._throttle.spend(found[1].size)
        return found

    def _throttle_over(self, subscription: FeedSubscription) -> None:
        self._tell(subscription)
        self._push_soon(few=False)
