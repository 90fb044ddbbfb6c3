"""What of a node's writes is on its disk, and the answers that wait for it.

A node may change its mind in memory at once; it promises nothing (a vote, an adopted entry) before the write behind the
promise is durable.
"""

from __future__ import annotations

from collections import deque

from rayqueue.coordination.quorum.messages import AnyMessage


class Durability:
    """Numbers writes and follows them to the disk.

    Attributes:
        issued, done: numbers of the last write asked for, and of the last that is durable. Invariant: done <= issued.
        end: entries up to it are durable as they stand in the log now. Invariant: end <= the log's end.
        vote_write: number of the last write of epoch and vote.
    """

    def __init__(self, end: int, promises_max: int) -> None:
        self.issued = self.done = self.vote_write = 0
        self.end = end
        self._ends: deque[tuple[int, int]] = deque()
        self._promises: deque[tuple[int, AnyMessage]] = deque(maxlen=promises_max)

    def write(self) -> int:
        """The number of the next write."""
        self.issued += 1
        return self.issued

    def grows(self, write: int, end: int) -> None:
        """With this write the log will be durable up to `end`."""
        self._ends.append((write, end))

    def cut(self, end: int) -> None:
        """What is above `end` is no longer in the log, though writes of it may be under way."""
        self.end = min(self.end, end)
        self._ends = deque((write, min(at, end)) for write, at in self._ends)

    def promise(self, message: AnyMessage) -> None:
        """Keeps a message until all that has been written so far is durable."""
        self._promises.append((self.issued, message))

    def persisted(self, write: int) -> list[AnyMessage]:
        """Writes up to this number are durable; gives the messages that may go now."""
        self.done = max(self.done, write)
        while self._ends and self._ends[0][0] <= write:
            self.end = self._ends.popleft()[1]
        due = []
        while self._promises and self._promises[0][0] <= write:
            due.append(self._promises.popleft()[1])
        return due

    def validate(self, log_end: int) -> None:
        """Asserts every invariant."""
        assert 0 <= self.done <= self.issued and self.vote_write <= self.issued
        assert self.end <= log_end
        if self._ends:
            assert self.done < self._ends[0][0] and self._ends[-1][0] <= self.issued
            assert self.end <= self._ends[0][1] and self._ends[-1][1] <= log_end
        if self._promises:
            assert self.done < self._promises[0][0] and self._promises[-1][0] <= self.issued
