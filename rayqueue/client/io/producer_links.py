"""A producer's link to one replica actor: an exchange, and the thread that opens it and reads its answers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import Exchange
from rayqueue.client.io.shared_memory import ClientMemory
from rayqueue.errors import BrokerNotAvailable, RayQueueError, from_wire
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello, ProduceRequest, ProduceResponse, ProduceResult

log = logging.getLogger("rayqueue.producer")

Results = list[tuple[int, int, RayQueueError | None]]


class LinkListener(Protocol):
    """Who is told; called on the link's own thread."""

    def link_opened(self, link: ProduceLink, window: int) -> None: ...

    def link_answered(self, link: ProduceLink, results: Results) -> None: ...

    def link_ended(self, link: ProduceLink, opened: bool, error: RayQueueError) -> None: ...


class ProduceLink:
    """One connection, one life: it opens, answers come in the order of requests, it ends.

    Args:
        node: (host, port, incarnation, broker id) of the replica actor.
        cluster: whose connections to use.
        listener: who is told.
        client_id: for the server's log.
        timeout_s: for opening.
    """

    def __init__(
        self, node: Any, cluster: ClusterClient, listener: LinkListener, client_id: str, timeout_s: float
    ) -> None:
        self.node = node
        self._cluster = cluster
        self._listener = listener
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._exchange: Exchange | None = None
        # Rows are held until they are answered, also those of batches that are given up meanwhile: till then the server
        # reads them where they lie, and nothing else may be put there.
        self._unanswered: deque[list[pa.Buffer]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"rayqueue-produce-{node[0]}:{node[1]}", daemon=True)

    def __repr__(self) -> str:
        return f"ProduceLink({self.node[0]}:{self.node[1]})"

    def start(self) -> None:
        """Opens the link, in the background."""
        self._thread.start()

    def send(self, request: ProduceRequest, rows: list[Any]) -> None:
        """Sends a request. BrokerNotAvailable when the link is broken or closed."""
        exchange = self._exchange
        if exchange is None:
            raise BrokerNotAvailable(f"{self!r} is not open")
        if request.acks != 0:
            self._unanswered.append(rows)
        memory = exchange.memory
        if memory is not None:
            rows = [row for batch, row in zip(request.batches, rows, strict=True) if not memory.refer(batch, row)]
        exchange.send(codec.encode(request), rows)

    @property
    def memory(self) -> ClientMemory | None:
        """What the server shares with this process."""
        exchange = self._exchange
        return None if exchange is None else exchange.memory

    def close(self) -> None:
        """Ends the link; the thread ends soon after."""
        with self._lock:
            self._closed = True
            exchange = self._exchange
        if exchange is not None:
            exchange.close()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread, unless it is the caller."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _work(self) -> None:
        opened = False
        try:
            exchange = self._open()
            opened = True
            decode = codec.decoder(ProduceResponse).decode
            self._listener.link_opened(self, exchange.welcome.max_in_flight)
            while True:
                message, _ = exchange.receive()
                if self._unanswered:
                    self._unanswered.popleft()
                self._listener.link_answered(self, [_outcome(result) for result in decode(message).results])
        except RayQueueError as error:
            ended = error
        except Exception as error:
            log.exception("the link to %s:%s failed", self.node[0], self.node[1])
            ended = BrokerNotAvailable(f"the link to {self.node[0]}:{self.node[1]} failed: {error}")
        if self._exchange is not None:
            self._exchange.close()
        self._listener.link_ended(self, opened, ended)

    def _open(self) -> Exchange:
        host, port, incarnation, broker_id = self.node
        hello = Hello(PROTOCOL_VERSION, "produce", "", broker_id, incarnation, self._client_id)
        exchange = self._cluster.data_channel(host, port).exchange(hello, self._timeout_s)
        with self._lock:
            self._exchange = exchange
            closed = self._closed
        if closed:
            raise BrokerNotAvailable("the producer was closed")
        return exchange


def _outcome(result: ProduceResult) -> tuple[int, int, RayQueueError | None]:
    return result.base_offset, result.timestamp, from_wire(result.error, result.message) if result.error else None


LinkFactory = Callable[[Any, LinkListener], ProduceLink]
