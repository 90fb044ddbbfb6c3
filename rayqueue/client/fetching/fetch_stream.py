"""One fetch exchange: a thread opens it; from then on it is read by whoever waits for records, on their own thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import Exchange
from rayqueue.client.fetching.inbox import Closed, Event, Inbox, Opened, Received
from rayqueue.client.streams import Endpoint
from rayqueue.errors import BrokerNotAvailable, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, FetchRequest, FetchResponse, Hello, Welcome

log = logging.getLogger("rayqueue.consumer")

# Taken in one go, so that the other streams have their turn.
FRAMES_MAX = 64


class FetchStream:
    """An exchange with a replica actor.

    Attributes:
        unread: there may be more of what has come, so it is to be read again before anybody sleeps.

    The thread that opens it keeps no reference to the consumer, so a consumer that is forgotten can be collected.
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
        self.unread = False
        self._decode = codec.decoder(FetchResponse).decode
        self._thread = threading.Thread(target=self._open, name=f"rayqueue-fetch-{endpoint.port}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads: this server is tried again later, the others are read on
            inbox.put(Closed(self, endpoint, self._failed(error)))

    def _open(self) -> None:
        try:
            channel = self._client.data_channel(self.endpoint.host, self.endpoint.port)
            exchange = channel.exchange(self._hello, self._timeout_s)
            local = on_this_host(exchange.welcome)
        except RayQueueError as error:
            self._inbox.put(Closed(self, self.endpoint, error))
            return
        except Exception as error:
            log.exception("opening a stream to %s:%d failed", self.endpoint.host, self.endpoint.port)
            self._inbox.put(Closed(self, self.endpoint, self._failed(error)))
            return
        with self._lock:
            self._exchange = exchange
            closed = self._closed
        if closed:
            exchange.close()
        else:
            self._inbox.put(Opened(self, self.endpoint, local))

    def _failed(self, error: Exception) -> RayQueueError:
        return BrokerNotAvailable(f"reading from {self.endpoint.host}:{self.endpoint.port} failed: {error}")

    def fileno(self) -> int:
        """For `select`; -1 when it is not open."""
        return -1 if self._exchange is None else self._exchange.fileno()

    def read(self) -> Iterator[Event]:
        """What has come, without waiting, but not too much at once: see `unread`. `Closed` is the last there is."""
        assert self._exchange is not None, "it is read after Opened"
        self.unread = False
        try:
            for _ in range(FRAMES_MAX):
                received = self._exchange.receive_nowait()
                if received is None:
                    return
                yield Received(self, self.endpoint, self._decode(received[0]), received[1])
            self.unread = True
        except RayQueueError as error:
            yield self._end(error)
        except Exception as error:
            log.exception("reading from %s:%d failed", self.endpoint.host, self.endpoint.port)
            yield self._end(self._failed(error))

    def interrupted(self) -> None:
        """Gives it up in the middle of a message, whether read or sent."""
        self._inbox.put(self._end(BrokerNotAvailable("an interrupt came while the stream was in use")))

    def _end(self, error: RayQueueError) -> Closed:
        self.close()
        return Closed(self, self.endpoint, error)

    def send(self, request: FetchRequest) -> None:
        """Sends a request; if the stream is broken, its next reader is told."""
        assert self._exchange is not None, "a request follows Opened"
        try:
            self._exchange.send(codec.encode(request))
        except RayQueueError as error:
            log.debug("a fetch request to %s:%d was not sent: %s", self.endpoint.host, self.endpoint.port, error)
            self._inbox.put(self._end(error))
        except BaseException:
            self.interrupted()
            raise

    def close(self) -> None:
        """Ends the stream."""
        with self._lock:
            self._closed = True
            exchange = self._exchange
        self._inbox.unwatch(self)
        if exchange is not None:
            exchange.close()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread that opens it to end."""
        if self._thread.ident is not None:
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
