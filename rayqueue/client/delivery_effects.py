"""What the delivery machine is told once (its settings), and what it says must be done (its effects)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from rayqueue.client.lanes import Batch
from rayqueue.errors import RayQueueError
from rayqueue.protocol.messages import ProduceRequest


class DeliverySettings(NamedTuple):
    """acks: -1, 0, 1; retries: how often a batch is sent again; max_in_flight: unanswered requests a node; silence_ms:
    how long a node may leave a request unanswered before the metadata is asked whether another one leads by now."""

    acks: int
    idempotent: bool
    retries: int
    max_in_flight: int
    max_request_size: int
    request_timeout_ms: float
    delivery_timeout_ms: float
    silence_ms: float = 500.0


class Send(NamedTuple):
    """Send a request on this link. rows: the batches' messages (the shell's), beside it."""

    node: Hashable
    link: Any
    request: ProduceRequest
    rows: list[Any]


class Connect(NamedTuple):
    """Open a link to a node; answer with `connected` or `disconnected`."""

    node: Hashable


class Disconnect(NamedTuple):
    """The node has been silent for too long: close this link. Its batches wait again already."""

    link: Any


class Delivered(NamedTuple):
    """The log has the batch. base_offset: -1 with acks=0. timestamp: the log's append time, or -1."""

    batch: Batch
    base_offset: int
    timestamp: int


class Failed(NamedTuple):
    """The batch is given up."""

    batch: Batch
    error: RayQueueError


class RefreshMetadata(NamedTuple):
    """Ask for a topic's metadata; answer with `set_leader` for its lanes, or `remove_topic`."""

    topic: str


class NeedProducerId(NamedTuple):
    """Ask for a producer id; answer with `set_producer_id`."""


Effect = Send | Connect | Disconnect | Delivered | Failed | RefreshMetadata | NeedProducerId
