"""The data plane's server: frames on plain sockets, a thread a connection, and nothing of what the frames mean."""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable

import msgspec

from rayqueue.actors.calls import Action, check_hello, reply_to
from rayqueue.actors.exchange import Exchange
from rayqueue.client.framed_socket import HEAD_BYTES, FramedSocket
from rayqueue.client.io.shared_memory import ServerMemory
from rayqueue.errors import AuthenticationError, ProtocolError, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.frames import MESSAGE
from rayqueue.protocol.messages import PROTOCOL_VERSION, DataCall, Hello, Identity, Welcome

log = logging.getLogger(__name__)

HELLO_BYTES = 16 * 1024
HELLO_S = 10.0  # for a caller to say who it is
BACKLOG = 512
CONNECTIONS_MAX = 8192
ACCEPT_RETRY_S = 0.1

ExchangeHandler = Callable[[Exchange], None]


class DataServer:
    """Serves calls and exchanges on one port. It listens as soon as it is made.

    Args:
        host, port: where to listen; port 0 takes a free one (see `port`).
        identity: who we are, held against every `Hello`.
        token: what a hello must carry, or None.
        actions: name → handler of the request's bytes, returning a message struct or raising a RayQueueError.
        exchanges: kind → handler that runs until its exchange is over, on the connection's thread.
        welcome: what an exchange is greeted with.
        max_message_bytes: largest message taken, rows included.

    Raises:
        OSError: the port is taken or the host is not ours.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        identity: Identity,
        token: str | None = None,
        actions: dict[str, Action] | None = None,
        exchanges: dict[str, ExchangeHandler] | None = None,
        welcome: Welcome | None = None,
        max_message_bytes: int = 100 * 1024 * 1024,
    ) -> None:
        self.identity = identity
        self._token = (token or "").encode()
        self._actions: dict[str, Action] = {"identify": lambda _: self.identity, **(actions or {})}
        self._exchanges: dict[str, ExchangeHandler] = {"call": self._serve_calls, **(exchanges or {})}
        self._welcome = welcome or Welcome(
            PROTOCOL_VERSION, identity.cluster_id, identity.broker_id, identity.incarnation, 1, "", ""
        )
        self._max_message_bytes = max_message_bytes
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()  # as gRPC's servers take it
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: set[FramedSocket] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="data-accept", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"DataServer({self.host}:{self.port}, {len(self._connections)} connections)"

    def shutdown(self) -> None:
        """Stops listening and ends every connection."""
        self._stopping.set()
        # Closing does not wake a thread in accept(2). Shutting down does on Linux; a connection does everywhere.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname()[:2], 1.0).close()
        self._thread.join()
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for framed in connections:
            framed.shut_down()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                log.warning("a connection cannot be accepted: %s", error)  # too many open files, perhaps
                self._stopping.wait(ACCEPT_RETRY_S)
                continue
            try:
                self._begin(sock)
            except Exception as error:  # gone again, or no thread can be started: the next one may do better
                log.warning("a connection cannot be served: %s", error)
                sock.close()

    def _begin(self, sock: socket.socket) -> None:
        """Gives a connection its thread."""
        if len(self._connections) >= CONNECTIONS_MAX:
            raise OSError(f"there are {CONNECTIONS_MAX} already")
        framed = FramedSocket(sock, HELLO_BYTES)
        with self._lock:
            self._connections.add(framed)
        try:
            threading.Thread(target=self._serve, args=(framed,), name="data-connection", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._connections.discard(framed)
            raise

    def _serve(self, framed: FramedSocket) -> None:
        """A connection's life: hello, welcome, the handler of its kind."""
        exchange = Exchange(framed, Hello(0, ""))
        failure: BaseException | None = None
        try:
            exchange.hello = self._greet(framed)
            exchange.send(codec.encode_reply(self._welcome_to(exchange, framed)))
            self._exchanges[exchange.hello.kind](exchange)
        except (OSError, EOFError) as error:
            log.debug("a caller has hung up: %s", error)
        except RayQueueError as error:
            failure = error
        except Exception as error:
            log.exception("an exchange of kind %s failed", exchange.hello.kind)
            failure = error
        finally:
            try:
                exchange.finish(failure)
            finally:
                with self._lock:
                    self._connections.discard(framed)
                if exchange.memory is not None:
                    exchange.memory.close()

    def _greet(self, framed: FramedSocket) -> Hello:
        """The caller's hello. Nothing but this one small message is taken from a stranger; the token comes first."""
        framed.head_bytes = 0
        frame = framed.receive_within(HELLO_S)
        if frame is None:
            raise EOFError("without a word")
        kind, message, rows = frame
        if kind != MESSAGE or rows:
            raise ProtocolError("a connection begins with a hello")
        hello = codec.decode(message, Hello)
        if not hmac.compare_digest(hello.token.encode(), self._token) and self._token:
            raise AuthenticationError(
                "this cluster needs its token: pass token=..., or set RAYQUEUE_TOKEN (`rayqueue start` prints it)"
            )
        check_hello(hello, self.identity)
        if hello.kind not in self._exchanges:
            raise ProtocolError(f"a {self.identity.role} has no exchange {hello.kind!r}")
        framed.max_bytes, framed.head_bytes = self._max_message_bytes, HEAD_BYTES
        return hello

    def _welcome_to(self, exchange: Exchange, framed: FramedSocket) -> Welcome:
        """The welcome; a producer on this host gets memory to share, where the system has such."""
        if not exchange.hello.share or exchange.hello.kind != "produce" or not framed.is_local():
            return self._welcome
        try:
            exchange.memory = ServerMemory()
        except OSError as error:
            log.info("no memory is shared with %r: %s", exchange, error)
            return self._welcome
        return msgspec.structs.replace(self._welcome, shared=exchange.memory.offer)

    def _serve_calls(self, exchange: Exchange) -> None:
        while (received := exchange.receive()) is not None:
            call = codec.decode(received[0], DataCall)
            exchange.send(reply_to(call.action, call.body, self._actions, self.identity.role))
