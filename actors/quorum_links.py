"""Connections between the copies of the metadata log: each sends to every other one over a connection of its own.

What cannot be sent is dropped: the quorum's machine is made for a network that loses messages. A connection that breaks
is news, though (`PeerLost`): when a process ends, its peers know at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from rayqueue.actors.exchange import Exchange as ServerExchange
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.coordination.quorum.events import PeerLost
from rayqueue.coordination.quorum.messages import AnyMessage, Voter, decode_message, encode
from rayqueue.errors import RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello

log = logging.getLogger(__name__)

KIND = "quorum"
OPEN_TIMEOUT_S = 1.0
RETRY_S = 0.05
RETRY_MAX_S = 0.5
UNSENT_MAX = 256  # messages; of more, the oldest are dropped
JOIN_TIMEOUT_S = 2.0

Address = tuple[str, int]


class QuorumHello(msgspec.Struct, array_like=True):
    """First message on a connection: who speaks."""

    sender: Voter


class QuorumLink:
    """Sends to one other copy; connects when there is something to send, and again after a break.

    Args:
        me, peer: the two copies.
        cluster_id, token: the cluster's.
        address: where the peer listens; None: not known at present.
        lost: called, on the link's thread, when the connection broke.
    """

    def __init__(
        self,
        me: Voter,
        peer: Voter,
        cluster_id: str,
        token: str | None,
        address: Callable[[], Address | None],
        lost: Callable[[PeerLost], None],
    ) -> None:
        self._me, self._peer = me, peer
        self._cluster_id, self._token = cluster_id, token
        self._address, self._lost = address, lost
        self._changed = threading.Condition()
        self._unsent: deque[AnyMessage] = deque(maxlen=UNSENT_MAX)
        self._exchange: Exchange | None = None
        self._connected: Address | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"quorum-link-{peer.broker_id}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"QuorumLink(to {self._peer})"

    def send(self, message: AnyMessage) -> None:
        """Sends soon, or never; does not wait."""
        with self._changed:
            self._unsent.append(message)
            self._changed.notify()

    def stop(self) -> None:
        """Sends nothing more."""
        with self._changed:
            self._stopping = True
            exchange = self._exchange
            self._changed.notify()
        if exchange is not None:
            exchange.close()

    def join(self) -> None:
        """Waits until the link's thread has ended; after `stop`."""
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        attempt = 0
        while self._wait_for_work():
            try:
                exchange = self._connect()
            except RayQueueError as error:
                log.debug("%r: %s", self, error)
                attempt += 1
                self._pause(min(RETRY_MAX_S, RETRY_S * 2**attempt))
                continue
            attempt = 0
            self._send_all(exchange)

    def _wait_for_work(self) -> bool:
        """Until there is something to send; False: the link is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._unsent)
            return not self._stopping

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)
            self._unsent.clear()  # who listens again is told anew

    def _connect(self) -> Exchange:
        address = self._address()
        if address is None:
            raise RayQueueError("no address is known")
        hello = Hello(PROTOCOL_VERSION, KIND, self._cluster_id, self._peer.broker_id, "", f"coordinator {self._me}")
        exchange = DataChannel(*address, self._token, OPEN_TIMEOUT_S).exchange(hello, OPEN_TIMEOUT_S)
        exchange.send(codec.encode(QuorumHello(self._me)))
        self._connected = address
        with self._changed:
            self._exchange = exchange
            if self._stopping:
                exchange.close()
        threading.Thread(target=self._listen, args=(exchange,), name="quorum-listen", daemon=True).start()
        return exchange

    def _listen(self, exchange: Exchange) -> None:
        """Nothing is ever said here but the end."""
        try:
            exchange.receive()
        except RayQueueError as error:
            log.debug("%r ended: %s", self, error)
        with self._changed:
            current = self._exchange is exchange
            if current:
                self._exchange = None
                self._unsent.clear()
            stopping = self._stopping
            self._changed.notify()
        exchange.close()
        if current and not stopping:
            self._lost(PeerLost(self._peer))

    def _send_all(self, exchange: Exchange) -> None:
        """Until the connection breaks or the link stops."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._unsent or self._exchange is not exchange)
                if self._stopping or self._exchange is not exchange:
                    return
                message = self._unsent.popleft()
            if self._address() != self._connected:  # it has moved, and nobody has told this connection
                exchange.close()
                continue
            try:
                exchange.send(encode(message))
            except RayQueueError as error:
                log.debug("%r broke: %s", self, error)
                exchange.close()  # the listener says so


class QuorumLinks:
    """Links to all other copies, made when they are first needed. See QuorumLink.

    address: where a copy listens, if that is known.
    """

    def __init__(
        self,
        me: Voter,
        cluster_id: str,
        token: str | None,
        address: Callable[[Voter], Address | None],
        lost: Callable[[PeerLost], None],
    ) -> None:
        self._me = me
        self._cluster_id, self._token = cluster_id, token
        self._address, self._lost = address, lost
        self._links: dict[Voter, QuorumLink] = {}

    def send(self, message: AnyMessage) -> None:
        """Sends a message to `message.to`."""
        peer = message.to
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = QuorumLink(
                self._me, peer, self._cluster_id, self._token, lambda: self._address(peer), self._lost
            )
        link.send(message)

    def keep(self, peers: set[Voter]) -> None:
        """Ends the links to all others."""
        for peer in [peer for peer in self._links if peer not in peers]:
            self._links.pop(peer).stop()

    def stop(self) -> None:
        """Ends all links."""
        for link in self._links.values():
            link.stop()
        for link in self._links.values():
            link.join()
        self._links.clear()


def serve_quorum(exchange: ServerExchange, receive: Callable[[AnyMessage], None]) -> None:
    """The receiving end of a link: hands over messages until the sender hangs up.

    Raises:
        ProtocolError: it says what no copy would.
    """
    first = exchange.receive()
    if first is None:
        return
    sender = codec.decode(first[0], QuorumHello).sender
    while (received := exchange.receive()) is not None:
        message = decode_message(received[0])
        if message.sender == sender:  # else it speaks for somebody else, which no copy does
            receive(message)
