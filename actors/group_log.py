"""A shard's log: taking it over from whoever wrote to it before, and appending to it, at the replica actor that leads
the shard's partition.

    read all that is committed ─▶ append our fence ─▶ read on up to it ─▶ serve: append, hear what was committed
            ▲                                                                      │
            └────────── the connection broke, an append failed or is unknown ◀─────┘

Whoever wrote before may have frames in a socket of the leader's yet. Each owner has a number of its own, one more than
that in the newest fence it has read, and appends as an idempotent producer whose id and epoch are made of it: once a
newer owner's fence is in the log, the partition refuses everything of older ones. Two owners that read the same fence
take the same number; then the second one's fence passes for a duplicate of the first one's, and does not stand where
it was acknowledged: it has to be looked at there. It was that of an owner which is over, for only one process of a
broker holds the group coordinator's lock; so it is begun anew, with that number read.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from itertools import count as counter
from typing import NamedTuple

import pyarrow as pa

from rayqueue.actors.driver import boot_ms, wall_ms
from rayqueue.actors.group_batches import Encoded, Latest, encode_batch
from rayqueue.actors.group_reading import Place, Reading
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.errors import ProtocolError, RayQueueError, from_wire
from rayqueue.groups.records import Owner, OwnerKey, decode_record, encode_record, owner_record
from rayqueue.protocol import codec
from rayqueue.protocol.messages import (
    GROUP_PRODUCER_BASE,
    PROTOCOL_VERSION,
    Hello,
    ProduceBatch,
    ProduceRequest,
    ProduceResponse,
    ProduceResult,
)

log = logging.getLogger(__name__)

CONNECT_S = 2.0
RETRY_S = 0.02
RETRY_MAX_S = 1.0
# Nothing was heard for so long where something is due: what is under way is given up.
SILENCE_MS = 15_000
# Requests under way; what comes meanwhile goes into the next one together.
IN_FLIGHT_MAX = 4
BATCH_BYTES_MAX = 256 * 1024
BATCH_RECORDS_MAX = 4_096
# What the connection did not take at once is tried again after this.
UNSENT_MS = 5
# Producer epochs are below this, and this one is for nobody: it closes a producer id for all who had it.
EPOCHS = 2**15 - 1

OWNER = encode_record((OwnerKey(), None))[0]


class Answered(NamedTuple):
    """The leader has answered an append."""

    log: ShardLog
    reign: int
    result: ProduceResult


def producer_of(number: int) -> tuple[int, int]:
    """Producer id and epoch of an owner, by its number."""
    return GROUP_PRODUCER_BASE + number // EPOCHS, number % EPOCHS


class ShardLog:
    """One shard's log, as long as it is led at one place. A thread takes it over, then hears the leader's answers;
    `append`, `flush` and `answered` belong to the actor's loop.

    Args:
        place: where.
        broker_id, incarnation: whose fence it is. cluster_id, token: the cluster's.
        took_over: called on the log's thread with all records: from its return on `append` may be called. A
            RayQueueError from it means that the log is not wanted any more.
        post: gives `Answered` to the loop.
        lost: called on the log's thread when what was taken over is over, or could not be taken over.

    Attributes:
        reign: counts what was taken over; 0 while nothing is. Of the loop.
    """

    def __init__(
        self,
        place: Place,
        *,
        incarnation: str,
        cluster_id: str,
        token: str | None,
        took_over: Callable[[ShardLog, Latest], None],
        post: Callable[[Answered], None],
        lost: Callable[[ShardLog, str], None],
    ) -> None:
        self.place = place
        self._incarnation = incarnation
        self._cluster_id = cluster_id
        self._channel = DataChannel(place.host, place.port, token, CONNECT_S)
        self._took_over, self._post, self._lost = took_over, post, lost
        self._attempt = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Exchange] = set()  # to be broken by `stop` and `again`
        # Of the loop, while it is owned:
        self.reign = 0
        self._exchange: Exchange | None = None
        self._producer = (0, 0)
        self._sequence = 0
        self._correlations = counter(1)
        self._waiting: deque[tuple[int, list[Encoded]]] = deque()
        self._in_flight: deque[int] = deque()  # the last number of each request
        self._unsent = False
        self._heard_ms = boot_ms()
        self._thread = threading.Thread(target=self._run, name=f"group-log-{place.partition}", daemon=True)

    def __repr__(self) -> str:
        return f"ShardLog({self.place.partition}, epoch {self.place.leader_epoch}, {len(self._in_flight)} in flight)"

    def start(self) -> None:
        """Begins to take it over."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, without waiting: the place is not ours any more, or the process ends."""
        self._stopping.set()
        self.again()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread; after `stop`."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def again(self) -> None:
        """Gives up what was taken over, and has it taken over anew. For any thread."""
        with self._lock:
            for exchange in self._open:
                exchange.abort()  # closed by who uses it

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        tries, reason = 0, ""
        while not self._stopping.is_set():
            before, reason = reason, ""
            try:
                self._own()
            except RayQueueError as error:
                reason = str(error)
                said = self._stopping.is_set() or reason == before
                log.log(logging.DEBUG if said else logging.INFO, "%r: %s", self, error)
            except Exception as error:  # of any kind: without this thread nobody would serve the shard
                reason = repr(error)
                log.exception("%r cannot be taken over", self)
            tries = 0 if self.reign else tries + 1
            try:
                self._lost(self, reason)
            except RayQueueError as error:
                log.debug("%r: %s", self, error)  # the actor stops
            self._stopping.wait(min(RETRY_MAX_S, RETRY_S * 2 ** min(tries, 10)))

    def _own(self) -> None:
        """From taking over to the end of what was taken over, which is a RayQueueError."""
        self._attempt += 1
        latest: Latest = {}
        self._heard_ms = boot_ms()
        with closing(Reading(self._connect("fetch"), self.place, self)) as reading:
            reading.read(latest, None)
            exchange = self._connect("produce")
            try:
                number = _owner_number(latest) + 1
                mine = f"{self._incarnation}/{self._attempt}"
                fence = owner_record(number, self.place.broker_id, mine, self.place.leader_epoch)
                reading.read(latest, self._append_fence(exchange, number, fence))
                if latest[OWNER][0] != fence[1]:
                    raise ProtocolError(f"another owner took number {number}")
                reading.close()
                self._exchange, self.reign = exchange, self._attempt
                self._took_over(self, latest)
                log.info("%r is ours, as owner %d: %d keys", self, number, len(latest))
                latest.clear()
                while True:
                    (answer,) = _results(exchange)
                    self._post(Answered(self, self._attempt, answer))
            finally:
                self.disconnect(exchange)

    def _append_fence(self, exchange: Exchange, number: int, fence: Encoded) -> int:
        """Appends our fence, and waits until it is committed; gives its offset."""
        self._producer = producer_id, epoch = producer_of(number)
        if epoch == 0 and number:  # the first owner of its producer id: those of the id before are to be refused too
            self._ask(exchange, [fence], (producer_id - 1, EPOCHS), 0)
        offset = self._ask(exchange, [fence], self._producer, 0)
        self._sequence = 1
        return offset

    def _ask(self, exchange: Exchange, records: list[Encoded], producer: tuple[int, int], sequence: int) -> int:
        exchange.send(*self._request(records, producer, sequence))
        (result,) = _results(exchange)
        if result.error:
            raise from_wire(result.error, result.message)
        self.heard()
        return result.base_offset

    def _request(
        self, records: list[Encoded], producer: tuple[int, int], sequence: int
    ) -> tuple[bytes, list[pa.Buffer]]:
        place, now_ms = self.place, wall_ms()
        row, crc = encode_batch(records, now_ms)
        where, count = (place.topic_id, place.partition, place.leader_epoch), len(records)
        batch = ProduceBatch(*where, *producer, sequence, count, now_ms, now_ms, 0, crc)
        return codec.encode(ProduceRequest(next(self._correlations), -1, [batch])), [row]

    def _connect(self, kind: str) -> Exchange:
        place = self.place
        hello = Hello(PROTOCOL_VERSION, kind, self._cluster_id, place.broker_id, place.incarnation, "group coordinator")
        exchange = self._channel.exchange(hello, CONNECT_S)
        with self._lock:
            self._open.add(exchange)
        if self._stopping.is_set():
            exchange.abort()
        return exchange

    def disconnect(self, exchange: Exchange) -> None:
        """Ends a connection."""
        with self._lock:
            self._open.discard(exchange)
        exchange.close()

    def heard(self) -> None:
        """The leader has said something that was due."""
        self._heard_ms = boot_ms()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def append(self, number: int, records: list[Encoded]) -> None:
        """Records to be appended, at the next `flush`. number: of the machine's `Append`."""
        self._waiting.append((number, records))

    def flush(self, now_ms: int) -> None:
        """Sends what waits, as far as few enough requests are under way.

        Raises:
            BrokerNotAvailable: the connection is broken; the thread sees it too.
        """
        exchange = self._exchange
        if exchange is None:
            return
        if self._unsent:
            self._unsent = not exchange.send_nowait()
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX and not self._unsent:
            number, records = self._next_batch()
            message, rows = self._request(records, self._producer, self._sequence)
            if not self._in_flight:
                self._heard_ms = now_ms
            self._in_flight.append(number)
            self._sequence = (self._sequence + len(records)) % 2**31
            self._unsent = not exchange.send_nowait(message, rows)

    def _next_batch(self) -> tuple[int, list[Encoded]]:
        """Whole appends that go into the next batch; a large one goes by itself. Gives the last one's number."""
        number, records = self._waiting.popleft()
        records, size = list(records), _size(records)
        while self._waiting:
            following = self._waiting[0][1]
            size += _size(following)
            if size > BATCH_BYTES_MAX or len(records) + len(following) > BATCH_RECORDS_MAX:
                break
            number = self._waiting.popleft()[0]
            records += following
        return number, records

    def answered(self, now_ms: int) -> int:
        """The oldest request under way was answered; gives the number of its last append."""
        self._heard_ms = now_ms
        return self._in_flight.popleft()

    def forget(self) -> list[int]:
        """What was taken over is over; gives the numbers of what has no known outcome."""
        unknown = [*self._in_flight, *(number for number, _ in self._waiting)]
        self._exchange, self.reign = None, 0
        self._waiting.clear()
        self._in_flight.clear()
        self._unsent = False
        return unknown

    def next_deadline_ms(self) -> int | None:
        """When `tick` is due."""
        if self._unsent:
            return boot_ms() + UNSENT_MS
        return self._heard_ms + SILENCE_MS if self._is_due() else None

    def tick(self, now_ms: int) -> None:
        """Gives up a leader that has not said anything for long, though something is due."""
        if self._is_due() and now_ms >= self._heard_ms + SILENCE_MS:
            log.warning("the leader of shard %d is silent for %d ms", self.place.partition, now_ms - self._heard_ms)
            self._heard_ms = now_ms
            self.again()

    def _is_due(self) -> bool:
        return self._exchange is None or bool(self._in_flight)


def _owner_number(latest: Latest) -> int:
    """The number of the newest owner in the log, 0: there was none."""
    value = latest.get(OWNER, (None, 0))[0]
    owner = None if value is None else decode_record(OWNER, value)[1]
    return owner.number if isinstance(owner, Owner) else 0


def _results(exchange: Exchange) -> list[ProduceResult]:
    """The next answer of the leader's."""
    return codec.decode(exchange.receive()[0], ProduceResponse).results


def _size(records: list[Encoded]) -> int:
    return sum(len(key) + len(value or b"") for key, value in records)
