"""A follower's link to one leader's process: one stream for all partitions that it leads and we follow.

The link's own thread opens it, checks what comes (nothing that is damaged gets into a log), and gives it to the loop.
The loop says whom to follow and what is held; what it says in one turn goes out in one message. It never waits for a
leader that does not read: the rest of a message goes out in a later turn, and what is said meanwhile is joined.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pyarrow as pa

from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.errors import CorruptRecord, RayQueueError
from rayqueue.protocol import codec, ipc
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    BatchHeader,
    FollowAck,
    FollowHello,
    FollowPart,
    FollowPartition,
    FollowRequest,
    FollowResponse,
    Hello,
)
from rayqueue.replication import events as ev
from rayqueue.replication.producer_state import ProducerStates
from rayqueue.storage.index import unpack_headers

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 5.0
CREDIT_BYTES = 32 << 20
AGAIN_MS = 20  # a leader that does not read is tried again after so long


class LeaderProcess(NamedTuple):
    """The process of a replica actor that leads."""

    host: str
    port: int
    broker_id: int
    incarnation: str


class FedBatch(NamedTuple):
    """A batch as it stands in the leader's log: the machine's `ref`."""

    header: bytes
    body: pa.Buffer


class FollowerEvent(NamedTuple):
    """News for a partition that follows. credit: bytes to give back once it is written."""

    partition: HostedPartition
    event: ev.FollowerEvent
    link: LeaderLink
    credit: int = 0


class LeaderLink:
    """See the module. All methods but the thread's belong to the loop.

    Args:
        leader: whose process. hello: who we are. token: the cluster's.
        submit: gives what came to the loop, a message's worth at a time.
    """

    def __init__(
        self,
        leader: LeaderProcess,
        hello: FollowHello,
        token: str | None,
        submit: Callable[[list[FollowerEvent]], None],
    ) -> None:
        self.leader = leader
        self._hello = hello
        self._token = token
        self._submit = submit
        self._request = FollowRequest([], [], [], CREDIT_BYTES)  # the loop's: what it has said and not sent
        self._acks: dict[int, FollowAck] = {}  # of it, the last of each subscription
        self._unsent = False  # a part of the message before is left
        self._lock = threading.Lock()  # guards all below
        self._following: dict[int, tuple[HostedPartition, int]] = {}  # by subscription, with the leader epoch
        self._next = 0
        self._unused = 0  # credit for what came of subscriptions that had ended
        self._exchange: Exchange | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"follow-{leader.broker_id}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"LeaderLink(broker {self.leader.broker_id} at {self.leader.host}:{self.leader.port})"

    # --- the loop ---------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """It is broken; a new one is needed."""
        return self._ended

    def follow(self, partition: HostedPartition, effect: ev.Follow) -> int:
        """Subscribes; gives the subscription's number, 0 when the link has just ended."""
        with self._lock:
            if self._ended:
                return 0
            self._next += 1
            self._following[self._next] = partition, effect.leader_epoch
            self._request.add.append(
                FollowPartition(
                    self._next,
                    partition.topic_id,
                    partition.partition,
                    effect.leader_epoch,
                    effect.offset,
                    effect.last_epoch,
                )
            )
            return self._next

    def unfollow(self, subscription: int) -> None:
        """Ends a subscription."""
        with self._lock:
            if self._following.pop(subscription, None) is not None:
                self._request.remove.append(subscription)
                self._acks.pop(subscription, None)

    def ack(self, subscription: int, effect: ev.AckFetch, watched: bool = False) -> None:
        """Tells what is held; watched: and that consumers wait for the high watermark here."""
        self._acks[subscription] = FollowAck(subscription, effect.leader_epoch, effect.end, watched)

    def give_back(self, credit: int) -> None:
        """What was fed has been written."""
        self._request.credit += credit

    def flush(self) -> None:
        """Sends what was said since the last time, once the link is open, as far as it goes out at once."""
        request, exchange = self._request, self._exchange
        if self._unused:
            with self._lock:
                request.credit, self._unused = request.credit + self._unused, 0
        if exchange is None:
            return
        try:
            if self._unsent and not exchange.send_nowait():
                return
            self._unsent = False
            if request.add or request.remove or self._acks or request.credit:
                request.acks = list(self._acks.values())
                self._request = FollowRequest([], [], [], 0)
                self._acks.clear()
                self._unsent = not exchange.send_nowait(codec.encode(request))
        except RayQueueError as error:  # its reader sees the same break
            self._unsent = False
            log.debug("%r: %s", self, error)

    @property
    def unsent(self) -> bool:
        """The leader does not read: `flush` is to be called again, though nothing more is said."""
        return self._unsent

    @property
    def idle(self) -> bool:
        """Nothing is followed on it."""
        return not self._following

    def close(self) -> None:
        """Ends it; nothing more comes of it."""
        with self._lock:
            self._following.clear()
            self._ended = True
            exchange = self._exchange
        if exchange is not None:
            exchange.close()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            exchange = self._open()
            while True:
                message, rows = exchange.receive()
                self._take(codec.decode(message, FollowResponse), rows)
        except RayQueueError as error:
            log.info("%r has ended: %s", self, error)
        except Exception:
            log.exception("%r failed", self)
        if self._exchange is not None:
            self._exchange.close()
        with self._lock:
            self._ended = True
            lost = list(self._following.values())
            self._following.clear()
        self._submit([FollowerEvent(partition, ev.FeedLost(epoch), self) for partition, epoch in lost])

    def _open(self) -> Exchange:
        leader = self.leader
        hello = Hello(
            PROTOCOL_VERSION, "follow", "", leader.broker_id, leader.incarnation, f"broker-{self._hello.broker_id}"
        )
        channel = DataChannel(leader.host, leader.port, self._token, OPEN_TIMEOUT_S)
        exchange = channel.exchange(hello, OPEN_TIMEOUT_S)
        exchange.send(codec.encode(self._hello))
        with self._lock:
            self._exchange = exchange
            ended = self._ended
        if ended:
            exchange.close()
        self._submit([])  # what waits to be said is sent at the end of the turn
        return exchange

    def _take(self, response: FollowResponse, rows: list[pa.Buffer]) -> None:
        news = []
        for number, part in enumerate(response.parts):
            row = rows[number] if number < len(rows) else None
            size = 0 if row is None else row.size
            following = self._following.get(part.subscription)
            if following is not None:
                news.append(FollowerEvent(following[0], self._news(following[0], part, row), self, size))
            elif size:
                with self._lock:
                    self._unused += size
        self._submit(news)

    def _news(self, partition: HostedPartition, part: FollowPart, row: pa.Buffer | None) -> ev.FollowerEvent:
        """What a part says; what is damaged fails its own partition, which asks again, and no other."""
        try:
            return _event(part, row)
        except RayQueueError as error:
            log.error("%r cannot take what %r sent: %s", partition, self, error)
            return ev.FeedRefused(part.leader_epoch, type(error).__name__)


