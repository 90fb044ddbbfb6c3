"""A follower's link to a leader that does not read: the loop, which serves all other partitions too, never waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rayqueue.actors.leader_link import LeaderLink, LeaderProcess
from rayqueue.client.data_channel import Exchange
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol import codec
from rayqueue.protocol.messages import FollowHello, FollowRequest
from rayqueue.replication import events as ev

TIMEOUT_S = 10.0


class Rig:
    """A link whose leader reads when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.settimeout(TIMEOUT_S)
        self.leader = FramedSocket(theirs, 1 << 30)
        self.exchange = Exchange(FramedSocket(ours, 1 << 30), "a leader")
        opened = threading.Event()

        def open_it(link: LeaderLink) -> Exchange:
            link._exchange = self.exchange
            opened.set()
            return self.exchange

        monkeypatch.setattr(LeaderLink, "_open", open_it)
        self.link = LeaderLink(LeaderProcess("h", 1, 2, "2a"), FollowHello(1, 0, "1a"), None, lambda news: None)
        assert opened.wait(TIMEOUT_S)

    def follow(self, count: int) -> None:
        for number in range(count):
            partition: Any = SimpleNamespace(topic_id=b"t" * 16, partition=number)
            self.link.follow(partition, ev.Follow(2, 5, 0, -1))

    def read(self) -> FollowRequest:
        frame = self.leader.receive()
        assert frame is not None
        return codec.decode(frame[1], FollowRequest)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    rig.link.close()
    rig.leader.close()


def test_what_a_leader_does_not_read_waits_and_is_joined_and_then_goes_out_in_order(rig: Rig) -> None:
    rig.follow(5_000)
    rig.link.flush()
    assert rig.link.unsent, "more than the connection takes"
    for end in range(1, 20_000):
        rig.link.ack(1 + end % 10, ev.AckFetch(5, end))
        rig.link.give_back(100)
        rig.link.flush()
    assert rig.link.unsent and len(rig.link._acks) == 10, "of each subscription the last"
    requests: list[FollowRequest] = []
    reader = threading.Thread(target=lambda: requests.extend((rig.read(), rig.read())))
    reader.start()
    while reader.is_alive():
        rig.link.flush()
        reader.join(0.001)
    first, second = requests
    assert [one.subscription for one in first.add] == list(range(1, 5_001)) and first.acks == []
    assert sorted(ack.end for ack in second.acks) == list(range(19_990, 20_000))
    assert second.credit == 19_999 * 100 and not rig.link.unsent


def test_an_ack_of_what_is_followed_no_more_is_not_said(rig: Rig) -> None:
    rig.follow(2)
    rig.link.ack(1, ev.AckFetch(5, 7))
    rig.link.ack(2, ev.AckFetch(5, 8))
    rig.link.unfollow(1)
    rig.link.flush()
    request = rig.read()
    assert [(ack.subscription, ack.end) for ack in request.acks] == [(2, 8)] and request.remove == [1]


def test_a_link_that_is_closed_while_a_part_is_left_sends_nothing_more(rig: Rig) -> None:
    rig.follow(5_000)
    rig.link.flush()
    rig.link.close()
    rig.link.flush()
    assert not rig.link.unsent
    with pytest.raises(BrokerNotAvailable, match="closed"):
        rig.exchange.send_nowait(b"x")
