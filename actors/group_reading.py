"""Reading a shard's log, all of it, at the replica actor that leads the shard's partition."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple, Protocol

import pyarrow as pa

from rayqueue.actors.group_batches import Latest, read_batches
from rayqueue.client.data_channel import Exchange
from rayqueue.errors import OffsetOutOfRange, from_wire
from rayqueue.protocol import codec
from rayqueue.protocol.messages import FetchPart, FetchPartition, FetchRequest, FetchResponse

CREDIT = 16 << 20  # bytes the log is read ahead by


class Place(NamedTuple):
    """Where a shard's partition is led: the process of a replica actor, under a leader epoch."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    broker_id: int
    host: str
    port: int
    incarnation: str


class Link(Protocol):
    """Who reads."""

    def heard(self) -> None:
        """The leader has said something that was due."""
        ...

    def disconnect(self, exchange: Exchange) -> None:
        """Ends a connection."""
        ...


class Reading:
    """Reads the log of a place from its start, as consumers do: what is committed, as it becomes so.

    Args:
        exchange: of kind "fetch", to the place. link: whose it is.
    """

    def __init__(self, exchange: Exchange, place: Place, link: Link) -> None:
        self._exchange = exchange
        self._place = place
        self._link = link
        self._position = 0
        self._high_watermark = -1
        self._subscription = 0
        self._subscribe(CREDIT)

    def _subscribe(self, credit: int) -> None:
        place, gone = self._place, [self._subscription] if self._subscription else []
        self._subscription += 1
        wanted = FetchPartition(
            self._subscription, place.topic_id, place.partition, self._position, place.leader_epoch, False
        )
        self._exchange.send(codec.encode(FetchRequest([wanted], gone, credit)))

    def read(self, latest: Latest, last: int | None) -> None:
        """Takes in records up to the offset `last`, as soon as that is committed; None: all that are committed now."""
        while self._high_watermark < 0:
            self._read_some(latest)
        while self._position < (self._high_watermark if last is None else last + 1):
            self._read_some(latest)

    def _read_some(self, latest: Latest) -> None:
        message, rows = self._exchange.receive()
        self._link.heard()
        for part, row in zip_longest(codec.decode(message, FetchResponse).parts, rows):
            if part.subscription == self._subscription:
                self._take(part, row, latest)

    def _take(self, part: FetchPart, row: pa.Buffer | None, latest: Latest) -> None:
        if part.error == OffsetOutOfRange.__name__ and part.log_start > self._position:
            self._position = part.log_start
            self._subscribe(0)
            return
        if part.error:
            raise from_wire(part.error, part.message)
        self._high_watermark = part.high_watermark
        if row is not None:
            self._position = read_batches(row, part.entries, latest)
            self._exchange.send(codec.encode(FetchRequest([], [], row.size)))

    def close(self) -> None:
        """Reads no further."""
        self._link.disconnect(self._exchange)
