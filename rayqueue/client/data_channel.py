"""Data connections to a replica actor: calls and exchanges over plain sockets, in frames (`protocol.frames`).

Why not Flight, as everywhere else: docs/decisions/0006-frames-on-sockets.md.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import NoReturn, TypeVar

import pyarrow as pa

from rayqueue.client.framed_socket import Frame, FramedSocket, Views, views_of
from rayqueue.client.io.shared_memory import ClientMemory
from rayqueue.errors import BrokerNotAvailable, ProtocolError, RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.frames import FAILURE, pack_head
from rayqueue.protocol.messages import PROTOCOL_VERSION, DataCall, Hello, Welcome

log = logging.getLogger(__name__)

T = TypeVar("T")

WELCOME_S = 2.0  # a server that lives says welcome at once
UNACKNOWLEDGED_S = 3.0
MAX_BYTES = (1 << 32) - 1  # servers are believed; what they send is bounded by the credit they are given


class Exchange:
    """The client's end of a data connection: one thread sends, one receives, any may close."""

    def __init__(self, framed: FramedSocket, where: str) -> None:
        self._framed = framed
        self._where = where
        self._lock = threading.Lock()
        self._reading = False
        self._closed = False
        self._left: Views = []  # of `send_nowait`
        self.welcome: Welcome
        self.memory: ClientMemory | None = None  # shared with the server

    def __repr__(self) -> str:
        return f"Exchange({self._where})"

    def fileno(self) -> int:
        """For `select`; -1 when closed."""
        return self._framed.fileno()

    def open(self, hello: Hello, timeout_s: float) -> None:
        """Says hello and waits for the welcome; a server that accepts and then keeps silent is given up on.

        Raises:
            RayQueueError: what the server answers instead; BrokerNotAvailable; RequestTimeout.
        """
        try:
            self._framed.send(pack_head(codec.encode(hello)))
            self.welcome = codec.decode_reply(self._opened(self._framed.receive_within(timeout_s))[0], Welcome)
            self.memory = _shared(self.welcome)
        except OSError as error:
            self.close()
            self._fail(error)
        except RayQueueError:
            self.close()
            raise

    def receive_within(self, timeout_s: float) -> bytes:
        """The next message. Raises as `receive`, and RequestTimeout."""
        try:
            return self._opened(self._framed.receive_within(timeout_s))[0]
        except OSError as error:
            self._fail(error)

    def send(self, message: bytes, rows: list[pa.Buffer] | None = None) -> None:
        """Sends a message with its rows; blocks while the server does not read.

        Raises:
            BrokerNotAvailable: the connection is broken or closed.
        """
        try:
            self._framed.send(pack_head(message, rows or ()), rows or ())
        except OSError as error:
            self._fail(error)

    def send_nowait(self, message: bytes = b"", rows: list[pa.Buffer] | None = None) -> bool:
        """Sends what the connection takes at once of what is left from before and of a message ("": of none); to be
        called again, without one, until nothing is left.

        Returns:
            Whether nothing is left. Only then may another message be given.

        Raises:
            BrokerNotAvailable: the connection is broken or closed.
        """
        with self._lock:  # not beside `close`: the descriptor could be another connection's by then
            if self._closed:
                raise BrokerNotAvailable(f"the connection to {self._where} is closed")
            assert not (message and self._left), "what is left goes first"
            views = views_of(pack_head(message, rows or ()), rows or ()) if message else self._left
            try:
                while views and (rest := self._framed.send_some(views, wait=False)) != views:
                    views = rest
            except OSError as error:
                self._fail(error)
            self._left = views
            return not views

    def receive(self) -> tuple[bytes, list[pa.Buffer]]:
        """The next message and its rows, waiting for them.

        Raises:
            BrokerNotAvailable: the connection has ended, is broken or was closed.
            RayQueueError: the server ended it with this error.
        """
        with self._lock:
            if self._closed:
                raise BrokerNotAvailable(f"the connection to {self._where} is closed")
            self._reading = True
        try:
            return self._opened(self._framed.receive())
        except OSError as error:
            self._fail(error)
        finally:
            with self._lock:
                self._reading = False
                if self._closed:
                    self._framed.close()

    def receive_nowait(self) -> tuple[bytes, list[pa.Buffer]] | None:
        """The next message if it is here. Raises as `receive`."""
        if self._closed:
            raise BrokerNotAvailable(f"the connection to {self._where} is closed")
        try:
            frame = self._framed.receive_nowait()
        except EOFError:
            return self._opened(None)
        except OSError as error:
            self._fail(error)
        return None if frame is None else self._opened(frame)

    def abort(self) -> None:
        """Breaks the connection, from any thread: whoever uses it gets an error, and has to close it."""
        self._framed.shut_down()

    def close(self) -> None:
        """Ends the connection; a `receive` in another thread raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._framed.shut_down()
            if not self._reading:
                self._framed.close()

    def _opened(self, frame: Frame | None) -> tuple[bytes, list[pa.Buffer]]:
        if frame is None:
            raise BrokerNotAvailable(f"{self._where} ended the connection")
        kind, message, rows = frame
        if kind == FAILURE:
            codec.decode_reply(message, object)
            raise ProtocolError(f"{self._where} ended the connection with a failure that is none")
        return message, rows

    def _fail(self, error: OSError) -> NoReturn:
        if isinstance(error, TimeoutError):
            raise RequestTimeout(f"{self._where} did not answer in time") from error
        raise BrokerNotAvailable(f"the connection to {self._where} broke ({error})") from error


def _shared(welcome: Welcome) -> ClientMemory | None:
    """The memory that the server offers, if it can be had: what cannot be shared is sent."""
    if welcome.shared is None:
        return None
    try:
        return ClientMemory(welcome.shared)
    except (OSError, ValueError) as error:
        log.debug("the server's memory cannot be shared: %s", error)
        return None


class DataChannel:
    """Makes data connections to `host:port`; holds none. Safe for many threads."""

    def __init__(self, host: str, port: int, token: str | None = None, connect_timeout_s: float = 5.0) -> None:
        self.host = host
        self.port = port
        self._token = token or ""
        self._connect_timeout_s = connect_timeout_s

    def __repr__(self) -> str:
        return f"DataChannel({self.where})"

    @property
    def where(self) -> str:
        """The address, for messages."""
        return f"{self.host}:{self.port}"

    def exchange(self, hello: Hello, timeout_s: float) -> Exchange:
        """Opens an exchange and waits for its welcome.

        Raises:
            ClusterMismatch, ProtocolError, AuthenticationError, BrokerNotAvailable, RequestTimeout.
        """
        deadline = time.monotonic() + timeout_s
        try:
            sock = socket.create_connection((self.host, self.port), min(timeout_s, self._connect_timeout_s))
        except OSError as error:
            raise BrokerNotAvailable(f"{self.where} cannot be reached ({error})") from error
        sock.settimeout(None)
        framed = FramedSocket(sock, MAX_BYTES)
        if hello.kind in (
            "fetch",
            "follow",
            "group",
            "quorum",
        ):  # what it sends is little, and taken at once by a server that lives
            framed.give_up_after(UNACKNOWLEDGED_S)
        if hello.kind == "watch":  # a command of the metadata log comes whole, also one that concerns all partitions
            framed.message_bytes_max = MAX_BYTES
        exchange = Exchange(framed, self.where)
        hello.token = self._token
        hello.share = hello.kind == "produce" and framed.is_local()
        exchange.open(hello, max(0.01, deadline - time.monotonic()))
        return exchange

    def call(self, action: str, request: object, reply: type[T], timeout_s: float) -> T:
        """One request, one reply, on a connection of its own.

        Raises:
            BrokerNotAvailable: nobody is there, or whoever is there hangs: nothing was asked yet. RequestTimeout.
            RayQueueError: what the server replied with; AuthenticationError.
        """
        deadline = time.monotonic() + timeout_s
        try:
            exchange = self.exchange(Hello(PROTOCOL_VERSION, "call"), min(timeout_s, WELCOME_S))
        except RequestTimeout as error:
            raise BrokerNotAvailable(f"{self.where} does not say welcome: it may hang") from error
        try:
            exchange.send(codec.encode(DataCall(action, codec.encode(request))))
            return codec.decode_reply(exchange.receive_within(max(0.01, deadline - time.monotonic())), reply)
        finally:
            exchange.close()
