"""One Flight connection to one server: actions, and Flight's errors turned into ours."""

from __future__ import annotations

import os
import socket
import threading
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

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()
