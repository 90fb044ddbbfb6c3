"""Records on their way to becoming batches: an open chunk a topic, and how much memory is left.

`produce()` appends to its topic's open chunk; a chunk holds the records of all the topic's partitions in the order of
the calls, and is split over the partitions at once when it is closed. Pure; the caller holds one lock over every call,
but for one case:

**A chunk has an owner**: the thread that opened it appends without the lock (which would cost as much as all the rest).
The owner appends, the value last, and then looks at `closed`; whoever closes, under the lock, sets `closed` and then
counts. Under the GIL either the count comes after the append (the record is in), or the append after the count, and so
the owner's look after `closed` was set: then it takes the lock, compares its place with `count`, and if it came too
late appends again elsewhere. Rows behind `count` mean nothing. A chunk that several threads want is owned by nobody
(NOBODY), and all append under the lock.
"""

from __future__ import annotations

from collections import deque
from typing import Any

# What a record costs beside its bytes: counted for buffer.memory, batch.size and max.message.bytes alike.
RECORD_OVERHEAD = 32
_CHUNK_BYTES_MAX = 32 << 20
NOBODY = 0


class Chunk:
    """Records of one topic. Columns are parallel; a column nobody has used is None.

    Attributes:
        topic: the shell's state of the topic.
        receipt: the shell's: tells the callers what became of the records.
        owner: ident of the thread that may append without the lock, or NOBODY. writer: who appended first.
        values, keys: bytes or None each (a typed topic: rows as dicts, and no keys).
        times: ns since the epoch.
        headers: a list of pairs or None each; partitions: int each, -1 where nobody chose.
        granted: bytes taken from the memory for this chunk. room: what is left of them.
        limit: the largest record taken without further ado.
        opened_ms: when the sender saw the first record; -1 before.
        closed: no record may be added any more. count, size: records and bytes then; no meaning before.
    """

    __slots__ = (
        "closed", "count", "granted", "headers", "keys", "limit", "opened_ms", "owner", "partitions", "receipt", "room",
        "size", "times", "topic", "values", "writer",
    )  # fmt: skip

    def __init__(self, topic: Any, receipt: Any, granted: int, *, owner: int, writer: int, limit: int) -> None:
        self.topic = topic
        self.receipt = receipt
        self.owner = owner
        self.writer = writer
        self.values: list[Any] = []
        self.times: list[int] = []
        self.keys: list[bytes | None] | None = None
        self.headers: list[Any] | None = None
        self.partitions: list[int] | None = None
        self.granted = granted
        self.room = granted
        self.limit = limit
        self.opened_ms = -1.0
        self.closed = False
        self.count = 0
        self.size = 0

    @property
    def plain(self) -> bool:
        """Whether no record has headers or a partition of its own: what the hot path may add to."""
        return self.headers is None and self.partitions is None

    def append(self, value: Any, key: bytes | None, time_ns: int, headers: Any, partition: int, size: int) -> int:
        """Adds a record (under the lock, by the owner or when nobody is); columns begin when they are first used.

        Returns:
            Its place.
        """
        assert not self.closed, "a closed chunk takes no records"
        count = len(self.values)
        try:
            if key is not None and self.keys is None:
                self.keys = [None] * count
            if headers is not None and self.headers is None:
                self.headers = [None] * count
            if partition >= 0 and self.partitions is None:
                self.partitions = [-1] * count
            if self.keys is not None:
                self.keys.append(key)
            if self.headers is not None:
                self.headers.append(headers)
            if self.partitions is not None:
                self.partitions.append(partition)
            self.times.append(time_ns)
            self.values.append(value)
        except BaseException:
            self.truncate(count)
            raise
        self.room -= size
        return count

    def truncate(self, count: int) -> None:
        """Takes back a record that was interrupted half way (Ctrl-C): every column has `count` records again."""
        for column in (self.values, self.keys, self.headers, self.partitions, self.times):
            if column is not None:
                del column[count:]

    def close(self) -> None:
        """Ends the chunk: fixes what is in it. In this order, see the module."""
        self.closed = True
        self.count = len(self.values)
        self.size = self.granted - self.room


