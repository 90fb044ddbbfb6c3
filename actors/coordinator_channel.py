"""Requests to the active coordinator, whichever that is: over connections that are kept, to the one that answers."""

from __future__ import annotations

import threading
import time
from typing import TypeVar

from rayqueue.actors.coordinator_addresses import Address, CoordinatorAddresses
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.errors import BrokerNotAvailable, NotController, RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, DataCall, Hello

T = TypeVar("T")

OPEN_TIMEOUT_S = 1.0  # a coordinator that lives says welcome at once
ROUND_S = 0.05  # between two rounds over all addresses
LOOK_S = 0.2  # how often a call that waits looks whether another coordinator is active meanwhile


def open_exchange(
    address: Address, kind: str, cluster_id: str, token: str | None, timeout_s: float = OPEN_TIMEOUT_S
) -> Exchange:
    """A connection to a coordinator of this cluster.

    Raises:
        BrokerNotAvailable: nobody is there. RequestTimeout: it hangs. ClusterMismatch, AuthenticationError.
    """
    hello = Hello(PROTOCOL_VERSION, kind, cluster_id)
    return DataChannel(*address, token, timeout_s).exchange(hello, timeout_s)


class CoordinatorChannel:
    """Safe for many threads; each call under way has a connection of its own.

    Args:
        addresses: where to try. cluster_id, token: whose coordinator it has to be.
    """

    def __init__(self, addresses: CoordinatorAddresses, cluster_id: str, token: str | None) -> None:
        self._addresses = addresses
        self._cluster_id = cluster_id
        self._token = token
        self._lock = threading.Lock()
        self._idle: dict[Address, list[Exchange]] = {}
        self._used: set[Exchange] = set()
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"CoordinatorChannel({self._addresses})"

    def call(self, action: str, request: object, reply: type[T], timeout_s: float) -> T:
        """One request, one reply. Coordinators are tried in turn until one takes the request.

        Raises:
            BrokerNotAvailable: none takes it; or the connection broke after it was sent: it may have been done or not.
            RequestTimeout: no answer came in time; it may have been done or not.
            RayQueueError: what the coordinator replied with.
        """
        deadline = time.monotonic() + timeout_s
        message = codec.encode(DataCall(action, codec.encode(request)))
        while True:
            refused: list[RayQueueError] = []
            for address in self._addresses.candidates():
                try:
                    exchange = self._take(address)
                except RayQueueError as error:
                    self._failed(address, error, refused)
                    continue
                try:
                    return self._ask(address, exchange, message, reply, deadline)
                except NotController as error:
                    self._failed(address, error, refused)
            last = next((error for error in refused if error.retriable), refused[0])
            if not last.retriable or time.monotonic() + ROUND_S >= deadline:
                raise last
            if self._closed.wait(ROUND_S):
                raise BrokerNotAvailable("this process stops")

    def close(self) -> None:
        """Ends all connections; calls that wait fail."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, {}
            for exchange in self._used:
                exchange.abort()  # closed by who uses it
        for exchange in [one for kept in idle.values() for one in kept]:
            exchange.close()

    def _failed(self, address: Address, error: RayQueueError, refused: list[RayQueueError]) -> None:
        self._addresses.failed(address)
        refused.append(error)
        if self._closed.is_set():
            raise BrokerNotAvailable("this process stops") from error

    def _ask(self, address: Address, exchange: Exchange, message: bytes, reply: type[T], deadline: float) -> T:
        answer = None
        try:
            exchange.send(message)
            answer = self._answer(address, exchange, deadline)
        finally:
            self._give_back(address, exchange, sound=answer is not None)
        value = codec.decode_reply(answer, reply)
        self._addresses.good(address)
        return value

    def _answer(self, address: Address, exchange: Exchange, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            try:
                return exchange.receive_within(max(0.001, min(left, LOOK_S)))
            except RequestTimeout:
                if left <= LOOK_S:
                    raise
                if self._addresses.active not in (address, None):
                    # The metadata log comes from another one by now: this one hangs, or is cut off.
                    raise BrokerNotAvailable(
                        f"the coordinator at {address[0]}:{address[1]} did not answer, and another one is active"
                    ) from None

    # --- connections -------------------------------------------------------------------------------------------------

    def _take(self, address: Address) -> Exchange:
        """A connection for one call: one that was kept, if it still stands."""
        while (kept := self._kept(address)) is not None:
            try:
                if kept.receive_nowait() is None:
                    return self._noted(kept)
            except RayQueueError:
                pass  # it has ended since
            kept.close()
        return self._noted(open_exchange(address, "call", self._cluster_id, self._token))

    def _kept(self, address: Address) -> Exchange | None:
        with self._lock:
            idle = self._idle.get(address)
            return idle.pop() if idle else None

    def _noted(self, exchange: Exchange) -> Exchange:
        with self._lock:
            if not self._closed.is_set():
                self._used.add(exchange)
                return exchange
        exchange.close()
        raise BrokerNotAvailable("this process stops")

    def _give_back(self, address: Address, exchange: Exchange, sound: bool) -> None:
        with self._lock:
            self._used.discard(exchange)
            if sound and not self._closed.is_set():
                self._idle.setdefault(address, []).append(exchange)
                return
        exchange.close()
