"""Sends the committed part of the metadata log to everybody who follows it, and knows by their beats who lives.

A stream is a session, in both directions: the watcher says something at least every BEAT_INTERVAL_MS, and is sent
something as often. Who says nothing for SESSION_TIMEOUT_MS hangs, or is cut off, and its stream is ended, as that of a
process whose connection breaks is at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rayqueue.actors.exchange import Exchange
from rayqueue.actors.published_log import PublishedLog
from rayqueue.errors import NotController
from rayqueue.protocol import codec
from rayqueue.protocol.messages import BEAT_INTERVAL_MS, SESSION_TIMEOUT_MS, MetadataBatch, WatchBeat, WatchRequest

log = logging.getLogger(__name__)


class _Stream:
    """One watcher's exchange. The hub's thread sends, the connection's own receives."""

    def __init__(self, exchange: Exchange, watcher: str, epoch: int, index: int) -> None:
        self.exchange = exchange
        self.watcher = watcher
        self.epoch = epoch
        self.index = index  # of the next record to send
        self.applied = -1
        self.heard_s = time.monotonic()
        self.sent_s = float("-inf")  # so that the first batch is sent at once, also when it is empty


class WatchHub:
    """The committed records, and the streams that wait for more. Safe for many threads.

    Args:
        started, ended: told the watcher's incarnation and the coordinator epoch when a stream of it begins and ends.
        applied: told the watcher, up to which index it has acted on the log, and the coordinator epoch, when that has
            grown.
        stalled: told the coordinator epoch when this process itself stood still for long (it was stopped, or the
            machine was): watchers may have left meanwhile, and are not to blame.
        beat_interval_s, timeout_s: see the module.
    """

    def __init__(
        self,
        started: Callable[[str, int], None],
        ended: Callable[[str, int], None],
        applied: Callable[[str, int, int], None],
        stalled: Callable[[int], None],
        beat_interval_s: float = BEAT_INTERVAL_MS / 1000,
        timeout_s: float = SESSION_TIMEOUT_MS / 1000,
    ) -> None:
        self._started = started
        self._ended = ended
        self._applied = applied
        self._stalled = stalled
        self._beat_interval_s = beat_interval_s
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._dirty = False
        self._streams: list[_Stream] = []
        self._log = PublishedLog([], 0)
        self._end = 0
        self._epoch = -1
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watch-hub", daemon=True)
        self._thread.start()

    # --- the coordinator ---------------------------------------------------------------------------------------------

    def start_from(self, snapshot: list[bytes], index: int) -> None:
        """The log begins with a snapshot of all before `index`; who has followed less begins with it."""
        with self._changed:
            self._log = PublishedLog(snapshot, index)
            self._wake()

    def append(self, records: list[bytes]) -> None:
        """A command has been committed; sent once it is published."""
        self._log.append(records)

    def serve_epoch(self, end: int, epoch: int) -> None:
        """Begins to serve: the coordinator is active in this epoch, with all records below `end`."""
        with self._changed:
            self._end, self._epoch = end, epoch
            self._wake()

    def stop_serving(self) -> None:
        """The coordinator is not active: all streams end, and nobody is served."""
        with self._changed:
            self._epoch = -1
            self._wake()

    def publish(self, end: int) -> None:
        """Records below `end` are committed."""
        with self._changed:
            self._end = end
            self._wake()

    def close(self) -> None:
        """Ends all streams."""
        with self._changed:
            self._closed = True
            self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._dirty = True
        self._changed.notify_all()

    # --- a stream (its connection's thread) --------------------------------------------------------------------------

    def serve(self, exchange: Exchange) -> None:
        """An exchange of kind "watch", until it ends: the log from an index on, first what is there (maybe nothing),
        then what comes. A watcher that is ahead of the log (it followed one that is lost) is sent it from its start.

        Raises:
            NotController: this coordinator is not active. ProtocolError: that is no request, or no beat.
        """
        received = exchange.receive()
        if received is None:
            return
        stream = self._begin(exchange, codec.decode(received[0], WatchRequest))
        try:
            while (received := exchange.receive()) is not None:
                applied = codec.decode(received[0], WatchBeat).applied
                stream.heard_s = time.monotonic()
                if applied > stream.applied:
                    stream.applied = applied
                    self._applied(stream.watcher, applied, stream.epoch)
        finally:
            with self._changed:
                self._streams.remove(stream)
            self._ended(stream.watcher, stream.epoch)

    def _begin(self, exchange: Exchange, request: WatchRequest) -> _Stream:
        with self._changed:
            if self._closed or self._epoch < 0:
                raise NotController("this coordinator is not active: ask another one, or come again")
            index = self._log.first_for(request.index)
            stream = _Stream(exchange, request.watcher, self._epoch, index)
            # Told before anything is sent: whoever has been sent something counts as there.
            self._started(stream.watcher, stream.epoch)
            exchange.on_idle = self._idle
            self._streams.append(stream)
            self._wake()
        return stream

    def _idle(self) -> None:
        """What a stream's connection did not take at once has been written: there may be more for it."""
        with self._changed:
            self._wake()

    # --- the hub's thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty, max(0.0, due_s - time.monotonic()))
                self._dirty = False
                closed, streams = self._closed, list(self._streams)
                log_ = _Batches(self._log, self._end, self._epoch)
            now_s = time.monotonic()
            if now_s - due_s > self._timeout_s / 2:
                self._stalled(log_.epoch)
                for stream in streams:
                    stream.heard_s = now_s  # what they said meanwhile is still to be read
            due_s = min((self._look(stream, log_, now_s) for stream in streams), default=now_s + self._beat_interval_s)
            if closed:
                return

    def _look(self, stream: _Stream, log_: _Batches, now_s: float) -> float:
        """Sends a watcher what is due, or ends its stream; gives when to look again, whatever else happens."""
        if stream.epoch != log_.epoch or self._closed:
            stream.exchange.abort()  # its thread ends it
        elif now_s - stream.heard_s > self._timeout_s:
            log.warning("process %s says nothing: its stream of the metadata log is ended", stream.watcher)
            stream.exchange.abort()
        # What was sent before must have been written: so one batch at most waits for a watcher that does not read.
        elif stream.exchange.idle and (stream.index < log_.end or now_s >= stream.sent_s + self._beat_interval_s):
            message, stream.index = log_.batch(stream.index)
            stream.exchange.send(message)
            stream.sent_s = now_s
            if stream.index < log_.end:
                return now_s
        return now_s + self._beat_interval_s


class _Batches:
    """What is committed at the moment, as it is sent: most watchers are at the same index."""

    def __init__(self, published: PublishedLog, end: int, epoch: int) -> None:
        self.end = end
        self.epoch = epoch
        self._log = published
        self._batches: dict[int, tuple[bytes, int]] = {}  # by their first index, with the next one

    def batch(self, index: int) -> tuple[bytes, int]:
        """The batch from an index on, and the index after it."""
        if index not in self._batches:
            records, end = self._log.batch(index, self.end)
            first = index if index >= self._log.base else 0
            self._batches[index] = codec.encode(MetadataBatch(first, end, self.epoch, records)), end
        return self._batches[index]
