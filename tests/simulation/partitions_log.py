"""A partition's log in memory, as its disk holds it: a batch is its header, and the same header is the same batch.

start ........ flushed_end ........ end
               `-- lost, or part of it, when the machine loses power; a process that dies loses nothing
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from random import Random

from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication.leader_epochs import NO_EPOCH, LeaderEpochs
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates


class MemoryLog:
    """Batches from `start` on, and how far they are durable. The first batch may begin before `start`.

    Attributes:
        cuts: how often it was cut: what a flush that began before says of its end is not true of it now.
    """

    def __init__(self, start: int = 0) -> None:
        self.start = self.end = self.flushed_end = start
        self.cuts = 0
        # Of what is deleted: the producers, as a snapshot at `start` keeps them, and the last leader epoch.
        self._deleted, self._deleted_epoch = ProducerStates(), NO_EPOCH
        self.batches: list[BatchHeader] = []
        self._bases: list[int] = []

    def append(self, batches: list[BatchHeader]) -> None:
        """Writes batches, which must continue the log."""
        for batch in batches:
            assert batch.base_offset == self.end, f"a batch at {batch.base_offset} in a log that ends at {self.end}"
            self.batches.append(batch)
            self._bases.append(batch.base_offset)
            self.end = batch.last_offset + 1

    def read(self, offset: int, limit: int, most: int = 8) -> list[BatchHeader]:
        """Batches from the one that contains `offset` on which end below `limit`."""
        first = max(0, bisect_right(self._bases, offset) - 1)
        found = self.batches[first : first + most]
        while found and (found[-1].last_offset >= limit):
            found.pop()
        while found and found[0].last_offset < offset:
            del found[0]
        return found

    def between(self, begin: int, end: int) -> list[BatchHeader]:
        """The batches that begin in this range of offsets."""
        return self.batches[bisect_left(self._bases, begin) : bisect_left(self._bases, end)]

    def truncate(self, end: int) -> None:
        """Cuts off what is above `end`, durably."""
        self.cuts += 1
        kept = bisect_left(self._bases, end)
        assert kept == 0 or self.batches[kept - 1].last_offset < end, f"{end} lies inside of a batch"
        del self.batches[kept:], self._bases[kept:]
        self.end = max(end, self.start)
        self.flushed_end = min(self.flushed_end, self.end)

    def reset(self, start: int) -> None:
        """Empties the log; it begins at `start`, and knows nothing of what was below."""
        self.cuts += 1
        self.batches.clear()
        self._bases.clear()
        self._deleted, self._deleted_epoch = ProducerStates(), NO_EPOCH
        self.start = self.end = self.flushed_end = start

    def keep(self, producers: ProducerStates) -> None:
        """A snapshot at the start of an emptied log, of what the leader has told of its producers."""
        self._deleted = producers.below(self.start)

    def advance_start(self, start: int) -> None:
        """Deletes what is wholly below `start`."""
        assert start <= self.end
        self.start = max(self.start, start)
        gone = 0
        while gone < len(self.batches) and self.batches[gone].last_offset < self.start:
            gone += 1
        self._deleted.replay(self.batches[:gone], 0)
        self._deleted_epoch = self.batches[gone - 1].leader_epoch if gone else self._deleted_epoch
        del self.batches[:gone], self._bases[:gone]

    def lose_power(self, random: Random) -> int:
        """Some of what is not durable is gone, a batch that is torn as a whole; how many batches."""
        ends = [self.flushed_end, *(b.last_offset + 1 for b in self.batches if b.last_offset >= self.flushed_end)]
        before = len(self.batches)
        self.truncate(random.choice(ends))
        self.flushed_end = self.end
        return before - len(self.batches)

    def epochs(self) -> LeaderEpochs:
        """Read from the batches, and that of the last one that is deleted."""
        epochs = LeaderEpochs()
        epochs.note(self._deleted_epoch, (self.batches[0].base_offset if self.batches else self.start) - 1)
        for batch in self.batches:
            epochs.note(batch.leader_epoch, batch.base_offset)
        return epochs

    def producers(self, wall_ms: int) -> ProducerStates:
        """Read from the snapshot and the batches."""
        states = ProducerStates()
        states.load(self._deleted.dump())
        states.replay(self.batches, wall_ms)
        return states

    def facts(self, wall_ms: int, high_watermark: int | None = None) -> LogFacts:
        """The log as a process finds it."""
        committed = self.start if high_watermark is None else high_watermark
        end = self.end
        return LogFacts(self.start, end, end, self.flushed_end, committed, self.epochs(), self.producers(wall_ms))
