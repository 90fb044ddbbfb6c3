"""Pushing news of partitions over an exchange while its reader has credit: what consumers and followers share.

Whoever brings news of a subscription (its partition has grown, credit came, it is new) pushes what there is, one at a
time: who finds somebody at it leaves the news to them. So a reader that waits hears of a record from the very thread
that wrote it. Only what is large, or what the connection does not take at once, is left to the exchange's own thread;
and while the connection takes nothing, news are not even gathered: later ones replace them.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa

from rayqueue.actors.exchange import Exchange
from rayqueue.errors import ProtocolError
from rayqueue.storage.reader import LogSlice

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

SMALL_BYTES = 64 * 1024  # parts below this travel together: joining them costs less than a message each
MAX_PARTS = 256
FEW_RECORDS = 64  # the loop pushes so many itself; more may be large, and it has other work
MAX_SUBSCRIPTIONS = 100_000


@dataclass(eq=False)
class Subscription:
    """What a reader wants of one partition.

    Attributes:
        offset: the next to send. told: what else was last told, to be compared with.
        queued: whether it stands in the stream's ready queue (told once, however much happens).
    """

    id: int
    partition: HostedPartition
    offset: int
    told: tuple[int, ...] = ()
    queued: bool = False
    ended: bool = False


S = TypeVar("S", bound=Subscription)


class PushStream(ABC, Generic[S]):
    """The pushing half of an exchange.

    Args:
        exchange: the stream.
        max_bytes: largest push.
    """

    def __init__(self, exchange: Exchange, max_bytes: int) -> None:
        self._exchange = exchange
        self._max_bytes = max_bytes
        self._ready: deque[S] = deque()
        self._starved: list[S] = []  # have data, lack credit; belongs to who pushes
        self._refused: deque[Any] = deque()  # parts without data, first to be sent
        self._subscriptions: dict[int, S] = {}  # by the reader's number; belongs to the connection's thread
        self._credit = 0
        self._credit_lock = threading.Lock()
        self._pushing = threading.Lock()
        exchange.on_idle = self._push

    @abstractmethod
    def _part(self, subscription: S, max_bytes: int) -> tuple[Any | None, pa.Buffer | None]:
        """The news of a subscription and its data; (None, None) when there is none."""

    @abstractmethod
    def _encode(self, parts: list[Any]) -> bytes:
        """A message of parts."""

    def _check_new(self, number: int) -> None:
        """Raises ProtocolError unless the reader may begin a subscription of this number."""
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS or number in self._subscriptions:
            raise ProtocolError(f"subscription {number} is taken, or there are too many")

    def _take_credit(self, credit: int) -> None:
        """What the reader gives. Raises ProtocolError when it takes some away."""
        if credit < 0:
            raise ProtocolError("credit is a number of bytes, not negative")
        if credit:
            self._add_credit(credit)

    def _add_credit(self, credit: int) -> None:
        with self._credit_lock:
            self._credit += credit

    def _tell(self, subscription: S) -> None:
        # The news is visible before `queued` is looked at, and who pushes clears `queued` before it looks at the
        # news: whoever comes last, the news is seen.
        if not subscription.queued:
            subscription.queued = True
            self._ready.append(subscription)

    def _push_soon(self, few: bool) -> None:
        """Pushes what is little; what may be much is left to the exchange's thread."""
        if few:
            self._push(SMALL_BYTES)
        elif self._exchange.idle:  # else it pushes when it is
            self._exchange.wake()

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
                        exchange.send(self._encode(parts), rows)
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
                self._tell(subscription)

    def _gather(self, max_bytes: int) -> tuple[list[Any], list[pa.Buffer]]:
        """Parts for one message: many small ones, or a large one alone, which then is not copied.

        A message's rows stand beside its first parts, so parts without data come last.
        """
        data_parts: list[Any] = []
        rows: list[pa.Buffer] = []
        plain_parts: list[Any] = []
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

    def _slice(self, subscription: S, max_bytes: int, limit: int) -> LogSlice | None:
        return subscription.partition.log.read(subscription.offset, max_bytes, limit)

    def _read(self, subscription: S, limit: int, max_bytes: int) -> tuple[bytes, pa.Buffer] | None:
        """Index entries and data of the next batches below `limit`, as far as there is credit."""
        if subscription.offset >= limit:
            return None
        if self._credit <= 0:
            self._starved.append(subscription)
            return None
        found = self._slice(subscription, min(max_bytes, self._credit), limit)
        if found is None:
            return None
        subscription.offset = found.next_offset
        with self._credit_lock:
            self._credit -= found.data.size
        if found.next_offset < limit:
            self._tell(subscription)
        return found.entries.tobytes(), found.data
