"""Which processes a coordinator hears, active or not; so one that becomes active knows who has been silent since when.

Every broker and replica actor says to each coordinator, twice a second, that it lives (`attending`). With a node go its
leaders and perhaps the active coordinator: its successor would have to wait for all of them as long as for those that
live. And it tells everybody that it is active now: nobody has to find that out.
"""

from __future__ import annotations

import threading
import time

from rayqueue.actors.exchange import Exchange
from rayqueue.coordination.sessions import ACTOR_SESSION_MS
from rayqueue.protocol import codec
from rayqueue.protocol.messages import ActiveCoordinator, AttendRequest

# Of whom nothing was heard for so long nothing is known; a restart of the process makes it another one.
FORGET_S = 60.0


class Attendance:
    """See the module. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: dict[Exchange, str] = {}
        self._heard: dict[str, float] = {}  # by incarnation
        self._active: bytes | None = None  # what is said while this coordinator is the active one

    def serve(self, exchange: Exchange) -> None:
        """An exchange of kind "attend", until it ends.

        Raises:
            ProtocolError: that is no request.
        """
        received = exchange.receive()
        if received is None:
            return
        watcher = codec.decode(received[0], AttendRequest).watcher
        with self._lock:
            self._exchanges[exchange] = watcher
            self._heard[watcher] = time.monotonic()
            active = self._active
        if active is not None:
            exchange.send(active)
        try:
            while exchange.receive() is not None:
                with self._lock:
                    self._heard[watcher] = time.monotonic()
        finally:
            with self._lock:
                del self._exchanges[exchange]
                if watcher not in self._exchanges.values():  # a process that has ended, most likely
                    self._heard[watcher] = time.monotonic() - ACTOR_SESSION_MS / 1000

    def announce(self, epoch: int) -> None:
        """This coordinator is the active one: everybody is told, who comes later too."""
        message = codec.encode(ActiveCoordinator(epoch))
        with self._lock:
            self._active = message
            exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.send(message)

    def retire(self) -> None:
        """It is not any more."""
        with self._lock:
            self._active = None

    def silent_ms(self) -> dict[str, int]:
        """By incarnation, for how long nothing has been heard of a process. Empty where nobody was heard lately: then
        it is this process that stood still."""
        now_s = time.monotonic()
        with self._lock:
            self._heard = {one: at_s for one, at_s in self._heard.items() if now_s - at_s < FORGET_S}
            silent = {one: int(1000 * (now_s - at_s)) for one, at_s in self._heard.items()}
        return silent if min(silent.values(), default=ACTOR_SESSION_MS) < ACTOR_SESSION_MS else {}
