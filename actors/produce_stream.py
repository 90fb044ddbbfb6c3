"""The produce exchange: reads requests, checks batches on the stream's own thread, and answers in order.

A request's batches are checked here (CRC, Arrow structure, schema, size), so that the actor's loop only orders and
writes. The stream is read no further while too many requests, or too many bytes in the whole actor, are unanswered.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import google_crc32c
import pyarrow as pa

from rayqueue.actors.exchange import Exchange
from rayqueue.errors import ProtocolError, RayQueueError, UnknownTopicOrPartition
from rayqueue.protocol import codec
from rayqueue.protocol.ipc import IpcMessage, split_message, wire_crc
from rayqueue.protocol.messages import ProduceBatch, ProduceRequest, ProduceResponse, ProduceResult
from rayqueue.protocol.small_batches import split_small

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)

# A small request is handled on its stream's thread when the loop is free: the hop would cost more than the work. A
# large one is not, so that the next one is read and checked while it is written.
INLINE_BYTES = 64 * 1024
UNANSWERED = ProduceResult(-1, -1, "RayQueueError", "no answer")


class ByteBudget:
    """Bounds the bytes that all streams of an actor hold unanswered. One request always passes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting = 0
        # The lock is taken as it is where nobody waits: the condition's own methods are Python, and cost more.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def acquire(self, size: int) -> None:
        """Waits until `size` more bytes fit."""
        with self._lock:
            while self._used and self._used + size > self._limit:
                self._waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._waiting -= 1
            self._used += size

    def release(self, size: int) -> None:
        """Gives bytes back."""
        with self._lock:
            self._used -= size
            if self._waiting:
                self._changed.notify_all()


class Window:
    """Bounds the requests of a stream that are unanswered: a semaphore for one who takes, and many who give back.

    A deque's own methods are atomic, and cost a fifth of what `threading.Semaphore` does.
    """

    def __init__(self, size: int) -> None:
        self._free = deque([None] * size)
        self._given = threading.Event()
        self._waiting = False

    def acquire(self) -> None:
        """Takes a place, waiting for one."""
        try:
            self._free.pop()
        except IndexError:
            self._wait()

    def _wait(self) -> None:
        # A place that is given back before `_waiting` is set is found by the look that follows; after it, it is told.
        self._waiting = True
        while True:
            self._given.clear()
            try:
                self._free.pop()
                break
            except IndexError:
                self._given.wait()
        self._waiting = False

    def release(self) -> None:
        """Gives a place back."""
        self._free.append(None)
        if self._waiting:
            self._given.set()


class Item:
    """A batch of a request on its way through the loop: the machine's `ref`."""

    __slots__ = ("batch", "body_crc", "index", "message", "partition", "request")

    def __init__(
        self,
        request: Request,
        index: int,
        batch: ProduceBatch,
        partition: HostedPartition,
        message: IpcMessage,
        crc: int,
    ) -> None:
        self.request = request
        self.index = index
        self.batch = batch
        self.partition = partition
        self.message = message
        self.body_crc = crc


class Request:
    """A request with its answer as it fills. After it is posted, only the loop touches it."""

    __slots__ = ("acks", "correlation", "items", "remaining", "results", "size", "stream")

    def __init__(self, stream: ProduceStream, request: ProduceRequest, size: int) -> None:
        self.stream = stream
        self.correlation = request.correlation
        self.acks = request.acks
        self.size = size
        self.items: list[Item] = []
        self.results: list[ProduceResult] = [UNANSWERED] * len(request.batches)
        self.remaining = 0

    def complete(self, index: int, result: ProduceResult) -> None:
        """One batch is answered; the last one answers the request."""
        self.results[index] = result
        self.remaining -= 1
        if self.remaining == 0:
            self.stream.answer()


