"""The brokers' server: Arrow Flight, with our actions on top and nothing of what they mean.

gRPC runs every call on a thread of its own. Record data does not come here: see `actors.data_server`.
"""

from __future__ import annotations

import hmac
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pyarrow.flight as fl

from rayqueue.actors.calls import Action, reply_to
from rayqueue.errors import AuthenticationError, ProtocolError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import Identity

log = logging.getLogger(__name__)


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
    """Serves actions on one port. It listens as soon as it is made.

    Args:
        host, port: where to listen; port 0 takes a free one (see `port`).
        token: what a call must carry, or None.
        identity: who we are, answered to `identify`.
        actions: name → handler of the request's bytes, returning a message struct or raising a RayQueueError.
        max_message_bytes: largest request taken.

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
        max_message_bytes: int = 100 * 1024 * 1024,
    ) -> None:
        self.identity = identity
        self._actions: dict[str, Action] = {"identify": lambda _: self.identity, **(actions or {})}
        self._max_message_bytes = max_message_bytes
        _check_free(host, port)
        middleware = {"token": _TokenFactory(token)} if token else None
        shown = f"[{host}]" if ":" in host else host
        super().__init__(f"grpc://{shown}:{port}", middleware=middleware)
        self.host = host

    # Flight's own names from here on.

    def do_action(self, context: Any, action: Any) -> Iterator[fl.Result]:
        """One request, one reply."""
        name = action.type
        body = b"" if action.body is None else action.body.to_pybytes()
        if len(body) > self._max_message_bytes:
            error = ProtocolError(f"a request of {len(body)} bytes is above {self._max_message_bytes}")
            return iter([fl.Result(codec.encode_failure(error))])
        return iter([fl.Result(reply_to(name, body, self._actions, self.identity.role))])
