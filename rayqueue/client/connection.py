"""One Flight connection to one server: actions, streamed actions, exchanges, and Flight's errors turned into ours."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from rayqueue.errors import (
    AuthenticationError,
    BrokerNotAvailable,
    ProtocolError,
    RayQueueError,
    RequestTimeout,
)
from rayqueue.protocol import codec
from rayqueue.protocol.messages import Hello, Welcome
from rayqueue.protocol.schemas import WIRE_SCHEMA, wire_batch, wire_rows

T = TypeVar("T")

# Connections are not shared between channels: a stream's back-pressure must not hold up another's, and a channel made
# anew after a failure must not inherit gRPC's reconnect backoff.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class _Process:
    """Whether gRPC can be used here: once a process has used it, its forked children cannot, not even anew."""

    used = False
    forked = False


def _after_fork() -> None:
    _Process.forked = _Process.forked or _Process.used


os.register_at_fork(after_in_child=_after_fork)


def check_fork() -> None:
    """Raises RayQueueError in a child of a process that had a client before the fork: there gRPC hangs or aborts."""
    if _Process.forked:
        raise RayQueueError(
            "this process was forked from one that had used a rayqueue client, and gRPC does not survive that: start "
            "it with multiprocessing's 'spawn' (or 'forkserver') method, or fork before the first client is used"
        )


def translate(error: BaseException, where: str) -> RayQueueError:
    """Our error for one that Flight raised while talking to `where`."""
    extra = getattr(error, "extra_info", None)
    if extra and bytes(extra[:1]) == b"\x01":
        try:
            codec.decode_reply(bytes(extra), object)
        except RayQueueError as ours:
            return ours
    if isinstance(error, fl.FlightUnauthenticatedError):
        return AuthenticationError(_first_line(error))
    if isinstance(error, fl.FlightTimedOutError):
        return RequestTimeout(f"{where} did not answer in time")
    if isinstance(error, RayQueueError):
        return error
    if isinstance(error, (fl.FlightUnavailableError, fl.FlightCancelledError, OSError)):
        return BrokerNotAvailable(f"{where} cannot be reached ({_first_line(error)})")
    if isinstance(error, NotImplementedError):
        return ProtocolError(f"{where} is not a rayqueue server of this version ({_first_line(error)})")
    return BrokerNotAvailable(f"talking to {where} failed: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class Exchange:
    """The client's end of a stream: one thread sends, one receives, any may close."""

    def __init__(self, writer: Any, reader: Any, where: str) -> None:
        self._writer = writer
        self._reader = reader
        self._where = where
        self._lock = threading.Lock()
        self._reading = False
        self._closed = False
        self.welcome: Welcome

    def open(self, timeout_s: float) -> None:
        """Waits for the welcome; a server that accepts and then keeps silent (stopped, hung) is given up on."""
        timer = threading.Timer(timeout_s, self._reader.cancel)
        timer.daemon = True
        timer.start()
        try:
            # A server that refuses may have ended the call already; its reason can still be read.
            with contextlib.suppress(fl.FlightError, pa.ArrowException, OSError):
                self._writer.begin(WIRE_SCHEMA)
            self.welcome = codec.decode_reply(self.receive()[0], Welcome)
        except RayQueueError:
            self.close()
            raise
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            self.close()
            raise translate(error, self._where) from error
        finally:
            timer.cancel()

    def send(self, message: bytes, rows: list[pa.Buffer] | None = None) -> None:
        """Sends a message with its rows; blocks while the server does not read.

        Raises:
            BrokerNotAvailable: the stream is broken or closed.
        """
        try:
            if rows:
                self._writer.write_with_metadata(wire_batch(rows), message)
            else:
                self._writer.write_metadata(message)
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            raise translate(error, self._where) from error

    def receive(self) -> tuple[bytes, list[pa.Buffer]]:
        """The next message and its rows, which share memory with what came over the network.

        Raises:
            BrokerNotAvailable: the stream has ended, is broken or was closed.
            RayQueueError: the server ended it with this error.
        """
        with self._lock:
            if self._closed:
                raise BrokerNotAvailable(f"the stream to {self._where} is closed")
            self._reading = True
        try:
            chunk = self._reader.read_chunk()
        except StopIteration:
            raise BrokerNotAvailable(f"{self._where} ended the stream") from None
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            raise translate(error, self._where) from error
        finally:
            with self._lock:
                self._reading = False
                closed = self._closed
            if closed:
                self._finish()
        metadata = chunk.app_metadata
        message = b"" if metadata is None else metadata.to_pybytes()
        return message, [] if chunk.data is None else wire_rows(chunk.data)

    def close(self) -> None:
        """Ends the stream; a `receive` in another thread raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            reading = self._reading
        self._reader.cancel()
        # Flight's close reads to the end of the stream, which must not happen while another thread reads.
        if not reading:
            self._finish()

    def _finish(self) -> None:
        with contextlib.suppress(fl.FlightError, pa.ArrowException, OSError):  # the cancellation we just asked for
            self._writer.close()


class Channel:
    """A connection to `host:port`, made when it is first used and again after it broke. Safe for many threads."""

    def __init__(self, host: str, port: int, token: str | None = None, connect_timeout_s: float = 5.0) -> None:
        self.host = host
        self.port = port
        self._token = token
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Channel({self.host}:{self.port})"

    @property
    def where(self) -> str:
        """The address, for messages."""
        return f"{self.host}:{self.port}"

    def _connected(self) -> Any:
        check_fork()
        with self._lock:
            if self._closed:
                raise BrokerNotAvailable(f"the connection to {self.where} is closed")
            if self._client is None:
                # gRPC would try for 20 s; a plain connect fails as soon as there is a reason to.
                try:
                    socket.create_connection((self.host, self.port), self._connect_timeout_s).close()
                except OSError as error:
                    raise BrokerNotAvailable(f"{self.where} cannot be reached ({error})") from error
                host = f"[{self.host}]" if ":" in self.host else self.host
                _Process.used = True
                self._client = fl.connect(f"grpc://{host}:{self.port}", generic_options=_OPTIONS)
            return self._client

    def _options(self, timeout_s: float | None) -> fl.FlightCallOptions:
        headers = [(b"authorization", f"Bearer {self._token}".encode())] if self._token else []
        return fl.FlightCallOptions(timeout=timeout_s, headers=headers)

    def _failed(self, error: BaseException) -> RayQueueError:
        ours = translate(error, self.where)
        if isinstance(ours, BrokerNotAvailable):
            with self._lock:
                self._client = None
        return ours

    def call(self, action: str, request: Any, reply: type[T], timeout_s: float) -> T:
        """One request, one reply.

        Raises:
            RayQueueError: what the server replied with; BrokerNotAvailable, RequestTimeout, AuthenticationError.
        """
        client = self._connected()
        try:
            results = list(client.do_action(fl.Action(action, codec.encode(request)), self._options(timeout_s)))
        except (fl.FlightError, pa.ArrowException, NotImplementedError, OSError) as error:
            raise self._failed(error) from error
        if len(results) != 1:
            raise ProtocolError(f"{self.where} gave {len(results)} replies to {action}; is it a rayqueue server?")
        return codec.decode_reply(results[0].body.to_pybytes(), reply)

    def watch(self, action: str, request: Any, reply: type[T], timeout_s: float | None = None) -> Iterator[T]:
        """One request, many replies, until the server ends or breaks (BrokerNotAvailable), or for `timeout_s`."""
        client = self._connected()
        try:
            for result in client.do_action(fl.Action(action, codec.encode(request)), self._options(timeout_s)):
                yield codec.decode_reply(result.body.to_pybytes(), reply)
        except (fl.FlightError, pa.ArrowException, NotImplementedError, OSError) as error:
            raise self._failed(error) from error

    def exchange(self, hello: Hello, timeout_s: float) -> Exchange:
        """Opens a stream and waits for its welcome.

        Raises:
            ClusterMismatch, ProtocolError, AuthenticationError, BrokerNotAvailable.
        """
        client = self._connected()
        deadline = time.monotonic() + timeout_s
        try:
            writer, reader = client.do_exchange(
                fl.FlightDescriptor.for_command(codec.encode(hello)), self._options(None)
            )
            exchange = Exchange(writer, reader, self.where)
            exchange.open(max(0.01, deadline - time.monotonic()))
            return exchange
        except BrokerNotAvailable as error:
            self._failed(error)
            raise
        except (fl.FlightError, pa.ArrowException, OSError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Closes the connection; streams on it must have been closed."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()
