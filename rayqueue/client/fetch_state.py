"""The state of the fetch machine, and the small steps that its events, moves and plans share. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rayqueue.client.cursor import Cursor
from rayqueue.client.leaders import Leaders
from rayqueue.client.ring import Ring
from rayqueue.client.streams import DropMapping, Effect, Endpoint, Stream
from rayqueue.errors import RayQueueError


class Limits(NamedTuple):
    """Bounds and policies; bytes and ms. `backoff_ms(n)`: the wait after n failures. `near(host)`: whether what listens
    there may be on this host: then it is worth a look. `wall_ms()`: the time of day, for resets by duration."""

    stream_bytes: int
    partition_bytes: int
    reset: str
    mapped: bool
    metadata_max_age_ms: int
    backoff_ms: Callable[[int], int]
    near: Callable[[str], bool] = lambda host: False
    wall_ms: Callable[[], int] = lambda: 0


class FetchState:
    """Cursors of everything assigned, and the streams they are subscribed on.

    Attributes:
        cursors: by (topic, partition). leaders: metadata. ring: whose turn it is. fatal: raised by every poll.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cursors: dict[tuple[str, int], Cursor] = {}
        self.leaders = Leaders(limits.metadata_max_age_ms)
        self.ring = Ring()
        self.fatal: RayQueueError | None = None
        self._failing: dict[Cursor, None] = {}
        self._passing: deque[RayQueueError] = deque(maxlen=16)
        self._streams: dict[Endpoint, Stream] = {}
        self._dirty: dict[Cursor, None] = {}  # to be placed by the next plan
        self._touched: dict[Stream, None] = {}  # may have something to send
        self._leaderless: dict[Cursor, None] = {}  # waiting for metadata
        self._lookups: dict[int, list[tuple[Cursor, int]]] = {}  # (cursor, queries asked for it), in order
        self._remote: set[Endpoint] = set()  # found not to lie on this host
        self._following: dict[Stream, None] = {}  # of followers that are read from
        self._left: dict[Cursor, int | None] = {}  # followers are not tried again for these before; None: to be set
        self._effects: list[Effect] = []
        self._sweep = False  # streams may have become idle
        self._listen_ms: int | None = None  # when to look which streams are silent; None: there is none
        self._numbers = 0

    def error(self) -> RayQueueError | None:
        """The error that a poll should raise, if any."""
        if self.fatal is not None:
            return self.fatal
        if self._passing:
            return self._passing.popleft()
        for cursor in list(self._failing):
            if cursor.error is None or self.cursors.get(cursor.key) is not cursor:
                del self._failing[cursor]
            elif not cursor.paused:
                return cursor.error
        return None

    def fail(self, cursor: Cursor, error: RayQueueError) -> None:
        """The partition cannot be read on: every poll raises `error` until the user moves the cursor."""
        cursor.error = error
        self._failing[cursor] = None
        self._changed(cursor)

    def out_of_range(self, cursor: Cursor) -> None:
        """The leader has nothing at `fetch_offset`: what is buffered is handed out, then the reset policy decides. Of a
        follower that says nothing: the leader is asked."""
        if cursor.following:
            self.leave_follower(cursor)
            return
        self._unsubscribe(cursor)
        cursor.reset_after_drain = True
        self._changed(cursor)

    def unmap(self, cursor: Cursor) -> None:
        """The mapped segments cannot be read: go on over the leader's stream, and if they were the leader's until there
        is a new leader epoch or a seek."""
        if cursor.following:
            self.leave_follower(cursor)
            return
        cursor.unmappable_epoch = cursor.leader_epoch
        self._drop_mapping(cursor)
        self._unsubscribe(cursor)
        self._changed(cursor)

    def leave_follower(self, cursor: Cursor) -> None:
        """Goes on at the leader; `FetchFollowers` says when a follower is tried again."""
        self._drop_mapping(cursor)
        self._unsubscribe(cursor)
        self._left[cursor] = None
        self._changed(cursor)

    def _changed(self, cursor: Cursor) -> None:
        self._dirty[cursor] = None
        self.ring.offer(cursor)

    def _retry(self, cursor: Cursor) -> None:
        """What is known of the leader has proved wrong: fresh metadata first, at once, then ever later (backoff)."""
        self.leaders.forget(cursor.topic_id, cursor.partition)
        self._dirty[cursor] = None

    def _unsubscribe(self, cursor: Cursor) -> None:
        if cursor.stream is not None:
            self._touched[cursor.stream] = None
            cursor.stream.leave(cursor)
        for stream in self._streams.values():
            stream.waiting.pop(cursor, None)

    def _drop_mapping(self, cursor: Cursor) -> None:
        """Takes the mapping away with what was read ahead in it."""
        if cursor.mapping is not None:
            self._forget_mapping(cursor)
            cursor.drop_buffer()

    def _forget_mapping(self, cursor: Cursor) -> None:
        if cursor.mapping is not None:
            cursor.mapping = None
            self._effects.append(DropMapping(cursor))

    def validate(self) -> None:
        """Raises AssertionError where an invariant does not hold."""
        for cursor in self.cursors.values():
            cursor.validate()
        for stream in self._streams.values():
            held = sum(c.charged for c in stream.cursors.values() if not c.paused)
            assert stream.window.held == held, (stream.window.held, held)
            for number, cursor in stream.cursors.items():
                assert cursor.subscription == number and cursor.stream is stream


def held_range(cursor: Cursor) -> str:
    low, high = cursor.log_start, cursor.high_watermark
    name = f"{cursor.topic}-{cursor.partition}"
    return f"{name}, which holds offsets {low} to {high - 1}: seek to one of them, or set auto.offset.reset"
