"""The inbox: order, joining of news without data, and waking."""

from __future__ import annotations

import socket
import threading

import pyarrow as pa
import pytest

from rayqueue.client.data_channel import Exchange
from rayqueue.client.fetching.fetch_stream import FRAMES_MAX, FetchStream
from rayqueue.client.fetching.inbox import Closed, Event, Inbox, MetadataCame, Received
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.client.streams import Endpoint
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol import codec
from rayqueue.protocol.frames import pack_head
from rayqueue.protocol.messages import FetchPart, FetchRequest, FetchResponse

HERE = Endpoint("h", 1, 0, "i")
WAIT_S = 5.0


def news(stream: object, *watermarks: tuple[int, int], error: str = "") -> Received:
    parts = [FetchPart(subscription, high, 0, 0, error=error) for subscription, high in watermarks]
    return Received(stream, HERE, FetchResponse(parts), [])


def data(stream: object, subscription: int) -> Received:
    part = FetchPart(subscription, 9, 0, 0, entries=b"e")
    return Received(stream, HERE, FetchResponse([part]), [pa.py_buffer(b"x")])


def told(event: object) -> dict[int, int]:
    assert isinstance(event, Received)
    return {part.subscription: part.high_watermark for part in event.response.parts}


def stream_and_server(inbox: Inbox | None = None) -> tuple[FramedSocket, FetchStream]:
    """An open stream, and the socket it is read from."""
    ours, theirs = socket.socketpair()
    stream = FetchStream.__new__(FetchStream)
    stream.endpoint, stream.unread, stream._closed = Endpoint("here", ours.fileno(), 0, "incarnation"), False, False
    stream._lock, stream._inbox = threading.Lock(), Inbox() if inbox is None else inbox
    stream._exchange = Exchange(FramedSocket(ours, 1 << 20), "here")
    stream._decode = codec.decoder(FetchResponse).decode
    return FramedSocket(theirs, 1 << 20), stream


def test_news_without_data_is_joined_so_that_the_inbox_stays_small() -> None:
    inbox, stream = Inbox(), object()
    for high in range(1000):
        inbox.put(news(stream, (1, high)))
        inbox.put(news(stream, (2, high)))
    (event,) = inbox.take()
    assert told(event) == {1: 999, 2: 999}
    assert inbox.take() == []


def test_order_is_kept_around_data_errors_and_other_streams() -> None:
    inbox, stream, other = Inbox(), object(), object()
    events: list[Event] = [
        news(stream, (1, 1)),
        data(stream, 1),
        news(stream, (1, 2)),
        news(other, (1, 3)),
        news(stream, (1, 4)),
        news(stream, (1, 5), error="NotLeaderOrFollower"),
        news(stream, (1, 6)),
        MetadataCame(None, BrokerNotAvailable("x")),
    ]
    for event in events:
        inbox.put(event)
    assert inbox.take() == events


def test_waiting_ends_with_an_event_and_with_time() -> None:
    inbox = Inbox()
    inbox.wait(0.01)
    assert inbox.take() == []
    woken = threading.Event()

    def wait() -> None:
        inbox.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    inbox.put(news(object(), (1, 1)))
    assert woken.wait(10)
    thread.join(10)
    inbox.wait(30)
    assert len(inbox.take()) == 1, "an event that was there before does not wait"


def test_all_that_one_receive_brought_is_read_before_anybody_sleeps() -> None:
    """Frames beyond those taken at once lie in the stream's buffer, of which the descriptor says nothing."""
    server, stream = stream_and_server()
    inbox = stream._inbox
    inbox.watch(stream)
    last = 3 * FRAMES_MAX + 8
    for high in range(1, last + 1):
        server.send(pack_head(codec.encode(FetchResponse([FetchPart(1, high, 0, 0)]))))
    newest = looks = 0
    while newest < last and looks < 10:
        inbox.wait(0.01)
        looks += 1
        newest = max([newest, *(e.response.parts[0].high_watermark for e in inbox.take() if isinstance(e, Received))])
    assert (newest, looks < 10) == (last, True)
    stream.close()
    inbox.close()
    server.close()


def test_a_server_that_stops_in_the_middle_of_a_message_does_not_hold_up_the_other_streams() -> None:
    inbox = Inbox()
    (stopped, first), (server, second) = stream_and_server(inbox), stream_and_server(inbox)
    for stream in (first, second):
        inbox.watch(stream)
    part = FetchPart(1, 9, 0, 0, entries=b"e")
    rows = [pa.py_buffer(bytes(200_000))]
    whole = pack_head(codec.encode(FetchResponse([part])), rows) + bytes(200_000)
    stopped.send(whole[:100_000])
    for high in range(1, 20):
        server.send(pack_head(codec.encode(FetchResponse([FetchPart(1, high, 0, 0)]))))
        inbox.wait(WAIT_S)
        events = inbox.take()
        while not events:  # the wait was ended by what came of the first
            inbox.wait(WAIT_S)
            events = inbox.take()
        assert [(event.stream, told(event)) for event in events if isinstance(event, Received)] == [(second, {1: high})]
    stopped.send(whole[100_000:])
    while not (events := inbox.take()):
        inbox.wait(WAIT_S)
    (event,) = events
    assert isinstance(event, Received)
    assert (event.stream, event.rows[0].size) == (first, 200_000)
    for stream in (first, second):
        stream.close()
    inbox.close()
    for end in (stopped, server):
        end.close()


@pytest.mark.parametrize("part_sent", [False, True])
def test_a_request_that_was_interrupted_ends_its_stream(monkeypatch: pytest.MonkeyPatch, part_sent: bool) -> None:
    """Half a request may have gone: nothing may follow it on that connection."""
    server, stream = stream_and_server()
    stream._inbox.watch(stream)
    send_some = FramedSocket.send_some

    def interrupted(self: FramedSocket, views: list[memoryview], wait: bool = True) -> list[memoryview]:
        if part_sent:
            send_some(self, [views[0][:10]], wait)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FramedSocket, "send_some", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.send(FetchRequest([], [], 1))
    (event,) = stream._inbox.take()
    assert isinstance(event, Closed)
    assert (event.stream, type(event.error)) == (stream, BrokerNotAvailable)
    assert server.receive() is None, "the server hears of the end"
    stream._inbox.close()
    server.close()