def _event(part: FollowPart, row: pa.Buffer | None) -> ev.FollowerEvent:
    """What a part says, for the machine.

    Raises:
        CorruptRecord: the data was damaged on the way, or in the leader's file.
    """
    epoch = part.leader_epoch
    if part.error == "OffsetOutOfRange":
        return ev.OutOfRange(epoch, part.log_start, part.log_end, _producers(part))
    if part.error:
        return ev.FeedRefused(epoch, part.error)
    if part.epoch >= 0 or part.end >= 0:
        return ev.Diverged(epoch, part.epoch, part.end, _producers(part))
    headers: list[BatchHeader] = []
    batches: list[FedBatch] = []
    if row is not None:
        headers, batches = _batches(part.entries, row)
    return ev.Fed(epoch, headers, list(batches), part.high_watermark, part.log_start)


def _producers(part: FollowPart) -> ProducerStates | None:
    """What the leader knows of producers; None: it does not say."""
    if not part.producers:
        return None
    states = ProducerStates()
    try:
        states.load(part.producers)
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"the leader's producers are damaged: {error}") from error
    return states


def _batches(raw: bytes, row: pa.Buffer) -> tuple[list[BatchHeader], list[FedBatch]]:
    headers, batches, at = list[BatchHeader](), list[FedBatch](), 0
    for made, length, header_length in unpack_headers(raw):
        if not 0 < header_length <= length <= row.size - at:
            raise CorruptRecord("the leader's index entries do not fit its data")
        header = row.slice(at, header_length).to_pybytes()
        body = row.slice(at + header_length, length - header_length)
        if ipc.message_crc(header, body) != made.crc or ipc.read_header(header) != made:
            raise CorruptRecord(f"the batch at offset {made.base_offset} does not match its CRC32C")
        headers.append(made)
        batches.append(FedBatch(header, body))
        at += length
    if not headers:
        raise CorruptRecord("the leader sent data without index entries")
    return headers, batches
