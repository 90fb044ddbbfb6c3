"""The data plane's server: Arrow Flight, with our actions and exchanges on top and nothing of what they mean.

Threads: gRPC runs every call on a thread of its own. An exchange uses two: gRPC's, which reads, and one of ours, which
writes: either the handler's own (`Exchange.write`), or that of an outbox (`Exchange.send`). So whoever has something to
say to a client never waits for that client: one that stops reading blocks its own writer thread and nobody else.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from rayqueue.errors import AuthenticationError, ClusterMismatch, ProtocolError, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello, Identity, Welcome
from rayqueue.protocol.schemas import WIRE_SCHEMA, wire_batch, wire_rows

log = logging.getLogger(__name__)

T = TypeVar("T")
Action = Callable[[bytes], Any]
Stream = Callable[[bytes], Iterator[Any]]
Written = Callable[[], None]
Outgoing = tuple[bytes, list[pa.Buffer], "Written | None"]


def typed(kind: type[T], handler: Callable[[T], Any]) -> Action:
    """An action from a handler of decoded requests."""
    return lambda body: handler(codec.decode(body, kind))


class Exchange:
    """The server's end of a stream. `receive` belongs to the handler; `write` to one thread; `send` to any, instead."""

    def __init__(self, reader: Any, writer: Any, hello: Hello, max_message_bytes: int) -> None:
        self.hello = hello
        self._reader = reader
        self._writer = writer
        self._max_message_bytes = max_message_bytes
        self._outbox: deque[Outgoing] = deque()  # taken only by who holds `_writing`, so their order holds
        self._writing = threading.Lock()
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reader_flushes = False
        self._finished = False
        self.broken = False

    def welcome(self, welcome: Welcome) -> None:
        """Answers the hello."""
        self._writer.begin(WIRE_SCHEMA)
        self._writer.write_metadata(codec.encode_reply(welcome))

    def open_outbox(self) -> None:
        """Starts a thread that writes what `send` queues."""
        self._thread = threading.Thread(target=self._write_outbox, name="exchange-writer", daemon=True)
        self._thread.start()

    def send(self, message: bytes, rows: list[pa.Buffer] | None = None, written: Written | None = None) -> None:
        """Queues a message. What comes after the end is dropped: nobody is there to read it.

        Args:
            written: called when the message is written or dropped: what it holds can be given back.
        """
        self._outbox.append((message, rows or [], written))
        if self._finished:
            self._flush_outbox()
        elif not self._reader_flushes:
            self._wakes.put(True)

    def submit(self, work: Callable[[], None]) -> None:
        """Runs `work` on the reader's thread, and lets that thread write what `work` makes others `send` here: an
        answer that is ready at once then needs no other thread.

        What is queued before the flag falls is written below; what is queued after wakes the writer.
        """
        self._reader_flushes = True
        try:
            work()
        finally:
            self._reader_flushes = False
            self._flush_outbox()

    def _flush_outbox(self) -> None:
        outbox = self._outbox
        while outbox:
            with self._writing:
                if not outbox:
                    return
                message, rows, written = outbox.popleft()
                self.write(message, rows)
            if written is not None:
                written()

    def write(self, message: bytes, rows: list[pa.Buffer]) -> None:
        """Writes a message; waits while the client does not read. To a client that is gone, nothing."""
        if self.broken:
            return
        try:
            if rows:
                self._writer.write_with_metadata(wire_batch(rows), message)
            else:
                self._writer.write_metadata(message)
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            # The reader sees the same break and ends the exchange.
            log.debug("a client is gone: %s", error)
            self.broken = True

    def receive(self) -> tuple[bytes, list[pa.Buffer]] | None:
        """The next message and its rows; None when the client has ended or is gone.

        Raises:
            ProtocolError: the message is too large, or not of our schema.
        """
        try:
            chunk = self._reader.read_chunk()
        except (StopIteration, fl.FlightCancelledError, fl.FlightUnavailableError, OSError):
            return None
        except pa.ArrowInvalid as error:
            raise ProtocolError(f"the stream holds bytes that are not Arrow data: {error}") from error
        metadata = chunk.app_metadata
        message = b"" if metadata is None else metadata.to_pybytes()
        if chunk.data is None:
            return message, []
        return message, self._rows(chunk.data)

    def _rows(self, batch: pa.RecordBatch) -> list[pa.Buffer]:
        if not batch.schema.equals(WIRE_SCHEMA):
            raise ProtocolError("record batches travel as rows of one large_binary column here, see docs/protocol.md")
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ProtocolError(f"a message's rows are damaged: {error}") from error
        if batch.nbytes > self._max_message_bytes:
            raise ProtocolError(
                f"a message of {batch.nbytes} bytes is above socket.request.max.bytes ({self._max_message_bytes})"
            )
        return wire_rows(batch)

    def finish(self) -> None:
        """Ends the outbox after what is queued, and waits: Flight's writer lives no longer than the call."""
        if self._thread is not None:
            self._wakes.put(False)
            self._thread.join()
        # What is sent from now on is dropped by its sender.
        self.broken = self._finished = True
        self._flush_outbox()

    def _write_outbox(self) -> None:
        while self._wakes.get():
            self._flush_outbox()
        self._flush_outbox()


