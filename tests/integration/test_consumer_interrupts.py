"""Ctrl-C wherever a consumer reads its streams, sends on them or hands records out: none is lost, none comes twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType

import pytest

from rayqueue.client.data_channel import Exchange
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.fetch_stream import FetchStream
from rayqueue.client.fetching.inbox import Inbox
from rayqueue.client.fetching.reader import Reader
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.consumer import Consumer
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.consumer_cluster import World
from tests.interrupting import Interrupter, codes_of

STREAMS = codes_of(Inbox, FetchStream, FramedSocket, Exchange)
HANDING_OUT = codes_of(Engine, Reader)
COUNT = 12
WAIT_S = 5.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with InProcessCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        made = World(cluster)
        yield made
        made.close()


def by_one(consumer: Consumer) -> list[int]:
    message = consumer.poll(WAIT_S)
    return [] if message is None else [message.offset]


def by_many(consumer: Consumer) -> list[int]:
    return [message.offset for message in consumer.consume(COUNT, timeout=WAIT_S)]


def by_table(consumer: Consumer) -> list[int]:
    offsets: list[int] = consumer.consume_arrow(timeout=WAIT_S).column("offset").to_pylist()
    return offsets


def read_all(consumer: Consumer, topic: str, read: Callable[[Consumer], list[int]], struck: Interrupter) -> list[int]:
    """Offsets from the beginning on; it is interrupted once, and goes on."""
    found: list[int] = []
    sought = False
    with struck.armed():
        while len(found) < COUNT:
            try:
                if not sought:
                    consumer.seek((topic, 0), 0)
                    sought = True
                got = read(consumer)
                assert got, f"{found} and no more after an interrupt at {struck.place}"
                found += got
            except KeyboardInterrupt:
                continue
    return found


@pytest.mark.parametrize(
    ("size", "read", "codes"),
    [
        (10, by_many, STREAMS),
        (50_000, by_many, STREAMS),
        (10, by_one, HANDING_OUT),
        (10, by_many, HANDING_OUT),
        (10, by_table, HANDING_OUT),
    ],
    ids=["streams", "streams of large frames", "poll", "consume", "consume_arrow"],
)
def test_an_interrupt_anywhere_loses_and_doubles_nothing(
    world: World, size: int, read: Callable[[Consumer], list[int]], codes: set[CodeType]
) -> None:
    topic = world.topic()
    for start in range(0, COUNT, 4):
        world.fill(topic, 4, start=start, size=size)
    consumer = world.consumer(topic, mapped_reads=False, retry_backoff_ms=1, retry_backoff_max_ms=1)
    places: list[str] = []
    while True:
        struck = Interrupter(codes, len(places) + 1)
        assert read_all(consumer, topic, read, struck) == list(range(COUNT)), f"interrupted at {struck.place}"
        if not struck.place:
            break
        places.append(struck.place)
    assert len(set(places)) > 20
