"""What all loads have in common: one client, which ends with them."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, TypeVar

from rayqueue.consumer import Consumer
from rayqueue.producer import Producer

C = TypeVar("C", Producer, Consumer)
L = TypeVar("L", bound="Load")  # type: ignore[type-arg]


class Load(Generic[C]):
    """A load; a context manager, as its client is.

    Attributes:
        client: the producer or consumer.
    """

    def __init__(self, client: C) -> None:
        self.client: C = client

    def close(self) -> None:
        """Closes the client."""
        self.client.close()

    def __enter__(self: L) -> L:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.__exit__(kind, error, trace)
