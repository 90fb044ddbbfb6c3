"""One fetch exchange: a thread that opens it, reads it to its end, and puts what comes into the inbox."""

from __future__ import annotations

import logging
import threading

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.connection import Exchange
from rayqueue.client.fetching.inbox import Closed, Inbox, Opened, Received
from rayqueue.client.streams import Endpoint
from rayqueue.errors import BrokerNotAvailable, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, FetchRequest, FetchResponse, Hello, Welcome

log = logging.getLogger("rayqueue.consumer")


class FetchStream:
    """An exchange with a replica actor.

    Its thread keeps no reference to the consumer, so a consumer that is forgotten can be collected.
    """

    def __init__(
        self, client: ClusterClient, endpoint: Endpoint, inbox: Inbox, client_id: str, cluster_id: str, timeout_s: float
    ) -> None:
        self.endpoint = endpoint
        self._client = client
        self._inbox = inbox
        self._hello = Hello(PROTOCOL_VERSION, "fetch", cluster_id, endpoint.broker_id, endpoint.incarnation, client_id)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"rayqueue-fetch-{endpoint.port}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            exchange = self._open()
            while True:
                message, rows = exchange.receive()
                self._inbox.put(Received(self, self.endpoint, codec.decode(message, FetchResponse), rows))
        except RayQueueError as error:
            self._end(error)
        except Exception as error:
            log.exception("reading from %s:%d failed", self.endpoint.host, self.endpoint.port)
            self._end(BrokerNotAvailable(f"reading from {self.endpoint.host}:{self.endpoint.port} failed: {error}"))

    def _open(self) -> Exchange:
        channel = self._client.channel(self.endpoint.host, self.endpoint.port)
        exchange = channel.exchange(self._hello, self._timeout_s)
        with self._lock:
            self._exchange = exchange
            closed = self._closed
        if closed:
            exchange.close()
            raise BrokerNotAvailable("the stream was closed while it opened")
        self._inbox.put(Opened(self, self.endpoint, on_this_host(exchange.welcome)))
        return exchange

    def _end(self, error: RayQueueError) -> None:
        with self._lock:
            exchange = self._exchange
        if exchange is not None:
            exchange.close()
        self._inbox.put(Closed(self, self.endpoint, error))

    def send(self, request: FetchRequest) -> None:
        """Sends a request; if the stream is broken, its thread tells."""
        assert self._exchange is not None, "a request follows Opened"
        try:
            self._exchange.send(codec.encode(request))
        except RayQueueError as error:
            log.debug("a fetch request to %s:%d was not sent: %s", self.endpoint.host, self.endpoint.port, error)
            self._exchange.close()

    def close(self) -> None:
        """Ends the stream and, soon after, its thread."""
        with self._lock:
            self._closed = True
            exchange = self._exchange
        if exchange is not None:
            exchange.close()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end."""
        self._thread.join(timeout_s)


def on_this_host(welcome: Welcome) -> bool:
    """Whether the server's data directory can be read here: the nonce file proves it, not a host name."""
    if not welcome.nonce_path or not welcome.nonce:
        return False
    try:
        with open(welcome.nonce_path, encoding="ascii") as file:
            return file.read(len(welcome.nonce) + 1).strip() == welcome.nonce
    except (OSError, ValueError):
        return False
