"""The inbox: order, joining of news without data, and waking."""

from __future__ import annotations

import threading

import pyarrow as pa

from rayqueue.client.fetching.inbox import Event, Inbox, MetadataCame, Received
from rayqueue.client.streams import Endpoint
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import FetchPart, FetchResponse

HERE = Endpoint("h", 1, 0, "i")


def news(stream: object, *watermarks: tuple[int, int], error: str = "") -> Received:
    parts = [FetchPart(subscription, high, 0, 0, error=error) for subscription, high in watermarks]
    return Received(stream, HERE, FetchResponse(parts), [])


def data(stream: object, subscription: int) -> Received:
    part = FetchPart(subscription, 9, 0, 0, entries=b"e")
    return Received(stream, HERE, FetchResponse([part]), [pa.py_buffer(b"x")])


def told(event: object) -> dict[int, int]:
    assert isinstance(event, Received)
    return {part.subscription: part.high_watermark for part in event.response.parts}


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
