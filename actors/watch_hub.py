"""Sends the committed part of the metadata log to everybody who follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import MetadataBatch, WatchRequest

KEEPALIVE_S = 0.5
BATCH_RECORDS_MAX = 2_000


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
        self._end = 0
        self._epoch = -1
        self._closed = False

    def open(self, records: list[bytes], end: int, epoch: int) -> None:
        """Begins to serve, or serves the log of a coordinator that has recovered; older streams end.

        Args:
            records: the log, growing at its end while it is served. end: those below it are committed.
        """
        with self._changed:
            self._records, self._end, self._epoch = records, end, epoch
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
            end = min(self._end, index + BATCH_RECORDS_MAX)
            return MetadataBatch(index, end, epoch, self._records[index:end])
