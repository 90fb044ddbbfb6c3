"""The leader's end of a follow exchange: what was just written goes out from memory, all else from the log."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.actors.exchange import Exchange
from rayqueue.actors.feed_throttle import FeedThrottle
from rayqueue.actors.follow_stream import FeedSubscription, Followed, FollowStream
from rayqueue.actors.fresh_batches import FreshBatches, fresh_batches
from rayqueue.actors.push_stream import SMALL_BYTES
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.protocol import codec
from rayqueue.protocol.frames import pack_head
from rayqueue.protocol.messages import (
    FollowAck,
    FollowHello,
    FollowPart,
    FollowPartition,
    FollowRequest,
    FollowResponse,
    Hello,
)
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.index import ENTRY, unpack_headers
from rayqueue.storage.reader import LogSlice
from tests.unit.storage.harness import batch

TIMEOUT_S = 10.0
EPOCH = 5
CREDIT = 1_000


class Leader:
    """A follow exchange with one follower of a partition whose log has a batch of 100 bytes, "log", at each offset."""

    topic, partition, topic_id, high_watermark, schema = "t", 0, b"t" * 16, 0, DEFAULT_SCHEMA

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(TIMEOUT_S)
        self.replica = SimpleNamespace(leader_epoch=EPOCH)
        self.log = SimpleNamespace(log_start_offset=0, log_end_offset=0, read=self._read)
        self.news: list[Followed] = []
        self.received: list[tuple[FollowPart, bytes]] = []
        self.heard = threading.Semaphore(0)
        self.exchange = Exchange(FramedSocket(ours, 1 << 20), Hello(0, "follow"))
        self.follower = FramedSocket(theirs, 1 << 30)
        self.stream = FollowStream(self.exchange, lambda *_: self, self._submit, 1 << 20, FeedThrottle())  # type: ignore[arg-type,return-value]
        self.thread = threading.Thread(target=self.stream.run)
        self.thread.start()
        self.follower.send(pack_head(codec.encode(FollowHello(2, 0, "2a"))))
        self.say(FollowRequest([FollowPartition(1, self.topic_id, 0, EPOCH, 0, -1)], [], [], CREDIT))
        assert self.heard.acquire(timeout=TIMEOUT_S)
        self.subscription: FeedSubscription = self.news[0].subscription
        self.stream.feed(self.subscription, 0)
        assert self.next() == (FollowPart(1, EPOCH, 0, 0, 0), b"")

    def _submit(self, news: Followed) -> None:
        self.news.append(news)
        self.heard.release()

    def _read(self, offset: int, max_bytes: int, limit: int) -> Any:
        data = pa.py_buffer(b"log" + bytes(97))
        return LogSlice(data, np.zeros(1, ENTRY), offset, offset + 1)

    def say(self, request: FollowRequest) -> None:
        self.follower.send(pack_head(codec.encode(request)))

    def next(self) -> tuple[FollowPart, bytes]:
        if not self.received:
            frame = self.follower.receive()
            assert frame is not None
            rows = [row.to_pybytes() for row in frame[2]]
            self.received += zip_longest(codec.decode(frame[1], FollowResponse).parts, rows, fillvalue=b"")
        return self.received.pop(0)

    def write(self, size: int = 100, fresh: bool = True) -> None:
        at = self.log.log_end_offset
        self.log.log_end_offset = at + 1
        made = FreshBatches(at, at + 1, b"", pa.py_buffer(b"new" + bytes(size - 3)))
        self.stream.on_written(self.subscription, made if fresh else None)

    def end(self) -> None:
        self.follower.shut_down()
        self.thread.join(TIMEOUT_S)
        self.exchange.finish()
        self.follower.close()


@pytest.fixture
def leader() -> Iterator[Leader]:
    leader = Leader()
    yield leader
    leader.end()


def test_a_follower_that_has_all_before_it_is_fed_what_was_written_with_the_watermarks(leader: Leader) -> None:
    leader.write()
    leader.high_watermark = 1
    leader.write()
    for offset in (0, 1):
        part, row = leader.next()
        assert (part.high_watermark, part.log_end, row[:3]) == (offset, offset + 1, b"new")
    leader.stream.on_news(leader.subscription)  # it has been told all of it
    leader.high_watermark = 2
    leader.stream.on_news(leader.subscription)
    assert leader.next() == (FollowPart(1, EPOCH, 2, 0, 2), b"")


def test_one_that_has_not_is_fed_from_the_log_in_order(leader: Leader) -> None:
    leader.write(fresh=False)
    leader.write(fresh=True)
    leader.subscription.offset = 1  # as if the one before had not been read yet
    leader.write(fresh=True)
    found = [leader.next() for _ in range(4)]
    assert [row[:3] for _, row in found] == [b"log", b"new", b"log", b"log"]
    assert leader.subscription.offset == 3


def test_without_credit_nothing_goes_out_and_with_it_the_log_is_read(leader: Leader) -> None:
    leader.write(size=CREDIT)
    assert len(leader.next()[1]) == CREDIT
    leader.write()
    assert leader.subscription.offset == 1
    leader.say(FollowRequest([], [], [], CREDIT))
    assert leader.next()[1][:3] == b"log"


def test_an_ack_says_whether_consumers_wait_there(leader: Leader) -> None:
    for watched in (True, False):
        leader.say(FollowRequest([], [], [FollowAck(1, EPOCH, 1, watched)], 0))
        assert leader.heard.acquire(timeout=TIMEOUT_S)
        assert leader.subscription.watched is watched


def test_what_was_written_is_the_messages_back_to_back_unless_it_is_large() -> None:
    made = [batch(10, 3), batch(13, 2)]
    fresh = fresh_batches(made)
    assert fresh is not None
    assert (fresh.base_offset, fresh.next_offset) == (10, 15)
    assert fresh.row.to_pybytes() == b"".join(one.header + one.body.to_pybytes() for one in made)
    expected = [(one.entry, len(one.header) + one.body.size, len(one.header)) for one in made]
    assert unpack_headers(fresh.entries) == expected
    large = [batch(0, 3)._replace(body=pa.py_buffer(bytes(SMALL_BYTES)))]
    assert fresh_batches(large) is None