ExchangeHandler = Callable[[Exchange], None]


class _TokenFactory(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses a call without the token before anything of it is read."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> None:
        given = next((values[0] for key, values in headers.items() if key.lower() == "authorization" and values), "")
        if not hmac.compare_digest(given.encode(), self._expected):
            error = AuthenticationError(
                "this cluster needs its token: pass token=..., or set RAYQUEUE_TOKEN (`rayqueue start` prints it)"
            )
            raise fl.FlightUnauthenticatedError(str(error), extra_info=codec.encode_failure(error))


def _check_free(host: str, port: int) -> None:
    """Raises OSError when somebody listens on the port; Flight's own error does not say why, and comes with a wall of
    gRPC's lines."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
    """Serves actions, streamed actions and exchanges on one port. It listens as soon as it is made.

    Args:
        host, port: where to listen; port 0 takes a free one (see `port`).
        token: what a call must carry, or None.
        identity: who we are, answered to `identify` and held against every `Hello`.
        actions: name → handler of the request's bytes, returning a message struct or raising a RayQueueError.
        streams: the same, yielding many.
        exchanges: kind → handler that runs until its exchange is over.
        welcome: what an exchange is greeted with.
        max_message_bytes: largest message taken on an exchange or as an action's request.

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
        streams: dict[str, Stream] | None = None,
        exchanges: dict[str, ExchangeHandler] | None = None,
        welcome: Welcome | None = None,
        max_message_bytes: int = 100 * 1024 * 1024,
    ) -> None:
        self.identity = identity
        self._actions: dict[str, Action] = {"identify": lambda _: self.identity, **(actions or {})}
        self._streams = dict(streams or {})
        self._exchanges = dict(exchanges or {})
        self._welcome = welcome
        self._max_message_bytes = max_message_bytes
        _check_free(host, port)
        middleware = {"token": _TokenFactory(token)} if token else None
        shown = f"[{host}]" if ":" in host else host
        super().__init__(f"grpc://{shown}:{port}", middleware=middleware)
        self.host = host

    # Flight's own names from here on.

    def do_action(self, context: Any, action: Any) -> Iterator[fl.Result]:
        """One request, one reply; or many, for a streamed action."""
        name = action.type
        body = b"" if action.body is None else action.body.to_pybytes()
        if len(body) > self._max_message_bytes:
            error = ProtocolError(f"a request of {len(body)} bytes is above {self._max_message_bytes}")
            return iter([fl.Result(codec.encode_failure(error))])
        if name in self._streams:
            return self._stream(self._streams[name], body)
        return iter([fl.Result(self._reply(name, body))])

    def _reply(self, name: str, body: bytes) -> bytes:
        handler = self._actions.get(name)
        if handler is None:
            return codec.encode_failure(
                ProtocolError(
                    f"a {self.identity.role} has no action {name!r}; it has {', '.join(sorted(self._actions))}"
                )
            )
        try:
            return codec.encode_reply(handler(body))
        except RayQueueError as error:
            return codec.encode_failure(error)
        except Exception as error:
            log.exception("action %s failed", name)
            return codec.encode_failure(error)

    def _stream(self, handler: Stream, body: bytes) -> Iterator[fl.Result]:
        try:
            for value in handler(body):
                yield fl.Result(codec.encode_reply(value))
        except RayQueueError as error:
            yield fl.Result(codec.encode_failure(error))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Opens an exchange: checks the hello, greets, and runs the handler until the client ends."""
        try:
            hello = self._checked_hello(descriptor)
        except RayQueueError as error:
            raise fl.FlightServerError(str(error), extra_info=codec.encode_failure(error)) from error
        exchange = Exchange(reader, writer, hello, self._max_message_bytes)
        exchange.welcome(self._welcome or self._plain_welcome())
        try:
            self._exchanges[hello.kind](exchange)
        except RayQueueError as error:
            raise fl.FlightServerError(str(error), extra_info=codec.encode_failure(error)) from error
        except Exception as error:
            log.exception("an exchange of kind %s failed", hello.kind)
            raise fl.FlightServerError(str(error), extra_info=codec.encode_failure(error)) from error
        finally:
            exchange.finish()

    def _plain_welcome(self) -> Welcome:
        me = self.identity
        return Welcome(PROTOCOL_VERSION, me.cluster_id, me.broker_id, me.incarnation, 1, "", "")

    def _checked_hello(self, descriptor: Any) -> Hello:
        hello = codec.decode(descriptor.command or b"", Hello)
        me = self.identity
        if hello.version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the caller speaks version {hello.version}, this {me.role} {PROTOCOL_VERSION}: install one rayqueue"
            )
        if hello.kind not in self._exchanges:
            raise ProtocolError(f"a {me.role} has no exchange {hello.kind!r}")
        wrong = [
            (hello.cluster_id, me.cluster_id, "cluster", ""),
            (hello.broker_id, me.broker_id, "broker", -1),
            (hello.incarnation, me.incarnation, "incarnation", ""),
        ]
        for asked, mine, what, unchecked in wrong:
            if asked not in (unchecked, mine):
                raise ClusterMismatch(f"{what} {asked} was called, {what} {mine} answers: ask for metadata again")
        return hello
