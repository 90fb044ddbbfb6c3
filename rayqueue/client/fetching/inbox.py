"""What a consumer waits for: its streams, and the answers of threads that ask on its behalf."""

from __future__ import annotations

import math
import os
import select
import threading
import time
import weakref
from typing import Any, NamedTuple

import pyarrow as pa

from rayqueue.client.streams import Endpoint
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import CommittedOffset
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


class CommittedCame(NamedTuple):
    """The committed offsets asked for under this number, or why they cannot be had."""

    number: int
    answer: list[CommittedOffset] | RayQueueError


class GroupNews(NamedTuple):
    """There is something for the reader to look at: of its group, or a commit that is due."""


Event = Opened | Closed | Received | MetadataCame | OffsetsCame | CommittedCame | GroupNews


# A look at the streams is a system call or two; records that are in hand are given out in between.
_LOOK_EVERY_S = 0.0002


class Inbox:
    """Events in order, for one receiver, which reads its streams itself: a record has no other thread to pass through.

    It is bounded without ever blocking a sender: data by the streams' credit; messages without data (watermarks,
    which need no credit) are joined to the last event when that is one of the same stream, the newest part of a
    subscription replacing older ones; everything else answers a question of the receiver's.

    Attributes:
        events: those not taken yet. The receiver may look without the lock whether there are any: one missed now is
            seen next time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.events: list[Event] = []
        self._waiting = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._close = weakref.finalize(self, _close_all, (self._wake_read, self._wake_write))
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._streams: dict[int, Any] = {}  # by file descriptor
        # Their last reading stopped before the end of what has come: that may lie in their buffers, where `poll` sees
        # nothing of it.
        self._unread: list[Any] = []
        self._looked = 0.0

    # --- any thread ------------------------------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Adds an event and wakes the receiver."""
        with self._lock:
            self._add(event)
            if self._waiting and self._close.alive:
                self._waiting = False
                os.write(self._wake_write, b"\0")

    def _add(self, event: Event) -> None:
        events = self.events
        if not (events and _joined(events[-1], event)):
            events.append(event)

    # --- the receiver ----------------------------------------------------------------------------------------------

    def watch(self, stream: Any) -> None:
        """Reads this stream from now on."""
        fd = stream.fileno()
        self._streams[fd] = stream
        self._poll.register(fd, select.POLLIN)
        self._looked = 0.0

    def unwatch(self, stream: Any) -> None:
        """Reads it no more. To be called before it is closed."""
        for fd in [fd for fd, watched in self._streams.items() if watched is stream]:
            del self._streams[fd]
            self._poll.unregister(fd)
        if stream in self._unread:
            self._unread.remove(stream)

    def take(self) -> list[Event]:
        """All events, without waiting."""
        if self._streams and time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look(0)
        if not self.events:
            return []
        with self._lock:
            events, self.events = self.events, []
            return events

    def wait(self, timeout_s: float | None) -> None:
        """Sleeps until there is an event, or time is out. An interrupt (Ctrl-C) gets through."""
        with self._lock:
            if self.events:
                return
            self._waiting = True
        try:
            self._look(None if timeout_s is None else math.ceil(max(0.0, timeout_s) * 1000))
        finally:
            self._waiting = False

    def _look(self, timeout_ms: int | None) -> None:
        """Reads the streams that have something, waiting for one that has."""
        ready, self._unread = self._unread, []
        try:
            for fd, _ in self._poll.poll(0 if ready else timeout_ms):
                stream = self._streams.get(fd)
                if stream is not None and stream not in ready:
                    ready.append(stream)
                elif fd == self._wake_read:
                    os.read(fd, 512)
            for stream in ready:
                for event in stream.read():
                    with self._lock:
                        self._add(event)
                if stream.unread:
                    self._unread.append(stream)
        except BaseException:
            # Ctrl-C may have come between bytes and their count, or between a message and its place among the events:
            # these streams are opened anew, from where the records end that are here.
            for stream in ready:
                stream.interrupted()
            raise
        self._looked = time.monotonic()

    def close(self) -> None:
        """Gives its file descriptors back."""
        with self._lock:
            self._close()


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _joined(last: Event, event: Event) -> bool:
    """Joins a message without data to the one before it, if that one has none either; and news of the group."""
    if isinstance(event, GroupNews):
        return isinstance(last, GroupNews)
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
