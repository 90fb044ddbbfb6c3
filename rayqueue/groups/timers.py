"""Deadlines that are mostly put off: that only writes a number; the heap learns of it when the old one passes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any


class Timers:
    """Deadlines by key.

    Invariant: each key's deadline has an entry in the heap that is no later. So the first entry may be early: then
    `next_deadline_ms` is too, and nothing has expired.
    """

    def __init__(self) -> None:
        self._deadlines: dict[Hashable, int] = {}
        self._entries: dict[Hashable, int] = {}  # the time of each key's only valid entry in the heap
        self._heap: list[tuple[int, int, Any]] = []
        self._count = 0

    def set(self, key: Hashable, deadline_ms: int) -> None:
        """From now on this is the key's deadline."""
        self._deadlines[key] = deadline_ms
        entry = self._entries.get(key)
        if entry is None or deadline_ms < entry:
            self._enter(key, deadline_ms)

    def _enter(self, key: Hashable, deadline_ms: int) -> None:
        self._entries[key] = deadline_ms
        self._count += 1
        heappush(self._heap, (deadline_ms, self._count, key))

    def drop(self, key: Hashable) -> None:
        """The key has no deadline any more."""
        self._deadlines.pop(key, None)

    def deadline_of(self, key: Hashable) -> int | None:
        """The key's deadline."""
        return self._deadlines.get(key)

    def expired(self, now_ms: int) -> Iterator[Any]:
        """Takes out the keys whose deadlines have passed, in their order."""
        while self._heap and self._heap[0][0] <= now_ms:
            time_ms, _, key = heappop(self._heap)
            if self._entries.get(key) != time_ms:
                continue
            del self._entries[key]
            deadline = self._deadlines.get(key)
            if deadline is None:
                continue
            if deadline > now_ms:
                self._enter(key, deadline)
                continue
            del self._deadlines[key]
            yield key

    def next_deadline_ms(self) -> int | None:
        """When to call `expired`; None: there is no deadline."""
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """No deadlines."""
        self._deadlines.clear()
        self._entries.clear()
        self._heap.clear()

    def validate(self) -> None:
        """Asserts the invariant."""
        there = {(time_ms, key) for time_ms, _, key in self._heap}
        for key, deadline in self._deadlines.items():
            assert self._entries[key] <= deadline and (self._entries[key], key) in there
        heap = list(self._heap)
        heapify(heap)
        assert not heap or heap[0] == self._heap[0]
