"""Sends the committed part of the metadata log to everybody who follows it, whole commands at a time.

A command is never cut in two: who had replayed half of one would see a topic with some of its partitions, and route
keys by that number; a replica actor would find its registration without the leader epochs that came with it, and lead
under those of its predecessor.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator

from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import MetadataBatch, WatchRequest

# A stream whose watcher was killed is noticed when something is sent on it.
KEEPALIVE_S = 0.15
BATCH_RECORDS_MAX = 2_000  # unless a single command has more: creating a topic of many partitions, a registration


class WatchHub:
    """The committed records, and the streams that wait for more. Safe for many threads.

    Args:
        started, ended: told the watcher's incarnation and the coordinator epoch when a stream of it begins and ends.
    """

    def __init__(self, started: Callable[[str, int], None], ended: Callable[[str, int], None]) -> None:
        self._started = started
        self._ended = ended
        self._changed = threading.Condition()
        self._records: list[bytes] = []
        self._command_ends: list[int] = []
        self._end = 0
        self._epoch = -1
        self._closed = False

    def open(self, records: list[bytes], command_ends: list[int], end: int, epoch: int) -> None:
        """Begins to serve, or serves the log of a coordinator that has recovered; older streams end.

        Args:
            records: the log, growing at its end while it is served.
            command_ends: the index after each command's last record, ascending; grows with `records`.
            end: records below it are committed. Invariant: it is 0 or stands in `command_ends`.
        """
        with self._changed:
            self._records, self._command_ends, self._end, self._epoch = records, command_ends, end, epoch
            self._changed.notify_all()

    def publish(self, end: int) -> None:
        """Records below `end` are committed."""
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all streams."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def watch(self, request: WatchRequest) -> Iterator[MetadataBatch]:
        """The log from an index on, first what is there (maybe nothing), then what comes, with keepalives between.

        A watcher that is ahead of the log (it followed one that is lost) is sent the log from its start.

        Raises:
            BrokerNotAvailable: the coordinator stops, or has recovered: come again.
        """
        with self._changed:
            epoch = self._epoch
            index = request.index if 0 <= request.index <= self._end else 0
        self._started(request.watcher, epoch)
        try:
            first = True
            while True:
                batch = self._next(index, epoch, first)
                first = False
                index = batch.end
                yield batch
        finally:
            self._ended(request.watcher, epoch)

    def _next(self, index: int, epoch: int, first: bool) -> MetadataBatch:
        with self._changed:
            if not first:
                self._changed.wait_for(lambda: self._closed or self._epoch != epoch or self._end > index, KEEPALIVE_S)
            if self._closed or self._epoch != epoch or epoch < 0:
                raise BrokerNotAvailable("the coordinator starts anew: come again")
            end = self._batch_end(index)
            return MetadataBatch(index, end, epoch, self._records[index:end])

    def _batch_end(self, index: int) -> int:
        """Up to where to send from `index` on: as many whole commands as a batch takes, but one at least."""
        if self._end - index <= BATCH_RECORDS_MAX:
            return self._end
        ends = self._command_ends
        return ends[max(bisect_right(ends, index), bisect_right(ends, index + BATCH_RECORDS_MAX) - 1)]
