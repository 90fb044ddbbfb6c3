"""A process's beats on its stream of the metadata log: it lives, and has acted on so much of it.

They have a thread of their own, so that a process whose follower opens a thousand logs does not count as dead.
"""

from __future__ import annotations

import logging
import threading

from rayqueue.client.data_channel import Exchange
from rayqueue.errors import RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import WatchBeat

log = logging.getLogger(__name__)


class Beats:
    """See the module. One stream at a time, `begin` to `end`.

    Args:
        interval_s: between two beats at most.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._exchange: Exchange | None = None
        self._applied = 0
        self._due = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="metadata-beats", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def begin(self, exchange: Exchange) -> None:
        """This stream is open; the first beat is sent at once."""
        with self._changed:
            self._exchange = exchange
            self._wake()

    def applied(self, index: int) -> None:
        """All below `index` has been acted on; said at once."""
        with self._changed:
            if index != self._applied:
                self._applied = index
                self._wake()

    def end(self) -> None:
        """Nothing more is sent on the stream; it may be closed."""
        with self._changed:
            self._exchange = None

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopping = True
            self._wake()
        if self._thread.is_alive():
            self._thread.join()

    def _wake(self) -> None:
        self._due = True
        self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                self._due = False
                if self._exchange is not None:
                    self._send(self._exchange)
                self._changed.wait_for(lambda: self._due, self._interval_s)

    def _send(self, exchange: Exchange) -> None:
        """With the lock held, so that nobody closes it meanwhile; a beat always fits into what the connection takes."""
        try:
            exchange.send(codec.encode(WatchBeat(self._applied)))
        except RayQueueError as error:  # the follower sees the same break
            log.debug("no beat: %s", error)
            self._exchange = None
