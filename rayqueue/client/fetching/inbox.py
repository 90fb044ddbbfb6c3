"""The one queue between the threads that read streams and the user's thread."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import pyarrow as pa

from rayqueue.client.streams import Endpoint
from rayqueue.errors import RayQueueError
from rayqueue.protocol.messages import FetchResponse, ListOffsetsResponse, MetadataResponse


class Opened(NamedTuple):
    """A stream is open. local: its segments can be mapped here."""

    stream: Any
    endpoint: Endpoint
    local: bool


class Closed(NamedTuple):
    """A stream has ended, or could not be opened."""

    stream: Any
    endpoint: Endpoint
    error: RayQueueError


class Received(NamedTuple):
    """A message of a stream. rows: the data of its first parts."""

    stream: Any
    endpoint: Endpoint
    response: FetchResponse
    rows: list[pa.Buffer]


class MetadataCame(NamedTuple):
    """Metadata of the topics asked for (None: all), or why not."""

    asked: list[str] | None
    answer: MetadataResponse | RayQueueError


class OffsetsCame(NamedTuple):
    """Answer to the look-up of this number."""

    number: int
    answer: ListOffsetsResponse | RayQueueError


Event = Opened | Closed | Received | MetadataCame | OffsetsCame


class Inbox:
    """Events in order, from many threads to one.

    It is bounded without ever blocking a sender: data by the streams' credit; messages without data (watermarks,
    which need no credit) are joined to the last event when that is one of the same stream, the newest part of a
    subscription replacing older ones; everything else answers a question of the receiver's.

    Attributes:
        events: those not taken yet. The receiver may look without the lock whether there are any: one missed now is
            seen next time.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self.events: list[Event] = []
        self._waiting = False

    def put(self, event: Event) -> None:
        """Adds an event and wakes the receiver."""
        with self._condition:
            events = self.events
            if not (events and _joined(events[-1], event)):
                events.append(event)
            if self._waiting:
                self._condition.notify()

    def take(self) -> list[Event]:
        """All events, without waiting."""
        if not self.events:
            return []
        with self._condition:
            events, self.events = self.events, []
            return events

    def wait(self, timeout_s: float | None) -> None:
        """Sleeps until there is an event, or time is out. An interrupt (Ctrl-C) gets through."""
        with self._condition:
            if self.events:
                return
            self._waiting = True
            try:
                self._condition.wait(timeout_s)
            finally:
                self._waiting = False


def _joined(last: Event, event: Event) -> bool:
    """Joins a message without data to the one before it, if that one has none either."""
    if not (isinstance(event, Received) and isinstance(last, Received) and last.stream is event.stream):
        return False
    if event.rows or last.rows or any(part.error for part in event.response.parts):
        return False
    parts = last.response.parts
    if any(part.error for part in parts):
        return False
    newest = {part.subscription: part for part in parts}
    newest.update((part.subscription, part) for part in event.response.parts)
    parts[:] = newest.values()
    return True
