"""The fetch exchange: pushes a partition's batches to a consumer, as they stand in the segment.

A consumer that maps the segments is told the high watermark only. That a follower in sync does too, for consumers on
its host: what is below its own high watermark is committed. It sends its reader to the leader when it is in sync no
more (it reads that in the metadata log), and when it is asked for an offset that it cannot judge (KIP-392).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from rayqueue.actors.exchange import Exchange
from rayqueue.actors.push_stream import FEW_RECORDS, PushStream, Subscription
from rayqueue.errors import (
    FencedLeaderEpoch,
    NotLeaderOrFollower,
    RayQueueError,
    StorageError,
    from_wire,
)
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PING, FetchPart, FetchPartition, FetchRequest, FetchResponse

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)


@dataclass(eq=False)
class FetchSubscription(Subscription):
    """Attributes: mapped: it wants watermarks only. told: (high watermark, log start, epoch, generation)."""

    mapped: bool = False


class FetchStream(PushStream[FetchSubscription]):
    """One client's fetch exchange.

    Args:
        exchange: the stream.
        find: the partition that is hosted here by id and number; raises when there is none.
        listen, unlisten: add and remove a listener of a partition (run on the loop).
        max_bytes: largest push.
    """

    def __init__(
        self,
        exchange: Exchange,
        find: Callable[[bytes, int], HostedPartition],
        listen: Callable[[HostedPartition, Callable[[HostedPartition], None]], None],
        unlisten: Callable[[HostedPartition, Callable[[HostedPartition], None]], None],
        max_bytes: int,
    ) -> None:
        super().__init__(exchange, max_bytes)
        self._find = find
        self._listen = listen
        self._unlisten = unlisten
        self._by_partition: dict[HostedPartition, tuple[FetchSubscription, ...]] = {}

    def run(self) -> None:
        """Reads to the end of the stream, then lets go of every partition."""
        try:
            while (received := self._exchange.receive()) is not None:
                self._take(codec.decode(received[0], FetchRequest))
        finally:
            for partition in list(self._by_partition):
                self._unlisten(partition, self.on_news)

    # --- the client's side (the connection's thread) ----------------------------------------------------------------

    def _take(self, request: FetchRequest) -> None:
        if not (request.add or request.remove or request.credit):
            self._refused.append(FetchPart(PING, -1, -1, -1))
        for gone in request.remove:
            self._remove(gone)
        for wanted in request.add:
            self._add(wanted)
        self._take_credit(request.credit)
        self._push()

    def _add(self, wanted: FetchPartition) -> None:
        try:
            self._check_new(wanted.subscription)
            partition = self._find(wanted.topic_id, wanted.partition)
            if wanted.leader_epoch > partition.replica.leader_epoch:
                raise FencedLeaderEpoch(f"the client has seen epoch {wanted.leader_epoch}, a newer leader's")
        except RayQueueError as error:
            part = FetchPart(wanted.subscription, -1, -1, -1, error=type(error).__name__, message=str(error))
            self._refused.append(part)
            return
        subscription = FetchSubscription(wanted.subscription, partition, wanted.offset, mapped=wanted.mapped)
        self._subscriptions[subscription.id] = subscription
        others = self._by_partition.get(partition, ())
        self._by_partition[partition] = (*others, subscription)
        if not others:
            self._listen(partition, self.on_news)
        self._tell(subscription)

    def _remove(self, gone: int) -> None:
        subscription = self._subscriptions.pop(gone, None)
        if subscription is None:
            return
        subscription.ended = True
        partition = subscription.partition
        rest = tuple(s for s in self._by_partition.get(partition, ()) if s is not subscription)
        if rest:
            self._by_partition[partition] = rest
        else:
            self._by_partition.pop(partition, None)
            self._unlisten(partition, self.on_news)

    # --- news (any thread) ------------------------------------------------------------------------------------------

    def on_news(self, partition: HostedPartition) -> None:
        """The partition's high watermark, log start or leadership has changed. Runs on the loop."""
        few = True
        for subscription in self._by_partition.get(partition, ()):
            self._tell(subscription)
            few = few and (subscription.mapped or partition.high_watermark - subscription.offset <= FEW_RECORDS)
        self._push_soon(few)

    # --- pushing (any thread, one at a time) ------------------------------------------------------------------------

    def _encode(self, parts: list[FetchPart]) -> bytes:
        return codec.encode(FetchResponse(parts))

    def _part(self, subscription: FetchSubscription, max_bytes: int) -> tuple[FetchPart | None, pa.Buffer | None]:
        partition = subscription.partition
        try:
            if partition.closed:
                raise _closed(partition)
            if not partition.leading:
                _check_follower(subscription)
            high_watermark = partition.high_watermark
            start, epoch = partition.log.log_start_offset, partition.replica.leader_epoch
            news = (high_watermark, start, epoch, partition.log.generation)
            part = FetchPart(subscription.id, high_watermark, start, epoch)
            if subscription.mapped:
                part.path, part.generation = str(partition.directory), partition.log.generation
                found = None
            else:
                if subscription.offset > high_watermark:  # waits for it to be committed, unless there is no such offset
                    partition.log.read(subscription.offset, 1, high_watermark)
                found = self._read(subscription, high_watermark, max_bytes)
            if found is None and news == subscription.told:
                return None, None
            subscription.told = news
            if found is None:
                return part, None
            part.entries, row = found
            return part, row
        except RayQueueError as error:
            return self._ended(subscription, error), None
        except Exception as error:
            # A fault of ours with one partition: its reader is told, and the others go on.
            log.exception("%s-%d cannot be pushed", partition.topic, partition.partition)
            return self._ended(subscription, StorageError(f"{type(error).__name__}: {error}")), None

    def _ended(self, subscription: FetchSubscription, error: RayQueueError) -> FetchPart:
        # The reader's thread owns the tables; it forgets the subscription when the client removes it, or at the end.
        subscription.ended = True
        partition = subscription.partition
        start = partition.log.log_start_offset
        return FetchPart(
            subscription.id,
            partition.high_watermark,
            start,
            partition.replica.leader_epoch,
            error=type(error).__name__,
            message=str(error),
        )


def _check_follower(subscription: FetchSubscription) -> None:
    """Raises NotLeaderOrFollower where only the leader can serve a subscription."""
    partition = subscription.partition
    name = f"{partition.topic}-{partition.partition}"
    if not subscription.mapped or not partition.replica.follows_in_sync:
        raise NotLeaderOrFollower(f"{name} is led by another replica")
    if not subscription.told and subscription.offset > partition.log.log_end_offset:
        raise NotLeaderOrFollower(f"a follower of {name} cannot tell whether there is an offset {subscription.offset}")


def _closed(partition: HostedPartition) -> RayQueueError:
    return from_wire(partition.closed, f"{partition.topic}-{partition.partition} is not served here any more")
