"""Records on their way to becoming batches: an open chunk a topic, and how much memory is left.

`produce()` appends to its topic's open chunk; a chunk holds the records of all the topic's partitions in the order of the
calls, and is split over the partitions at once when it is closed. Pure; the caller holds one lock over every call.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Any

# What a record costs beside its bytes: counted for buffer.memory, batch.size and max.message.bytes alike.
RECORD_OVERHEAD = 32
_CHUNK_BYTES_MAX = 32 << 20


class Chunk:
    """Records of one topic. Columns are parallel; a column nobody has used is None.

    Attributes:
        topic: the shell's state of the topic.
        receipt: the shell's: tells the callers what became of the records.
        values, keys: bytes or None each (a typed topic: rows as dicts, and no keys).
        times: int64, ns since the epoch.
        headers: a list of pairs or None each; partitions: int each, -1 where nobody chose.
        plain: no record has headers or a partition of its own: what the hot path may add to.
        size: bytes of the records, overhead included, as reserved from the memory.
        opened_ms: when the sender saw the first record; -1 before.
    """

    __slots__ = (
        "headers", "keys", "opened_ms", "partitions", "plain", "receipt", "size", "times", "topic", "values",
    )  # fmt: skip

    def __init__(self, topic: Any, receipt: Any) -> None:
        self.topic = topic
        self.receipt = receipt
        self.values: list[Any] = []
        self.times: array[int] = array("q")
        self.keys: list[bytes | None] | None = None
        self.headers: list[Any] | None = None
        self.partitions: list[int] | None = None
        self.plain = True
        self.size = 0
        self.opened_ms = -1.0

    def __len__(self) -> int:
        return len(self.values)

    def append(
        self, value: Any, key: bytes | None, time_ns: int, headers: Any, partition: int, size: int
    ) -> None:
        """Adds a record; columns begin when they are first used."""
        count = len(self.values)
        if key is not None and self.keys is None:
            self.keys = [None] * count
        if headers is not None and self.headers is None:
            self.headers = [None] * count
            self.plain = False
        if partition >= 0 and self.partitions is None:
            self.partitions = [-1] * count
            self.plain = False
        self.values.append(value)
        if self.keys is not None:
            self.keys.append(key)
        if self.headers is not None:
            self.headers.append(headers)
        if self.partitions is not None:
            self.partitions.append(partition)
        self.times.append(time_ns)
        self.size += size

    def truncate(self, count: int) -> None:
        """Takes back a record that was interrupted half way (Ctrl-C): every column has `count` records again."""
        for column in (self.values, self.keys, self.headers, self.partitions, self.times):
            if column is not None:
                del column[count:]


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
        hurry: how many flushes wait: while there are any, nothing lingers.
    """

    # A chunk that cannot be sent yet, because the window is full, is better left open to grow; but not for longer.
    HOLD_MS = 100.0

    def __init__(self, linger_ms: float, batch_size: int, buffer_memory: int) -> None:
        self.linger_ms = linger_ms
        self.batch_size = batch_size
        self.memory = Memory(buffer_memory)
        self.hurry = 0
        self._open: dict[Any, Chunk] = {}
        self._closed: deque[Any] = deque()

    def full_at(self, partitions: int) -> int:
        """The size at which a topic's chunk is closed: a batch for each partition, within reason."""
        return max(1, min(self.batch_size * partitions, _CHUNK_BYTES_MAX, self.memory.limit // 4))

    def open(self, topic: Any, receipt: Any) -> Chunk:
        """A new open chunk for a topic that has none; `topic.chunk` is it until it is closed."""
        assert topic not in self._open, "a topic has one open chunk"
        chunk = self._open[topic] = topic.chunk = Chunk(topic, receipt)
        return chunk

    def close(self, topic: Any) -> None:
        """Closes a topic's open chunk, if it has one: it is full, or something has to stand behind it."""
        chunk = self._open.pop(topic, None)
        if chunk is not None:
            topic.chunk = None
            self._closed.append(chunk)

    def add(self, work: Any) -> None:
        """Work (a piece of a table) that keeps its place behind what is closed."""
        self._closed.append(work)

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
            if len(chunk) and due and (topic in roomy or age >= max(self.linger_ms, self.HOLD_MS)):
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
