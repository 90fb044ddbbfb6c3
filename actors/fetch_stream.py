"""The fetch exchange: pushes a partition's batches, as they stand in the segment, while the client has credit.

Whoever brings news of a subscription (its partition's high watermark moved, credit came, it is new) pushes what there
is, one at a time: who finds somebody at it leaves the news to them. So a consumer that waits hears of a record from the
very thread that wrote it. Only what is large, or what the connection does not take at once, is left to the exchange's
own thread; and while the connection takes nothing, news are not even gathered: later ones replace them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from rayqueue.actors.exchange import Exchange
from rayqueue.errors import FencedLeaderEpoch, ProtocolError, RayQueueError, StorageError, from_wire
from rayqueue.protocol import codec
from rayqueue.protocol.messages import FetchPart, FetchPartition, FetchRequest, FetchResponse

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024  # parts below this travel together: joining them costs less than a message each
MAX_PARTS = 256
FEW_RECORDS = 64  # the loop pushes so many itself; more may be large, and it has other work
MAX_SUBSCRIPTIONS = 100_000


@dataclass(eq=False)
class Subscription:
    """What a client reads of one partition.

    Attributes:
        offset: the next to send. told: the (high watermark, log start, epoch, generation) last told.
        queued: whether it stands in the session's ready queue (told once, however much happens).
    """

    id: int
    partition: HostedPartition
    offset: int
    mapped: bool
    told: tuple[int, int, int, int] = (-1, -1, -1, -1)
    queued: bool = False
    ended: bool = False


class FetchStream:
    """One client's fetch exchange.

    Args:
        exchange: the stream.
        find: the partition that leads here by id and number; raises when there is none.
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
        self._exchange = exchange
        self._find = find
        self._listen = listen
        self._unlisten = unlisten
        self._max_bytes = max_bytes
        self._subscriptions: dict[int, Subscription] = {}
        self._by_partition: dict[HostedPartition, tuple[Subscription, ...]] = {}
        self._ready: deque[Subscription] = deque()
        self._starved: list[Subscription] = []  # have data, lack credit; belongs to who pushes
        self._refused: deque[FetchPart] = deque()
        self._credit = 0
        self._credit_lock = threading.Lock()
        self._pushing = threading.Lock()
        exchange.on_idle = self._push

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
        if request.credit < 0:
            raise ProtocolError("credit is a number of bytes, not negative")
        for gone in request.remove:
            self._remove(gone)
        for wanted in request.add:
            self._add(wanted)
        if request.credit:
            with self._credit_lock:
                self._credit += request.credit
        self._push()

    def _add(self, wanted: FetchPartition) -> None:
        try:
            if len(self._subscriptions) >= MAX_SUBSCRIPTIONS or wanted.subscription in self._subscriptions:
                raise ProtocolError(f"subscription {wanted.subscription} is taken, or there are too many")
            partition = self._find(wanted.topic_id, wanted.partition)
            if wanted.leader_epoch > partition.replica.leader_epoch:
                raise FencedLeaderEpoch(f"the client has seen epoch {wanted.leader_epoch}, a newer leader's")
        except RayQueueError as error:
            part = FetchPart(wanted.subscription, -1, -1, -1, error=type(error).__name__, message=str(error))
            self._refused.append(part)
            return
        subscription = Subscription(wanted.subscription, partition, wanted.offset, wanted.mapped)
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
        if few:
            self._push(SMALL_BYTES)
        elif self._exchange.idle:  # else it pushes when it is
            self._exchange.wake()

    def _tell(self, subscription: Subscription) -> None:
        # The news is visible before `queued` is looked at, and who pushes clears `queued` before it looks at the
        # news: whoever comes last, the news is seen.
        if not subscription.queued:
            subscription.queued = True
            self._ready.append(subscription)

    # --- pushing (any thread, one at a time) ------------------------------------------------------------------------

    def _push(self, once: int = 0) -> None:
        """Sends what there is while the connection takes it at once; the exchange calls again when it does.

        Args:
            once: one message of so many bytes at most, the rest is left to the exchange's thread; 0: all there is.
        """
        exchange = self._exchange
        while self._has_news() and exchange.idle:
            if not self._pushing.acquire(blocking=False):
                return  # whoever is at it looks once more after leaving
            try:
                self._feed_starved()
                while (self._ready or self._refused) and exchange.idle:
                    parts, rows = self._gather(once or self._max_bytes)
                    if parts:
                        exchange.send(codec.encode(FetchResponse(parts)), rows)
                    if once:
                        break
            finally:
                self._pushing.release()
            if once:
                if self._has_news():
                    exchange.wake()
                return

    def _has_news(self) -> bool:
        return bool(self._ready or self._refused or (self._starved and self._credit > 0))

    def _feed_starved(self) -> None:
        if self._starved and self._credit > 0:
            starved, self._starved = self._starved, []
            for subscription in starved:
                if not subscription.queued:
                    subscription.queued = True
                    self._ready.append(subscription)

    def _gather(self, max_bytes: int) -> tuple[list[FetchPart], list[pa.Buffer]]:
        """Parts for one message: many small ones, or a large one alone, which then is not copied.

        A message's rows stand beside its first parts, so parts without data come last.
        """
        data_parts: list[FetchPart] = []
        rows: list[pa.Buffer] = []
        plain_parts: list[FetchPart] = []
        size = 0
        while self._refused:
            plain_parts.append(self._refused.popleft())
        while self._ready and size < SMALL_BYTES and len(data_parts) + len(plain_parts) < MAX_PARTS:
            subscription = self._ready.popleft()
            subscription.queued = False
            if subscription.ended:
                continue
            part, row = self._part(subscription, min(SMALL_BYTES, max_bytes) if rows else max_bytes)
            if row is not None and part is not None:
                data_parts.append(part)
                rows.append(row)
                size += row.size
            elif part is not None:
                plain_parts.append(part)
        return data_parts + plain_parts, rows

    def _part(self, subscription: Subscription, max_bytes: int) -> tuple[FetchPart | None, pa.Buffer | None]:
        partition = subscription.partition
        try:
            if partition.closed:
                raise _closed(partition)
            high_watermark = partition.high_watermark
            start, epoch = partition.log.log_start_offset, partition.replica.leader_epoch
            news = (high_watermark, start, epoch, partition.log.generation)
            part = FetchPart(subscription.id, high_watermark, start, epoch)
            if subscription.mapped:
                part.path, part.generation = str(partition.directory), partition.log.generation
                row = None
            else:
                row = self._read(subscription, part, max_bytes)
            if row is None and news == subscription.told:
                return None, None
            subscription.told = news
            return part, row
        except RayQueueError as error:
            return self._ended(subscription, error), None
        except Exception as error:
            # A fault of ours with one partition: its reader is told, and the others go on.
            log.exception("%s-%d cannot be pushed", partition.topic, partition.partition)
            return self._ended(subscription, StorageError(f"{type(error).__name__}: {error}")), None

    def _read(self, subscription: Subscription, part: FetchPart, max_bytes: int) -> pa.Buffer | None:
        partition = subscription.partition
        if subscription.offset == part.high_watermark:
            return None
        if self._credit <= 0:
            self._starved.append(subscription)
            return None
        found = partition.log.read(subscription.offset, min(max_bytes, self._credit), part.high_watermark)
        if found is None:
            return None
        part.entries = found.entries.tobytes()
        subscription.offset = found.next_offset
        with self._credit_lock:
            self._credit -= found.data.size
        if found.next_offset < part.high_watermark and not subscription.queued:
            subscription.queued = True
            self._ready.append(subscription)
        return found.data

    def _ended(self, subscription: Subscription, error: RayQueueError) -> FetchPart:
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


def _closed(partition: HostedPartition) -> RayQueueError:
    return from_wire(partition.closed, f"{partition.topic}-{partition.partition} is not served here any more")