class ProduceStream:
    """One client's produce exchange.

    Args:
        exchange: the stream.
        find: the partition that leads here by id and number; raises when there is none.
        post: gives a request to the loop's thread. submit: the same, or handles it at once on the caller's.
        budget: shared by all streams of the actor.
        max_in_flight: requests taken before answers.
    """

    def __init__(
        self,
        exchange: Exchange,
        find: Callable[[bytes, int], HostedPartition],
        post: Callable[[Request], None],
        submit: Callable[[Request], None],
        budget: ByteBudget,
        max_in_flight: int,
    ) -> None:
        self._exchange = exchange
        self._find = find
        self._post = post
        self._submit = submit
        self._budget = budget
        self._window = Window(max_in_flight)
        self._order: deque[Request] = deque()  # posted, in the order of the stream; popped by the loop

    def run(self) -> None:
        """Reads to the end of the stream.

        Raises:
            ProtocolError: a message is not a produce request; the stream ends with it.
        """
        decode = codec.decoder(ProduceRequest).decode
        while (received := self._exchange.receive()) is not None:
            message, rows = received
            try:
                request = decode(message)
            except Exception as error:
                raise ProtocolError(f"not a ProduceRequest: {error}") from error
            rows = self._rows(request, rows)
            if len(rows) != len(request.batches) or not rows or request.acks not in (-1, 0, 1):
                raise ProtocolError("a ProduceRequest has as many rows as batches, at least one, and acks 0, 1 or -1")
            self._take(request, rows)

    def _rows(self, request: ProduceRequest, sent: list[pa.Buffer]) -> list[pa.Buffer]:
        """A row a batch: those that came, and those that lie in the shared memory."""
        memory = self._exchange.memory
        shared = [batch for batch in request.batches if batch.size]
        if memory is None or not shared:
            return sent
        if request.acks == 0:
            raise ProtocolError("rows in shared memory need an answer: it says that they have been read")
        return memory.rows(request.batches, sent)

    def _take(self, request: ProduceRequest, rows: list[pa.Buffer]) -> None:
        state = Request(self, request, sum([row.size for row in rows]))
        self._window.acquire()
        self._budget.acquire(state.size)
        try:
            self._check_all(state, request, rows)
        except BaseException:
            self._budget.release(state.size)
            self._window.release()
            raise
        self._order.append(state)
        if state.size <= INLINE_BYTES:
            self._submit(state)
        else:
            self._post(state)

    def _check_all(self, state: Request, request: ProduceRequest, rows: list[pa.Buffer]) -> None:
        for index, (batch, row) in enumerate(zip(request.batches, rows, strict=True)):
            try:
                state.items.append(self._check(state, index, batch, row))
            except RayQueueError as error:
                state.results[index] = ProduceResult(-1, -1, type(error).__name__, str(error))
        state.remaining = len(state.items)

    def _check(self, request: Request, index: int, batch: ProduceBatch, row: pa.Buffer) -> Item:
        partition = self._find(batch.topic_id, batch.partition)
        message = split_small(row) or split_message(row)
        body_crc = google_crc32c.value(message.body)
        partition.checks.check(batch, row, message, wire_crc(message, body_crc), partition.config)
        return Item(request, index, batch, partition, message, body_crc)

    def answer(self) -> None:
        """Sends the answers that are complete, in the order of requests. Runs on the loop."""
        order = self._order
        while order and order[0].remaining == 0:
            done = order.popleft()
            done.items.clear()  # an item points back: only a garbage collection would free the request, body and all
            self._budget.release(done.size)
            if done.acks != 0:
                answer = codec.encode(ProduceResponse(done.correlation, done.results))
                # Only when it is written the next request may come, so answers that nobody reads do not pile up. The
                # budget is the whole actor's, and given back before: one such client must not stop the others.
                self._exchange.send(answer, written=self._window.release)
            else:
                self._window.release()


def not_here(topic_id: bytes, partition: int) -> UnknownTopicOrPartition:
    """The error for a partition that this actor has never heard of."""
    return UnknownTopicOrPartition(
        f"partition {partition} of topic id {topic_id.hex()} is not here: it was deleted, or ask for metadata again"
    )
