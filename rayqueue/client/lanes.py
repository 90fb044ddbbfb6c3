"""One partition's way out of a producer: its batches in order, and which of them may be sent now.

A batch's life::

    waiting (no stamp) --sent--> in flight --acked--> done
         ^                          |  |
         |                          |  +--definite failure, or out of time--> done (the lane drains)
         +--- stamp kept: retry ----+
         +--- stamp taken away: the log certainly does not have it, and a gap keeps it out (drain)

Draining (idempotent only): a stamped batch has failed, so the log will refuse all sequences after it. The batches that
were stamped after it are sent again under their old stamps until each is known to be in the log (a duplicate) or not
(OutOfOrderSequence). Then, and only then, the lane restarts at the next epoch: had it restarted earlier, a batch that
is in the log under the old stamp could be written again under a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from rayqueue.client.sequences import UNSTAMPED, Sequences, Stamp

WAITING, IN_FLIGHT, DONE = 0, 1, 2


class Batch:
    """A batch of records for one partition, ready to be sent.

    Attributes:
        lane: its partition's lane.
        record_count, size: records, and bytes of the message.
        min_timestamp, max_timestamp: ms since the epoch. attributes: compression bits. crc: of the message.
        deadline_ms: when it is given up.
        message, part: the shell's: what to send, and whom to tell.
        number: place in the lane's order; never changes.
        stamp: UNSTAMPED until it is first sent.
        attempts: how often it came back. sent: how often it was sent; an answer to an older sending is ignored.
        last_error: why it came back last, for the message of DeliveryTimeout.
    """

    __slots__ = (
        "attempts", "attributes", "crc", "deadline_ms", "lane", "last_error", "max_timestamp", "message",
        "min_timestamp", "number", "part", "record_count", "sent", "size", "stamp", "state",
    )  # fmt: skip

    def __init__(
        self,
        lane: Lane,
        record_count: int,
        size: int,
        deadline_ms: float,
        *,
        min_timestamp: int = -1,
        max_timestamp: int = -1,
        attributes: int = 0,
        crc: int = 0,
        message: Any = None,
        part: Any = None,
    ) -> None:
        self.lane = lane
        self.record_count = record_count
        self.size = size
        self.deadline_ms = deadline_ms
        self.min_timestamp = min_timestamp
        self.max_timestamp = max_timestamp
        self.attributes = attributes
        self.crc = crc
        self.message = message
        self.part = part
        self.number = -1
        self.stamp: Stamp = UNSTAMPED
        self.state = WAITING
        self.attempts = 0
        self.sent = 0
        self.last_error: Exception | None = None

    @property
    def stamped(self) -> bool:
        """Whether the log may have it under its stamp."""
        return self.stamp is not UNSTAMPED


class Lane:
    """The batches of one partition, in order.

    Attributes:
        topic, topic_id, partition: which.
        node: the leader's address (opaque), or None while it is not known. leader_epoch: of that leader.
        waiting: to be sent, by number; in_flight: sent and unanswered, by number.
        idempotent: whether batches are stamped.
        established: whether the log has acked under this producer id and epoch. Until then one batch is in flight: a
            log that does not know the producer takes any sequence as its first, so a second batch could overtake.
        draining: see above. blocked_until_ms: no sending before (backoff).
    """

    __slots__ = (
        "_numbered", "blocked_until_ms", "draining", "established", "idempotent", "in_flight", "leader_epoch", "node",
        "partition", "sequences", "topic", "topic_id", "waiting", "window",
    )  # fmt: skip

    def __init__(self, topic: str, topic_id: bytes, partition: int, *, idempotent: bool, window: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.idempotent = idempotent
        self.window = window
        self.node: Hashable = None
        self.leader_epoch = -1
        self.waiting: deque[Batch] = deque()
        self.in_flight: list[Batch] = []
        self.sequences = Sequences()
        self.established = not idempotent
        self.draining = False
        self.blocked_until_ms = 0.0
        self._numbered = 0

    def __repr__(self) -> str:
        return f"Lane({self.topic}-{self.partition}, waiting={len(self.waiting)}, in_flight={len(self.in_flight)})"

    @property
    def idle(self) -> bool:
        """Whether nothing is outstanding."""
        return not self.waiting and not self.in_flight

    @property
    def last_error(self) -> Exception | None:
        """Why the first batch that came back, of those that are outstanding, did."""
        return next((b.last_error for b in (*self.in_flight, *self.waiting) if b.last_error is not None), None)

    def add(self, batch: Batch) -> None:
        """Takes a new batch at the end."""
        batch.number = self._numbered
        self._numbered += 1
        self.waiting.append(batch)

    def put_back(self, batch: Batch) -> None:
        """A batch in flight waits again, at its place."""
        self.in_flight.remove(batch)
        batch.state = WAITING
        passed = []
        while self.waiting and self.waiting[0].number < batch.number:
            passed.append(self.waiting.popleft())
        self.waiting.appendleft(batch)
        self.waiting.extendleft(reversed(passed))

    def next_batch(self) -> Batch | None:
        """The batch to send next, if one may be sent: the shell has looked at node, window of the node and backoff."""
        if not self.waiting or len(self.in_flight) >= (self.window if self.established else 1):
            return None
        if not self.draining:
            return self.waiting[0]
        return next((batch for batch in self.waiting if batch.stamped), None)

    def send(self, batch: Batch) -> None:
        """The batch is on its way; stamps it the first time."""
        if self.waiting[0] is batch:
            self.waiting.popleft()
        else:
            self.waiting.remove(batch)
        if self.idempotent and not batch.stamped:
            batch.stamp = self.sequences.stamp(batch.record_count)
        batch.state = IN_FLIGHT
        batch.sent += 1
        at = len(self.in_flight)
        while at and self.in_flight[at - 1].number > batch.number:
            at -= 1
        self.in_flight.insert(at, batch)

    def acked(self, batch: Batch) -> None:
        """The log has the batch."""
        self.in_flight.remove(batch)
        batch.state = DONE
        self.established = True

    def drop(self, batch: Batch) -> None:
        """The batch has failed for good; if the log might know its stamp, or miss it, the lane drains."""
        if batch.state == IN_FLIGHT:
            self.in_flight.remove(batch)
        else:
            self.waiting.remove(batch)
        batch.state = DONE
        if batch.stamped:
            self.draining = True

    def is_first_unresolved(self, batch: Batch) -> bool:
        """Whether no stamped batch before this one is outstanding."""
        earlier = (b for queue in (self.waiting, self.in_flight) for b in queue if b.number < batch.number)
        return not any(b.stamped for b in earlier)

    def unstamp(self, batch: Batch) -> None:
        """The log certainly does not have this batch in flight: it waits to be stamped anew, and the lane drains."""
        self.put_back(batch)
        batch.stamp = UNSTAMPED
        self.draining = True

    def drained(self) -> bool:
        """Whether the lane drains and every stamped batch is resolved."""
        return self.draining and not self.in_flight and not any(batch.stamped for batch in self.waiting)

    def restart(self) -> bool:
        """Ends the draining with the next epoch; False when that takes a new producer id."""
        self.draining = False
        self.established = False
        return self.sequences.restart()

    def validate(self) -> None:
        """The invariants."""
        for queue in (list(self.waiting), self.in_flight):
            numbers = [batch.number for batch in queue]
            assert numbers == sorted(numbers)
        assert all(batch.state == WAITING for batch in self.waiting)
        assert all(batch.state == IN_FLIGHT for batch in self.in_flight)
        assert len(self.in_flight) <= self.window
        if self.idempotent:
            assert all(batch.stamped for batch in self.in_flight)
            stamped = [batch.stamped for batch in self.waiting]
            assert self.draining or stamped == sorted(stamped, reverse=True), "a stamped batch behind an unstamped one"
        else:
            assert not self.draining