class Memory:
    """The bytes of `buffer.memory`.

    Attributes:
        free: what is left. Invariant: 0 <= free <= limit.
    """

    __slots__ = ("free", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free = limit

    def fits(self, size: int) -> bool:
        """Whether `size` bytes may be taken now."""
        return size <= self.free

    def take(self, size: int) -> None:
        """Reserves bytes."""
        self.free -= size

    def give(self, size: int) -> None:
        """Returns bytes."""
        self.free += size
        assert self.free <= self.limit, "more memory was given back than taken"


class Accumulator:
    """Open chunks and closed work, in order.

    Args:
        linger_ms: how long a chunk waits for more.
        batch_size: bytes of a partition's batch.
        buffer_memory: bytes in all.

    Attributes:
        memory: the bytes left.
        fast: the chunks that their owners may append to without the lock, by topic name.
        hurry: how many flushes wait: while there are any, nothing lingers.
    """

    # A chunk that cannot be sent yet, because the window is full, is better left open to grow; but not for longer.
    HOLD_MS = 100.0

    def __init__(self, linger_ms: float, batch_size: int, buffer_memory: int) -> None:
        self.linger_ms = linger_ms
        self.batch_size = batch_size
        self.memory = Memory(buffer_memory)
        self.hurry = 0
        self.fast: dict[str, Chunk] = {}
        self._open: dict[Any, Chunk] = {}
        self._closed: deque[Any] = deque()

    def full_at(self, partitions: int) -> int:
        """The size at which a topic's chunk is closed: a batch for each partition, within reason."""
        return max(1, min(self.batch_size * partitions, _CHUNK_BYTES_MAX, self.memory.limit // 4))

    def grant(self, topic: Any, size: int) -> int:
        """How many bytes a chunk for a record of `size` bytes (which fits) takes: a batch a partition, or the rest."""
        return max(size, min(topic.full_at, self.memory.free))

    def open(self, topic: Any, receipt: Any, granted: int, writer: int) -> Chunk:
        """A new open chunk for a topic that has none; `topic.chunk` is it until it is closed.

        Args:
            topic: has name, chunk, plain (bytes as they come), contended and record_max.
            granted: bytes that were taken from the memory for it.
            writer: ident of the thread that opens it.
        """
        assert topic not in self._open, "a topic has one open chunk"
        owner = NOBODY if topic.contended or not topic.plain else writer
        topic.contended = False
        chunk = Chunk(topic, receipt, granted, owner=owner, writer=writer, limit=topic.record_max)
        self._open[topic] = topic.chunk = chunk
        return chunk

    def writable(self, topic: Any, writer: int, size: int) -> Chunk | None:
        """The topic's open chunk if this thread may add a record of `size` bytes to it; else it is closed."""
        chunk: Chunk | None = topic.chunk
        if chunk is None:
            return None
        if chunk.writer != writer:
            topic.contended = True
        if chunk.owner not in (NOBODY, writer) or chunk.room < size:
            self.close(topic)
            return None
        return chunk

    def offer_fast(self, topic: Any) -> None:
        """Lets the owner of the topic's open chunk append without the lock, if the chunk allows it."""
        chunk = topic.chunk
        if chunk is not None and chunk.owner != NOBODY and chunk.plain:
            self.fast[topic.name] = chunk
        else:
            self.fast.pop(topic.name, None)

    def close(self, topic: Any) -> None:
        """Closes a topic's open chunk, if it has one: it is full, or something has to stand behind it."""
        chunk = self._open.pop(topic, None)
        if chunk is None:
            return
        topic.chunk = None
        self.fast.pop(topic.name, None)
        chunk.close()
        self.memory.give(chunk.granted - chunk.size)
        chunk.granted = chunk.size
        self._closed.append(chunk)

    def add(self, work: Any) -> None:
        """Work (a piece of a table) that keeps its place behind what is closed."""
        self._closed.append(work)

    @property
    def closed(self) -> bool:
        """Whether anything is closed and has not been handed out."""
        return bool(self._closed)

    @property
    def pending(self) -> bool:
        """Whether there is anything that has not been handed out."""
        return bool(self._closed or self._open)

    def open_topics(self) -> list[Any]:
        """The topics with an open chunk."""
        return list(self._open)

    def take_due(self, now_ms: float, roomy: Any) -> list[Any]:
        """Closes what has lingered and hands out all that is closed.

        Args:
            now_ms: now.
            roomy: the topics (a set) for which a batch could be sent at once.
        """
        for topic, chunk in list(self._open.items()):
            if chunk.opened_ms < 0:
                chunk.opened_ms = now_ms
            age = now_ms - chunk.opened_ms
            due = self.hurry or age >= self.linger_ms
            if due and (topic in roomy or age >= max(self.linger_ms, self.HOLD_MS)):
                self.close(topic)
        taken = list(self._closed)
        self._closed.clear()
        return taken

    def next_deadline_ms(self, roomy: Any) -> float | None:
        """When an open chunk will be due; chunks the sender has not seen yet do not count (they ring)."""
        times = [
            chunk.opened_ms + (self.linger_ms if topic in roomy else max(self.linger_ms, self.HOLD_MS))
            for topic, chunk in self._open.items()
            if chunk.opened_ms >= 0
        ]
        return min(times) if times else None
