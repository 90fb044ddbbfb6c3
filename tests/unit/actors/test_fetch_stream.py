"""The server's end of a fetch exchange: what it holds for a client that does not read stays bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.actors.exchange import Exchange
from rayqueue.actors.fetch_stream import FetchStream
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.protocol import codec
from rayqueue.protocol.frames import pack_head
from rayqueue.protocol.messages import PING, FetchPart, FetchPartition, FetchRequest, FetchResponse, Hello

BATCH_BYTES = 200_000
TIMEOUT_S = 10.0


class Partition:
    """Stands in for a hosted partition: its log has a batch of one large record at each offset."""

    topic, partition, directory, closed, leading = "t", 0, "d", "", True

    def __init__(self) -> None:
        self.high_watermark = 0
        self.replica = SimpleNamespace(leader_epoch=0)
        self.log = SimpleNamespace(log_start_offset=0, generation=0, read=self._read)
        self.reads = self.unwritten_max = 0
        self.exchange: Exchange

    def _read(self, offset: int, max_bytes: int, end: int) -> Any:
        self.reads += 1
        self.unwritten_max = max(self.unwritten_max, len(self.exchange._outbox))
        data = pa.py_buffer(bytes(BATCH_BYTES))
        return SimpleNamespace(entries=np.zeros(0, np.uint8), data=data, next_offset=offset + 1)


class Deaf:
    """A fetch exchange with a client that reads when the test says so."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(TIMEOUT_S)
        self.exchange = Exchange(FramedSocket(ours, 1 << 20), Hello(0, "fetch"))
        self.client = FramedSocket(theirs, 1 << 30)
        self.partition = Partition()
        self.partition.exchange = self.exchange
        nothing = lambda *_: None  # noqa: E731
        self.stream = FetchStream(self.exchange, lambda *_: self.partition, nothing, nothing, BATCH_BYTES)  # type: ignore[arg-type,return-value]
        self.thread = threading.Thread(target=self.stream.run)
        self.thread.start()

    def subscribe(self, mapped: bool, credit: int) -> None:
        request = FetchRequest([FetchPartition(1, b"t" * 16, 0, 0, -1, mapped)], [], credit)
        self.client.send(pack_head(codec.encode(request)))
        assert self.next().parts[0].high_watermark == 0, "the subscription has begun"

    def next(self) -> FetchResponse:
        frame = self.client.receive()
        assert frame is not None
        return codec.decode(frame[1], FetchResponse)

    def tell(self, high_watermark: int) -> None:
        self.partition.high_watermark = high_watermark
        self.stream.on_news(self.partition)  # type: ignore[arg-type]

    def end(self) -> None:
        self.client.shut_down()
        self.thread.join(TIMEOUT_S)
        self.exchange.finish()
        self.client.close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    made = Deaf()
    yield made
    made.end()


def test_news_that_nobody_reads_replace_each_other(deaf: Deaf) -> None:
    deaf.subscribe(mapped=True, credit=0)
    high = 0
    while deaf.exchange.idle:
        high += 1
        deaf.tell(high)
    for _ in range(5000):
        high += 1
        deaf.tell(high)
    assert len(deaf.exchange._outbox) <= 1
    assert len(deaf.stream._ready) <= 1
    while deaf.next().parts[-1].high_watermark < high:
        pass


def test_data_that_nobody_reads_are_not_read_from_the_log_ahead(deaf: Deaf) -> None:
    deaf.subscribe(mapped=False, credit=1 << 30)
    for high in range(1, 200):
        deaf.tell(high)
    deaf.tell(200)
    assert deaf.partition.reads * BATCH_BYTES < 10 << 20, "what the connection takes, and a message"
    assert len(deaf.exchange._outbox) <= 1
    batches = 0
    while batches < 200:
        frame = deaf.client.receive()
        assert frame is not None
        batches += len(frame[2])
    assert deaf.partition.unwritten_max == 0, "also when the client reads late, one after the other"


# --- a follower -----------------------------------------------------------------------------------------------------


def follower(deaf: Deaf, in_sync: bool = True, end: int = 100) -> None:
    deaf.partition.leading = False  # type: ignore[misc]
    deaf.partition.replica.follows_in_sync = in_sync
    deaf.partition.log.log_end_offset = end


def asked(deaf: Deaf, offset: int, mapped: bool) -> FetchPart:
    request = FetchRequest([FetchPartition(1, b"t" * 16, 0, offset, -1, mapped)], [], 1 << 20)
    deaf.client.send(pack_head(codec.encode(request)))
    (part,) = deaf.next().parts
    return part


def test_a_follower_in_sync_tells_who_maps_its_segments_what_is_committed(deaf: Deaf) -> None:
    follower(deaf)
    deaf.partition.high_watermark = 40
    part = asked(deaf, 7, mapped=True)
    assert (part.error, part.high_watermark, part.path) == ("", 40, "d")
    deaf.tell(41)
    assert deaf.next().parts[0].high_watermark == 41


@pytest.mark.parametrize(
    ("offset", "mapped", "in_sync"),
    [(7, False, True), (7, True, False), (101, True, True)],
    ids=["it streams nothing", "it is not in sync", "nor can it judge what is beyond its log"],
)
def test_else_it_sends_to_the_leader(deaf: Deaf, offset: int, mapped: bool, in_sync: bool) -> None:
    follower(deaf, in_sync)
    assert asked(deaf, offset, mapped).error == "NotLeaderOrFollower"


def test_a_follower_that_leaves_the_isr_sends_its_readers_to_the_leader(deaf: Deaf) -> None:
    follower(deaf)
    assert not asked(deaf, 100, mapped=True).error
    follower(deaf, in_sync=False)
    deaf.tell(0)
    assert deaf.next().parts[0].error == "NotLeaderOrFollower"


def test_a_request_that_changes_nothing_is_answered(deaf: Deaf) -> None:
    deaf.client.send(pack_head(codec.encode(FetchRequest([], [], 0))))
    (part,) = deaf.next().parts
    assert part.subscription == PING and not part.error
