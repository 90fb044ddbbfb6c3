"""Answering requests: what the two planes' servers share, whatever carries them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ProtocolError, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello, Identity

log = logging.getLogger(__name__)

T = TypeVar("T")
Action = Callable[[bytes], Any]


def typed(kind: type[T], handler: Callable[[T], Any]) -> Action:
    """An action from a handler of decoded requests."""
    return lambda body: handler(codec.decode(body, kind))


def reply_to(name: str, body: bytes, actions: dict[str, Action], role: str) -> bytes:
    """The encoded reply of an action; what it raises becomes a failed one."""
    handler = actions.get(name)
    if handler is None:
        return codec.encode_failure(
            ProtocolError(f"a {role} has no action {name!r}; it has {', '.join(sorted(actions))}")
        )
    try:
        return codec.encode_reply(handler(body))
    except RayQueueError as error:
        return codec.encode_failure(error)
    except Exception as error:
        log.exception("action %s failed", name)
        return codec.encode_failure(error)


def check_hello(hello: Hello, me: Identity) -> None:
    """Whether the caller means us.

    Raises:
        ProtocolError: it speaks another version.
        ClusterMismatch: it means another cluster, broker or incarnation.
        BrokerNotAvailable: we do not know our cluster yet.
    """
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the caller speaks version {hello.version}, this {me.role} {PROTOCOL_VERSION}: install one rayqueue"
        )
    if hello.cluster_id and not me.cluster_id:
        raise BrokerNotAvailable(f"this {me.role} holds no cluster yet: try again")
    wrong = [
        (hello.cluster_id, me.cluster_id, "cluster", ""),
        (hello.broker_id, me.broker_id, "broker", -1),
        (hello.incarnation, me.incarnation, "incarnation", ""),
    ]
    for asked, mine, what, unchecked in wrong:
        if asked not in (unchecked, mine):
            raise ClusterMismatch(f"{what} {asked} was called, {what} {mine} answers: ask for metadata again")
