"""The cursor of one partition, pure: where its reader stands, what is buffered ahead of it, and what it waits for.

    position ................ fetch_offset
       |  buffer: chunks, in order  |  what the leader sends next

Records leave at `position`, arrive at `fetch_offset`. Every record between the two stands in exactly one chunk, so a
reader neither goes back nor skips: what overlaps is cut, what would leave a hole is refused.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from rayqueue.errors import RayQueueError

if TYPE_CHECKING:
    from rayqueue.client.streams import Stream

UNKNOWN_OFFSET = -1


class Chunk(Protocol):
    """A run of whole batches, back to back, in memory or in a mapping. Its content is the shell's business."""

    base_offset: int
    next_offset: int
    size: int

    def size_before(self, offset: int) -> int:
        """Bytes of the batches that end at or before `offset`."""
        ...


class Accepted(Enum):
    """What became of a chunk offered to a cursor."""

    APPENDED = "appended"
    DUPLICATE = "duplicate"
    GAP = "gap"


class Cursor:
    """Reading state of one partition.

    Attributes:
        topic, topic_id, partition: which one.
        position: the next offset to hand out, or None while it must first be looked up (`reset` says how).
            Invariant: position <= fetch_offset.
        fetch_offset: the next offset to fetch: the end of what is buffered.
        buffer: chunks, contiguous; the first contains `position`, the last ends at `fetch_offset`.
        buffered: bytes in `buffer` not yet handed out. charged: those of them that hold credit of the stream.
        drops: how often the buffer was dropped: rows opened before that are void.
        reset: how to look the position up (see `Fetcher.assign`); None: nothing to look up.
        consumed_epoch: the leader epoch under which the record at the position, or those before it, were written; -1.
        reset_after_drain: what is buffered is still good, but the leader has nothing at `fetch_offset` any more.
        limit: hand out nothing at or above this offset; None: no end.
        paused: the user wants nothing now. error: raised by every poll until the user moves the cursor.
        leader_epoch: the newest seen; older ones are refused. high_watermark, log_start: as last told, or -1.
        mapping: (replica directory, generation) to map instead of streaming, or None.
        unmappable_epoch: mapping failed under this leader epoch: stream until there is a newer one.
        subscription: id on the stream, or None. parked: the server was told to stop; what is on its way still counts.
        stream: the stream of that subscription, or None.
        attempts: failed tries in a row.
        resolving: number of the look-up of the position that is under way, or None.
        queued: stands in the ring of cursors with something to hand out.
    """

    __slots__ = (
        "_freed_of_first",
        "attempts",
        "buffer",
        "buffered",
        "charged",
        "consumed_epoch",
        "drops",
        "error",
        "fetch_offset",
        "following",
        "high_watermark",
        "leader_epoch",
        "left",
        "limit",
        "log_start",
        "mapping",
        "parked",
        "partition",
        "paused",
        "position",
        "queued",
        "reset",
        "reset_after_drain",
        "resolving",
        "stream",
        "subscription",
        "topic",
        "topic_id",
        "unmappable_epoch",
    )

    def __init__(self, topic: str, topic_id: bytes, partition: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.position: int | None = None
        self.fetch_offset = UNKNOWN_OFFSET
        self.buffer: deque[Chunk] = deque()
        self.buffered = 0
        self.charged = 0
        self.drops = 0
        self.reset: str | None = None
        self.reset_after_drain = False
        self.limit: int | None = None
        self.paused = False
        self.error: RayQueueError | None = None
        self.leader_epoch = -1
        self.consumed_epoch = -1
        self.high_watermark = UNKNOWN_OFFSET
        self.log_start = UNKNOWN_OFFSET
        self.mapping: tuple[str, int] | None = None
        self.unmappable_epoch = -1
        self.subscription: int | None = None
        self.stream: Stream | None = None
        self.parked = False
        self.following = False
        self.left = 0
        self.attempts = 0
        self.resolving: int | None = None
        self.queued = False
        self._freed_of_first = 0

    @property
    def key(self) -> tuple[str, int]:
        """(topic, partition)."""
        return (self.topic, self.partition)

    def __repr__(self) -> str:
        return f"Cursor({self.topic}-{self.partition} at {self.position}, fetched to {self.fetch_offset})"

    # --- moving ------------------------------------------------------------------------------------------------

    def move_to(self, offset: int) -> None:
        """Goes on at `offset`; what is buffered is dropped, an error forgotten."""
        self._forget()
        self.position = self.fetch_offset = offset

    def move_by_reset(self, how: str) -> None:
        """The position must be looked up: "earliest", "latest" or "none" (which makes an error of the look-up)."""
        self._forget()
        self.position = None
        self.fetch_offset = UNKNOWN_OFFSET
        self.reset = how

    def _forget(self) -> None:
        self.drop_buffer()
        self.reset = None
        self.reset_after_drain = False
        self.resolving = None
        self.error = None
        self.attempts = 0

    def drop_buffer(self) -> None:
        """Drops what was fetched ahead; it will be fetched again."""
        self.buffer.clear()
        self.buffered = self.charged = self._freed_of_first = 0
        self.drops += 1
        if self.position is not None:
            self.fetch_offset = self.position

    # --- buffering ---------------------------------------------------------------------------------------------

    def accept(self, chunk: Chunk, *, charged: bool) -> Accepted:
        """Takes a chunk in.

        The first batch of a fetch may start before the offset asked for: what is before the position is never handed
        out. A chunk that lies wholly before `fetch_offset` is a duplicate. One that starts after it would leave a
        hole: it is refused, and the caller fetches again from `fetch_offset`.
        """
        if chunk.next_offset <= self.fetch_offset:
            return Accepted.DUPLICATE
        if chunk.base_offset > self.fetch_offset:
            return Accepted.GAP
        self.buffer.append(chunk)
        self.fetch_offset = chunk.next_offset
        self.buffered += chunk.size
        if charged:
            self.charged += chunk.size
        return Accepted.APPENDED

    def advance(self, position: int) -> int:
        """Hands out all below `position`; returns how many bytes of credit that frees (whole batches)."""
        freed = 0
        buffer = self.buffer
        while buffer and buffer[0].next_offset <= position:
            freed += buffer.popleft().size - self._freed_of_first
            self._freed_of_first = 0
        if buffer:
            before = buffer[0].size_before(position)
            freed += before - self._freed_of_first
            self._freed_of_first = before
        self.position = position
        if position > self.fetch_offset:
            self.fetch_offset = position
        self.buffered -= freed
        credit = min(freed, self.charged)
        self.charged -= credit
        return credit

    # --- what there is -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the end set by `limit` is reached."""
        return self.limit is not None and self.position is not None and self.position >= self.limit

    @property
    def has_records(self) -> bool:
        """Whether there is something to hand out now, in the buffer or in the mapped segments."""
        if self.paused or self.error is not None or self.position is None or self.finished:
            return False
        if self.buffer:
            return True
        return self.mapping is not None and not self.reset_after_drain and self.fetch_offset < self.high_watermark

    @property
    def wants_data(self) -> bool:
        """Whether the leader should send, as far as user and position are concerned."""
        return not self.paused and self.error is None and self.position is not None and not self.reset_after_drain

    def validate(self) -> None:
        """Raises AssertionError where an invariant does not hold."""
        assert self.buffered >= 0 and 0 <= self.charged <= self.buffered, (self.charged, self.buffered)
        if self.position is None:
            assert self.reset is not None or self.error is not None, "no position, and nothing looks it up"
            assert not self.buffer
            return
        assert self.position <= self.fetch_offset, (self.position, self.fetch_offset)
        at = self.position
        for chunk in self.buffer:
            assert chunk.base_offset <= at < chunk.next_offset or at == self.position, "a hole in the buffer"
            at = chunk.next_offset
        assert not self.buffer or at == self.fetch_offset
        assert (self.subscription is None) == (self.stream is None)
        assert not self.parked or self.subscription is not None
