"""Says to every coordinator, active or not, that this process lives, and hears which of them has become active."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rayqueue.actors.coordinator_addresses import Address, CoordinatorAddresses
from rayqueue.actors.coordinator_channel import open_exchange
from rayqueue.client.data_channel import Exchange
from rayqueue.errors import RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.messages import ActiveCoordinator, AttendRequest, WatchBeat

log = logging.getLogger(__name__)

INTERVAL_S = 0.5
RETRY_S = 0.05
RETRY_MAX_S = 1.0

_BEAT = codec.encode(WatchBeat(0))


class Attending:
    """A thread for each coordinator. See `attendance`.

    Args:
        addresses: where coordinators are, as it changes.
        cluster_id, token: whose they have to be. watcher: our incarnation.
        on_active: told the address and the epoch of one that has become active; must not wait.
    """

    def __init__(
        self,
        addresses: CoordinatorAddresses,
        cluster_id: str,
        token: str | None,
        watcher: str,
        on_active: Callable[[Address, int], None],
    ) -> None:
        self._addresses = addresses
        self._cluster_id = cluster_id
        self._token = token
        self._request = codec.encode(AttendRequest(watcher))
        self._on_active = on_active
        self._lock = threading.Lock()
        self._exchanges: dict[Address, Exchange | None] = {}  # of all that have a thread
        self._stopping = threading.Event()

    def look(self) -> None:
        """Begins with those that are new; the thread of one that is not there any more ends by itself."""
        with self._lock:
            for address in self._addresses.candidates():
                if address not in self._exchanges and not self._stopping.is_set():
                    self._exchanges[address] = None
                    threading.Thread(target=self._run, args=(address,), name="attending", daemon=True).start()

    def stop(self) -> None:
        """Ends all of it, without waiting."""
        self._stopping.set()
        with self._lock:
            for exchange in self._exchanges.values():
                if exchange is not None:
                    exchange.abort()

    def _run(self, address: Address) -> None:
        attempt = 0
        while self._is_wanted(address):
            try:
                exchange = open_exchange(address, "attend", self._cluster_id, self._token)
            except RayQueueError as error:
                log.debug("%s:%d does not hear us: %s", *address, error)
                attempt += 1
            else:
                attempt = 0
                self._attend(address, exchange)
            self._stopping.wait(min(RETRY_MAX_S, RETRY_S * 2 ** min(attempt, 10)))

    def _is_wanted(self, address: Address) -> bool:
        with self._lock:
            wanted = not self._stopping.is_set() and address in self._addresses.candidates()
            if not wanted:
                del self._exchanges[address]
            return wanted

    def _attend(self, address: Address, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges[address] = exchange
        try:
            exchange.send(self._request)
            while not self._stopping.is_set() and address in self._addresses.candidates():
                try:
                    message = exchange.receive_within(INTERVAL_S)
                except RequestTimeout:
                    exchange.send(_BEAT)
                    continue
                self._on_active(address, codec.decode(message, ActiveCoordinator).epoch)
        except RayQueueError as error:
            log.debug("%s:%d does not hear us any more: %s", *address, error)
        finally:
            with self._lock:
                self._exchanges[address] = None
            exchange.close()
