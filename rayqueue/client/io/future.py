"""Futures of `produce` and `produce_batch`.

A future of a record is two words: the receipt of its chunk, and its place there. Nothing is done for a single record
when its batch is acked; who asks for a result looks it up then. That is what lets every record have a future.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from rayqueue.client.partitioner import Rows
from rayqueue.errors import RayQueueError, RequestTimeout
from rayqueue.types import RecordMetadata

DoneCallback = Callable[[Any], Any]
RunCallbacks = Callable[[list[tuple[DoneCallback, Any]]], None]
Trouble = Callable[[str, int], str]
Times = Sequence[int] | npt.NDArray[np.int64]


class Part:
    """The records of a receipt that travel in one batch.

    Attributes:
        receipt: whose; gone once they are settled, for it refers to its parts.
        partition: where they go. rows: which, ascending. count: how many.
        reserved: bytes of buffer.memory they hold.
        offset: of the first, once acked; -1 before, with acks=0, and after an error.
        append_time: ms, where the log set the timestamps, else -1.
        error: why they failed. done: whether the outcome is there.
    """

    __slots__ = ("append_time", "count", "done", "error", "offset", "partition", "receipt", "reserved", "rows")

    def __init__(self, receipt: Receipt, partition: int, rows: Rows, reserved: int) -> None:
        self.receipt = receipt
        self.partition = partition
        self.rows = rows
        self.count = len(rows)
        self.reserved = reserved
        self.offset = -1
        self.append_time = -1
        self.error: RayQueueError | None = None
        self.done = False


class Receipt:
    """What became of the records of a chunk, or of a table.

    Args:
        topic: the topic's name.
        run_callbacks: hands (callback, argument) pairs to the client's callback thread; called under a lock.
        together: the records share one future (a table), which is done when all of them are.
        trouble: says of a topic's partition (-1: any) what keeps it from its acks, for the end of a message; None:
            unknown.

    Attributes:
        rows: the records while they have not been placed; counts them.
        times: ms: the records' timestamps (None for a table, and before the records are placed).
    """

    __slots__ = (
        "_callbacks", "_lock", "_lookup", "_parts", "_placed", "_run", "_settled", "_together", "_trouble",
        "_waiters",
        "rows", "times", "topic",
    )  # fmt: skip

    def __init__(
        self, topic: str, run_callbacks: RunCallbacks, together: bool = False, trouble: Trouble | None = None
    ) -> None:
        self.topic = topic
        self._trouble = trouble
        self.rows: Sized = ()
        self.times: Times | None = None
        self._run = run_callbacks
        self._together = together
        self._parts: list[Part] = []
        self._placed = False
        self._settled = 0
        self._lock = threading.Lock()
        self._waiters: list[threading.Lock] = []  # each held; released at the next news
        self._callbacks: dict[int, list[tuple[DoneCallback, Any]]] = {}
        self._lookup: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    # --- the sender's side -----------------------------------------------------------------------------------------

    def place(self, parts: list[Part], times: Times | None = None, last: bool = True) -> None:
        """Says in which batches the records (or, for a table, more of them) travel. last: there will be no more."""
        with self._lock:
            self._parts.extend(parts)
            self.times = times
            self._placed = last
            self.rows = ()
            self._wake()

    def settle(self, part: Part, offset: int, append_time: int, error: RayQueueError | None) -> bool:
        """The outcome of a part; True when it was the last one open."""
        with self._lock:
            part.offset, part.append_time, part.error, part.done = offset, append_time, error, True
            self._settled += 1
            complete = self._placed and self._settled == len(self._parts)
            if self._callbacks and (callbacks := self._due(part, complete)):
                self._run(callbacks)  # before anybody can see that it is complete: `flush` waits for callbacks then
            if self._waiters:
                self._wake()
        del part.receipt  # they refer to each other: else only a garbage collection frees them, records and all
        return complete

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()

    def _due(self, part: Part, complete: bool) -> list[tuple[DoneCallback, Any]]:
        if self._together:
            return self._callbacks.pop(0, []) if complete else []
        if len(self._callbacks) < part.count:
            rows = part.rows if isinstance(part.rows, range) else set(np.asarray(part.rows).tolist())
            indices = [index for index in self._callbacks if index in rows]
        else:
            indices = [int(index) for index in part.rows if int(index) in self._callbacks]
        return [pair for index in indices for pair in self._callbacks.pop(index)]

    # --- the caller's side -----------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every record has its outcome."""
        return self._placed and self._settled == len(self._parts)

    def undelivered(self) -> int:
        """Records without an outcome."""
        with self._lock:
            return len(self.rows) + sum(part.count for part in self._parts if not part.done)

    def wait_complete(self, deadline: float | None) -> bool:
        """Waits (till `deadline`, of time.monotonic) for every record's outcome."""
        return self._wait_for(lambda: self.complete, _left(deadline))

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Waits for what `place` or `settle` brings about. It is what `threading.Condition` does, in fewer calls: the
        ack of a lone record passes through here."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = threading.Lock()
        waiter.acquire()
        while True:
            with self._lock:
                if condition():
                    return True
                self._waiters.append(waiter)
            if deadline is None:
                waiter.acquire()
            elif not waiter.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)):
                with self._lock:
                    if waiter in self._waiters:  # else it has just been released
                        self._waiters.remove(waiter)
                    return condition()

    def find(self, index: int) -> tuple[Part, int] | None:
        """The part that holds a record and its place there; None while it has not been placed."""
        parts = self._parts
        if not self._placed:
            return None
        if len(parts) == 1:
            return parts[0], index
        if self._lookup is None:
            self._lookup = self._index()
        which, position = self._lookup
        return parts[which[index]], int(position[index])

    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        count = sum(part.count for part in self._parts)
        which, position = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for number, part in enumerate(self._parts):
            rows = part.rows
            at = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows
            which[at] = number
            position[at] = np.arange(part.count)
        return which, position

    def outcome(self, index: int) -> tuple[Part, int] | None:
        """As `find`, but None until the record has its outcome."""
        found = self.find(index)
        return found if found is not None and found[0].done else None

    def wait(self, index: int, timeout: float | None) -> tuple[Part, int]:
        """Waits for a record's outcome.

        Raises:
            RequestTimeout: it did not come in time; the record is still on its way.
        """
        found = self.outcome(index)
        if found is None:
            self._wait_for(lambda: self.outcome(index) is not None, timeout)
            found = self.outcome(index)
        if found is None:
            late = self.find(index)
            raise self._not_yet(timeout, None if late is None else late[0])
        return found

    def wait_all(self, timeout: float | None) -> list[Part]:
        """Waits for every record's outcome; the parts.

        Raises:
            RequestTimeout: they did not come in time.
        """
        if not self.complete:
            self._wait_for(lambda: self.complete, timeout)
        if not self.complete:
            raise self._not_yet(timeout, next((part for part in self._parts if not part.done), None))
        return self._parts

    def _not_yet(self, timeout: float | None, late: Part | None) -> RequestTimeout:
        why = "" if self._trouble is None else self._trouble(self.topic, -1 if late is None else late.partition)
        return RequestTimeout(
            f"no ack within {timeout} s: the record is still on its way; ask again, or wait longer{why}"
        )

    def call_when_done(self, index: int, function: DoneCallback, argument: Any) -> None:
        """Runs function(argument) when the record (a table: all of them) has its outcome; at once if it has."""
        with self._lock:
            done = self.complete if self._together else self.outcome(index) is not None
            if not done:
                self._callbacks.setdefault(index, []).append((function, argument))
                return
        function(argument)

    def on_delivery(self, index: int, function: DoneCallback, argument: Any) -> None:
        """As `call_when_done`, for a record that was just taken; never runs on the caller's thread."""
        with self._lock:
            if self.outcome(index) is None:
                self._callbacks.setdefault(index, []).append((function, argument))
                return
        self._run([(function, argument)])


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _fresh(error: RayQueueError) -> RayQueueError:
    """A copy to raise: one object raised by many would collect their tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


class RecordFuture(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The outcome of one `produce` call. Thread-safe.

    It is not tracked by the garbage collector, so that a million of them cost little; it refers to its receipt only.
    """

    _receipt: Receipt
    _index: int

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Waits for the ack.

        Args:
            timeout: seconds; None: as long as it takes (`delivery.timeout.ms` bounds it).

        Raises:
            RayQueueError: why the record was not written; DeliveryTimeout when that is not known.
            RequestTimeout: no outcome within `timeout`.
        """
        part, position = self._receipt.wait(self._index, timeout)
        if part.error is not None:
            raise _fresh(part.error)
        return self._metadata(part, position)

    def exception(self, timeout: float | None = None) -> RayQueueError | None:
        """Waits for the outcome; the error, or None. RequestTimeout as `result`."""
        return self._receipt.wait(self._index, timeout)[0].error

    def done(self) -> bool:
        """Whether the outcome is there."""
        return self._receipt.outcome(self._index) is not None

    def add_done_callback(self, function: Callable[[RecordFuture], Any]) -> None:
        """Calls function(self) when the outcome is there, on the producer's callback thread; at once if it is."""
        self._receipt.call_when_done(self._index, function, self)

    def metadata(self, timeout: float | None = None) -> RecordMetadata:
        """As `result`, but after an error it says, with offset -1, which record it was."""
        return self._metadata(*self._receipt.wait(self._index, timeout))

    def _metadata(self, part: Part, position: int) -> RecordMetadata:
        timestamp = part.append_time
        if timestamp < 0 and self._receipt.times is not None:
            timestamp = int(self._receipt.times[self._index])
        offset = part.offset + position if part.offset >= 0 else -1
        return RecordMetadata(self._receipt.topic, part.partition, offset, timestamp)

    def __repr__(self) -> str:
        found = self._receipt.outcome(self._index)
        if found is None:
            return f"<RecordFuture of {self._receipt.topic}: on its way>"
        if found[0].error is not None:
            return f"<RecordFuture of {self._receipt.topic}: {type(found[0].error).__name__}: {found[0].error}>"
        return f"<RecordFuture {self._metadata(*found)}>"


