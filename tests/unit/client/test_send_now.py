"""A lone record is sent by the thread that produced it, and Ctrl-C in the middle of that harms nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.client.accumulator import Accumulator, Chunk
from rayqueue.client.io.interrupts import Uninterrupted
from rayqueue.client.io.producer_sender import Sender
from rayqueue.producer import Producer
from rayqueue.protocol.messages import PartitionInfo
from tests.integration.waiting import eventually
from tests.interrupting import Interrupter, codes_of
from tests.unit.client.fake_cluster import WAIT_S, FakeCluster, FakeLink, producing

SENDING = codes_of(Sender, Producer._produce, Producer._writable, Chunk.append, Accumulator, FakeLink.send)


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.add_topic("t")
    return made


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that sent requests, in order."""
    seen: list[threading.Thread] = []
    send = FakeLink.send

    def noted(self: FakeLink, request: Any, rows: list[Any]) -> None:
        seen.append(threading.current_thread())
        send(self, request, rows)

    monkeypatch.setattr(FakeLink, "send", noted)
    return seen


@pytest.fixture
def producer(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    with producing(monkeypatch, cluster, linger_ms=0) as made:
        made.produce("t", b"0").result(WAIT_S)
        yield made


def test_a_lone_record_is_sent_by_its_own_thread(senders: list[threading.Thread], producer: Producer) -> None:
    del senders[:]
    for number in range(5):
        assert producer.produce("t", b"x").result(WAIT_S).offset == number + 1
    assert senders == [threading.current_thread()] * 5


def test_a_table_is_sent_by_its_own_thread_where_that_is_but_a_notice(
    cluster: FakeCluster, senders: list[threading.Thread], producer: Producer
) -> None:
    cluster.links[0].memory = object()  # too small for it, these tables are never put there
    del senders[:]
    for number in range(5):
        assert producer.produce_batch("t", [{"value": b"x"}]).result(WAIT_S) == [(0, number + 1, 1)]
    assert senders == [threading.current_thread()] * 5


@pytest.mark.parametrize("shared", [True, False])
def test_tables_without_room_go_together_when_there_is(cluster: FakeCluster, producer: Producer, shared: bool) -> None:
    cluster.links[0].memory = object() if shared else None
    cluster.answering = False
    before = len(cluster.requests)
    futures = [producer.produce_batch("t", [{"value": b"%d" % number}]) for number in range(40)]
    cluster.wait_for(lambda: len(cluster.requests) == before + 5)
    link = cluster.links[0]
    while eventually(lambda: link.unanswered or all(future.done() for future in futures), WAIT_S) is not True:
        link.answer()
    assert [future.result(WAIT_S) for future in futures] == [[(0, number + 1, 1)] for number in range(40)]
    assert len(cluster.requests) < before + 10, "40 tables"


def test_while_one_is_unanswered_the_others_gather(
    cluster: FakeCluster, senders: list[threading.Thread], producer: Producer
) -> None:
    cluster.answering = False
    producer.produce("t", b"1")
    others = [producer.produce("t", b"x") for _ in range(5)]
    cluster.answering = True
    cluster.links[0].answer()
    assert [future.result(WAIT_S).offset for future in others] == [2, 3, 4, 5, 6]
    assert [request.batches[0].record_count for _, request, _ in cluster.requests] == [1, 1, 5]
    assert [thread is threading.current_thread() for thread in senders[-2:]] == [True, False]


def test_a_full_chunk_waits_for_no_answer(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, linger_ms=0, batch_size=1000) as one:
        one.produce("t", b"connects").result(WAIT_S)
        cluster.answering = False
        one.produce("t", b"1")
        for _ in range(30):
            one.produce("t", bytes(100))
        cluster.wait_for(lambda: len(cluster.requests) > 3)
        cluster.answering = True
        while cluster.links[0].unanswered:
            cluster.links[0].answer()
        assert one.flush(WAIT_S) == 0


def test_a_server_that_answers_no_more_does_not_hold_up_the_others(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owes the only answer, so a record for another server gathers behind it, but not for ever."""
    cluster.add_topic("two", 2)
    cluster.topics["two"].partitions[1] = PartitionInfo(1, 1, 1, [1], [1], "b", 2, "inc")
    far = {"request_timeout_ms": 600_000, "delivery_timeout_ms": 1_200_000}  # none of these wakes the sender
    with producing(monkeypatch, cluster, linger_ms=0, **far) as one:
        for partition in (0, 1):
            one.produce("two", b"connects", partition=partition).result(WAIT_S)
        cluster.answering = False
        silent = one.produce("two", b"never answered", partition=0)
        others = [one.produce("two", b"x", partition=1)]
        (to_b,) = [link for link in cluster.links if link.node[0] == "b"]
        for number in range(3):
            cluster.wait_for(lambda: to_b.unanswered)
            to_b.answer()
            assert others[-1].result(WAIT_S).offset == number + 1
            others.append(one.produce("two", b"x", partition=1))
        assert not silent.done()


def test_with_a_linger_the_sender_sends(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, senders: list[threading.Thread]
) -> None:
    with producing(monkeypatch, cluster, linger_ms=1) as lingering:
        for _ in range(3):
            lingering.produce("t", b"x").result(WAIT_S)
    assert threading.current_thread() not in senders


def test_an_interrupt_waits_for_the_end_of_a_send(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, producer: Producer
) -> None:
    send = FakeLink.send

    def interrupted(self: FakeLink, request: Any, rows: list[Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        send(self, request, rows)

    with monkeypatch.context() as patch:
        patch.setattr(FakeLink, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            producer.produce("t", b"it is sent all the same")
    assert producer.flush(WAIT_S) == 0
    assert len(cluster.requests) == 2
    assert producer.produce("t", b"and it goes on").result(WAIT_S).offset == 2


class Struck(Exception):
    """What the handlers of these tests raise."""


@pytest.fixture(params=["SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1"])
def raising(request: pytest.FixtureRequest) -> Iterator[tuple[int, list[int]]]:
    """A signal whose handler raises, and how often it has been called."""
    number = getattr(signal, request.param)
    calls: list[int] = []

    def handler(number: int, frame: object) -> None:
        calls.append(number)
        raise Struck

    before = signal.signal(number, handler)
    yield number, calls
    signal.signal(number, before)


def test_a_signal_anywhere_in_a_lone_send_comes_once_and_harms_nothing(
    cluster: FakeCluster, senders: list[threading.Thread], producer: Producer, raising: tuple[int, list[int]]
) -> None:
    number, calls = raising
    certain, places, value = [0], [""], 0
    while True:
        value += 1
        sent = len(senders)
        struck = Interrupter(SENDING, len(places), number)
        future = None
        with struck.armed():
            try:
                future = producer.produce("t", b"%d" % value, b"key", timestamp=value)
            except Struck:
                assert struck.place
        lone = senders[sent:] == [threading.current_thread()]
        if future is not None or lone:
            certain.append(value)
        if struck.place:
            places.append(struck.place.split(":")[0])
        elif lone:
            break  # every moment has been; else the sender was still at the last one, and it did not come so far
        assert len(calls) == len(places) - 1, "it comes in the very call, and once"
        value += 1
        behind = producer.produce("t", b"%d" % value, b"key", timestamp=value).result(WAIT_S / 2)
        assert behind.timestamp == value, f"after one at {struck.place}"
        certain.append(value)
    assert {"_produce", "append", "send_now", "_step", "_offer", "_perform", "_send", "send"} <= set(places)
    assert producer.flush(WAIT_S) == 0
    records = [(int(row["value"]), row["key"], row["timestamp"].timestamp() * 1000) for row in cluster.records()][1:]
    numbers = [0, *(number for number, _, _ in records)]
    assert set(certain) <= set(numbers)
    assert sorted(set(numbers)) == numbers, "in order, none twice"
    assert all(key == b"key" and round(time) == number for number, key, time in records)


def test_two_signals_in_a_block_both_come_after_it_and_the_handlers_are_given_back() -> None:
    calls: list[str] = []

    def raising(name: str) -> Any:
        def handler(number: int, frame: object) -> None:
            calls.append(name)
            raise Struck(name)

        return handler

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, raising(number.name)) for number in numbers]
    given = [signal.getsignal(number) for number in numbers]
    try:
        with pytest.raises(Struck), Uninterrupted():
            for number in numbers[:2] * 2:
                signal.raise_signal(number)
            assert calls == []
        assert sorted(calls) == ["SIGINT", "SIGTERM"]
        assert [signal.getsignal(number) for number in numbers] == given
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_the_handler_is_given_back_and_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    inside: list[Any] = []

    def elsewhere() -> None:
        with Uninterrupted():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(WAIT_S)
    assert inside == [before]


def test_without_acks_tables_that_waited_for_the_link_go_when_it_opens(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first goes out when the link opens and is done; no answer comes that would tell of the others."""
    opening = FakeLink.start
    held: list[FakeLink] = []

    def hold(self: FakeLink) -> None:
        with cluster.changed:
            held.append(self)
            cluster.changed.notify_all()

    monkeypatch.setattr(FakeLink, "start", hold)
    with producing(monkeypatch, cluster, acks=0) as producer:
        producer.produce_batch("t", pa.table({"value": pa.array([b"0"], pa.binary())}))
        cluster.wait_for(lambda: held)
        for value in (b"1", b"2"):
            producer.produce_batch("t", pa.table({"value": pa.array([value], pa.binary())}))
        opening(held[0])
        assert producer.flush(WAIT_S) == 0
    assert cluster.rows() == [b"0", b"1", b"2"]