class BatchFuture:
    """The outcome of one `produce_batch` call. Thread-safe."""

    __slots__ = ("_receipt",)

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt

    def result(self, timeout: float | None = None) -> list[tuple[int, int, int]]:
        """Waits for every ack.

        Returns:
            (partition, base_offset, count) of each unbroken run of offsets, ordered; base_offset is -1 with acks=0.

        Raises:
            RayQueueError: the first error of a part; the message says how many records were written all the same.
            RequestTimeout: no outcome within `timeout` seconds.
        """
        parts = self._receipt.wait_all(timeout)
        failed = next((part.error for part in parts if part.error is not None), None)
        if failed is not None:
            written, total = sum(p.count for p in parts if p.error is None), sum(p.count for p in parts)
            raise type(failed)(f"{failed} ({written} of the {total} records of this call were written)") from failed
        runs: list[tuple[int, int, int]] = []
        for part in sorted(parts, key=lambda p: (p.partition, p.offset)):
            if runs and runs[-1][0] == part.partition and _follows(runs[-1], part.offset):
                runs[-1] = (part.partition, runs[-1][1], runs[-1][2] + part.count)
            elif part.count:
                runs.append((part.partition, part.offset, part.count))
        return runs

    def exception(self, timeout: float | None = None) -> RayQueueError | None:
        """Waits for every outcome; the error that `result` would raise, or None."""
        try:
            self.result(timeout)
        except RequestTimeout:
            if not self.done():
                raise
            return next(part.error for part in self._receipt.wait_all(0) if part.error is not None)
        except RayQueueError as error:
            return error
        return None

    def done(self) -> bool:
        """Whether every outcome is there."""
        return self._receipt.complete

    def add_done_callback(self, function: Callable[[BatchFuture], Any]) -> None:
        """Calls function(self) when every outcome is there, on the producer's callback thread; at once if they are."""
        self._receipt.call_when_done(0, function, self)

    def __repr__(self) -> str:
        state = "done" if self.done() else f"{self._receipt.undelivered()} records on their way"
        return f"<BatchFuture of {self._receipt.topic}: {state}>"


def _follows(run: tuple[int, int, int], offset: int) -> bool:
    return offset == run[1] + run[2] if offset >= 0 else run[1] < 0
