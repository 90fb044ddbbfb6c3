"""Each setting of a producer has its effect, seen in what goes over the wire."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

import pytest

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.io.producer_links import ProduceLink
from rayqueue.config import ProducerConfig
from rayqueue.errors import (
    BrokerNotAvailable,
    BufferFull,
    ConfigError,
    DeliveryTimeout,
    InvalidTopic,
    NotEnoughReplicas,
    RecordTooLarge,
    RequestTimeout,
    SerializationError,
)
from rayqueue.producer import Producer
from rayqueue.protocol import codec
from rayqueue.protocol.ipc import split_message
from rayqueue.protocol.messages import ProduceResponse, ProduceResult, Welcome
from tests.unit.client.fake_cluster import WAIT_S, FakeCluster, producing


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.add_topic("t")
    made.add_topic("wide", 4)
    return made


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_unknown_settings_and_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"linger\.ms"):
        Producer(linger_mss=5)
    with pytest.raises(ConfigError, match="acks=all"):
        Producer({"acks": 1, "enable.idempotence": True})
    with pytest.raises(ConfigError, match="given twice"):
        Producer({"linger.ms": 5}, linger_ms=6)
    with pytest.raises(ConfigError, match="transactions are not built yet"):
        Producer(transactional_id="x")


def test_a_record_is_not_given_up_before_it_has_lingered() -> None:
    with pytest.raises(ConfigError, match=r"delivery\.timeout\.ms=50 is below linger\.ms=60.*=10060"):
        Producer(linger_ms=60, delivery_timeout_ms=50)
    assert ProducerConfig.parse({"linger.ms": 50, "delivery.timeout.ms": 50}).linger_ms == 50


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"max_in_flight": 6}, "max.in.flight=6"),
        ({"retries": 0}, "retries=0"),
        ({"retries": 0, "enable_idempotence": False}, ""),
        ({"retries": 0, "acks": 1}, ""),
        ({}, ""),
    ],
)
def test_idempotence_is_not_lost_in_silence(
    cluster: FakeCluster, patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Any, warned: str
) -> None:
    with producing(patch, cluster, **settings):
        said = [r.getMessage() for r in caplog.records if r.name == "rayqueue.producer"]
    assert len(said) == bool(warned)
    assert all("not idempotent although acks=all" in text and warned in text for text in said)


@pytest.mark.parametrize(("acks", "wire"), [("all", -1), (1, 1), (0, 0)])
def test_acks(cluster: FakeCluster, patch: pytest.MonkeyPatch, acks: Any, wire: int) -> None:
    with producing(patch, cluster, acks=acks) as producer:
        assert producer.produce("t", b"v").result(WAIT_S).offset == (-1 if wire == 0 else 0)
        assert cluster.wait_for(lambda: cluster.requests)[0][1].acks == wire


@pytest.mark.parametrize(
    ("settings", "stamped"),
    [({}, True), ({"enable_idempotence": False}, False), ({"acks": 1}, False), ({"retries": 0}, False)],
)
def test_enable_idempotence(cluster: FakeCluster, patch: pytest.MonkeyPatch, settings: Any, stamped: bool) -> None:
    with producing(patch, cluster, **settings) as producer:
        producer.produce("t", b"v").result(WAIT_S)
        header = cluster.requests[0][1].batches[0]
        assert (header.producer_id, header.base_sequence) == ((1, 0) if stamped else (-1, -1))
        assert cluster.ids == (1 if stamped else 0)


def test_linger_ms_fills_batches(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    with producing(patch, cluster, linger_ms=60_000) as producer:
        futures = [producer.produce("t", b"%d" % i) for i in range(20)]
        assert not futures[0].done()
        assert producer.flush(WAIT_S) == 0
        assert [r[1].batches[0].record_count for r in cluster.requests] == [20]


def test_without_linger_a_lone_record_goes_at_once(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    with producing(patch, cluster) as producer:
        for _ in range(3):
            producer.produce("t", b"v").result(WAIT_S)
        assert len(cluster.requests) == 3


def test_batch_size_ends_linger_and_bounds_batches(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    with producing(patch, cluster, linger_ms=60_000, batch_size=1000) as producer:
        futures = [producer.produce("t", b"x" * 68) for _ in range(25)]
        futures[9].result(WAIT_S)
        counts = [r[1].batches[0].record_count for r in cluster.requests]
        assert counts[0] == 10
        assert not futures[24].done()


def test_max_request_size_bounds_requests(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    def biggest(size: int) -> int:
        cluster.requests.clear()
        with producing(patch, cluster, linger_ms=60_000, max_request_size=size) as producer:
            for partition in range(4):
                producer.produce("wide", b"x" * 900, partition=partition)
            producer.flush(WAIT_S)
            producer.produce_batch("t", [{"value": b"x" * 100}] * 100).result(WAIT_S)
            assert max(row.size for _, request, rows in cluster.requests for row in rows if request) < 3 * size + 1500
            return max(len(rows) for _, _, rows in cluster.requests)

    assert biggest(2500) <= 2
    assert biggest(1 << 20) > 1


def test_buffer_memory_and_max_block_ms(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    cluster.answering = False
    with producing(patch, cluster, buffer_memory=2000, max_block_ms=50) as producer:
        for _ in range(15):
            producer.produce("t", b"x" * 100)
        with pytest.raises(BufferFull, match=r"buffer\.memory=2000 .*max\.block\.ms=50"):
            producer.produce("t", b"x" * 100)
        with pytest.raises(RecordTooLarge, match=r"buffer\.memory"):
            producer.produce("t", b"x" * 2000)


def test_max_block_ms_and_not_one_requests_timeout_bounds_the_wait_for_metadata(patch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def fail(self: Any, action: str, request: Any, reply: Any, timeout_s: float) -> Any:
        tries.append(timeout_s)
        raise InvalidTopic("enough") if len(tries) == 3 else RequestTimeout("no answer")

    patch.setattr(ClusterClient, "call_broker", fail)
    settings = {"bootstrap_servers": "127.0.0.1:1", "request_timeout_ms": 10, "max_block_ms": int(WAIT_S * 1000)}
    with Producer(settings) as producer, pytest.raises(InvalidTopic):
        producer.produce("t", b"v")
    assert tries == [0.01] * 3, "a request may time out often while produce waits"


def test_without_a_broker_produce_fails_after_max_block_ms(patch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []
    call_broker = ClusterClient.call_broker

    def noted(self: Any, action: str, request: Any, reply: Any, timeout_s: float | None = None) -> Any:
        tries.append(-1.0 if timeout_s is None else timeout_s)
        return call_broker(self, action, request, reply, timeout_s)

    patch.setattr(ClusterClient, "call_broker", noted)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with Producer(bootstrap_servers=address, max_block_ms=30) as producer:
        with pytest.raises(BrokerNotAvailable, match=r"no broker answers.*max\.block\.ms=30"):
            producer.produce("t", b"v")
        assert 0 < tries[0] <= 0.03


def test_a_topic_that_another_thread_asks_for_is_not_waited_for_longer(
    cluster: FakeCluster, patch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()
    topic = cluster.topic

    def slow(name: str, **given: Any) -> Any:
        asked.set()
        assert answer.wait(WAIT_S)
        return topic(name, **given)

    patch.setattr(cluster, "topic", slow)
    with producing(patch, cluster, max_block_ms=20) as producer:
        first = threading.Thread(target=producer.produce, args=("t", b"1"))
        first.start()
        assert asked.wait(WAIT_S)
        with pytest.raises(BrokerNotAvailable, match=r"max\.block\.ms=20.*other threads"):
            producer.produce("t", b"2")
        answer.set()
        first.join(WAIT_S)
        producer.produce("t", b"3").result(WAIT_S)


def test_what_max_block_ms_was_too_short_for_comes_in_the_background(
    cluster: FakeCluster, patch: pytest.MonkeyPatch
) -> None:
    topic = cluster.topic

    def once_known(name: str, **given: Any) -> Any:
        if not cluster.refreshes:
            raise BrokerNotAvailable("no answer yet")
        return topic(name, **given)

    patch.setattr(cluster, "topic", once_known)
    with producing(patch, cluster, max_block_ms=0) as producer:
        with pytest.raises(BrokerNotAvailable, match=r"max\.block\.ms=0"):
            producer.produce("t", b"v")
        cluster.wait_for(lambda: cluster.refreshes)
        assert producer.produce("t", b"v").result(WAIT_S).offset == 0


def test_a_full_buffer_blocks_until_an_ack_makes_room(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    cluster.answering = False
    with producing(patch, cluster, buffer_memory=2000, max_block_ms=int(WAIT_S * 1000)) as producer:

        def fill() -> None:
            for i in range(60):
                producer.produce("t", b"%d" % i + b"x" * 100)

        thread = threading.Thread(target=fill)
        thread.start()
        cluster.wait_for(lambda: cluster.requests)
        assert thread.is_alive()
        cluster.answering = True
        for link in cluster.links:
            while link.unanswered:
                link.answer()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert producer.flush(WAIT_S) == 0
        assert [int(value.rstrip(b"x")) for value in cluster.rows()] == list(range(60))


def test_delivery_timeout_ms(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    cluster.answering = False
    with producing(patch, cluster, delivery_timeout_ms=50) as producer:
        future = producer.produce("t", b"v")
        with pytest.raises(DeliveryTimeout, match=r"delivery\.timeout\.ms=50"):
            future.result(WAIT_S)


@pytest.mark.parametrize("retries", [0, 3])
def test_retries(cluster: FakeCluster, patch: pytest.MonkeyPatch, retries: int) -> None:
    cluster.respond = lambda request, number: (-1, -1, NotEnoughReplicas("one in sync"))
    with producing(patch, cluster, retries=retries) as producer:
        with pytest.raises(NotEnoughReplicas):
            producer.produce("t", b"v").result(WAIT_S)
        assert len(cluster.requests) == retries + 1


@pytest.mark.parametrize("window", [1, 3])
def test_max_in_flight(cluster: FakeCluster, patch: pytest.MonkeyPatch, window: int) -> None:
    with producing(patch, cluster, max_in_flight=window, batch_size=200) as producer:
        producer.produce("t", b"first").result(WAIT_S)
        cluster.answering = False
        cluster.requests.clear()
        for _ in range(20):
            producer.produce("t", b"x" * 200)
        cluster.wait_for(lambda: len(cluster.requests) == window)
        cluster.links[0].answer()
        cluster.wait_for(lambda: len(cluster.requests) == window + 1)
        assert len(cluster.links[0].unanswered) == window


@pytest.mark.parametrize("kind", ["none", "lz4", "zstd"])
def test_compression_type(cluster: FakeCluster, patch: pytest.MonkeyPatch, kind: str) -> None:
    with producing(patch, cluster, compression_type=kind) as producer:
        producer.produce("t", b"same" * 200).result(WAIT_S)
        assert split_message(cluster.requests[0][2][0]).codec == kind


def _partitions(cluster: FakeCluster) -> Counter[int]:
    counts: Counter[int] = Counter()
    for _, request, _ in cluster.requests:
        for batch in request.batches:
            counts[batch.partition] += batch.record_count
    return counts


@pytest.mark.parametrize(
    ("partitioner", "expected"),
    [("default", 1), ("round_robin", 4), (lambda key, partitions: key[0] % partitions, 2)],
)
def test_partitioner(cluster: FakeCluster, patch: pytest.MonkeyPatch, partitioner: Any, expected: int) -> None:
    with producing(patch, cluster, partitioner=partitioner) as producer:
        for i in range(8):
            key = bytes([i % 2]) if callable(partitioner) else b"same"
            producer.produce("wide", b"v", key)
        producer.flush(WAIT_S)
        assert len(_partitions(cluster)) == expected


@pytest.mark.parametrize("chosen", [4, -1, "x", None])
def test_a_partitioner_function_that_goes_wrong_is_told_at_once(
    cluster: FakeCluster, patch: pytest.MonkeyPatch, chosen: Any
) -> None:
    with producing(patch, cluster, partitioner=lambda key, partitions: chosen) as producer:
        with pytest.raises(Exception, match=r"partitions 0 to 3"):
            producer.produce("wide", b"v")
        with pytest.raises(Exception, match=r"partitions 0 to 3"):
            producer.produce_batch("wide", [{"value": b"v"}])


def test_serializers(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    with producing(patch, cluster, value_serializer="json", key_serializer=lambda n: b"k%d" % n) as producer:
        producer.produce("t", {"a": 1}, key=5).result(WAIT_S)
        assert cluster.rows() == [b'{"a":1}']
        with pytest.raises(SerializationError, match="key serializer failed on a str"):
            producer.produce("t", 1, key="x")


def test_request_timeout_ms_gives_a_silent_server_up(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    cluster.answering = False
    with producing(patch, cluster, request_timeout_ms=50) as producer:
        future = producer.produce("t", b"v")
        cluster.wait_for(lambda: len(cluster.opened) == 2)
        assert cluster.links[0].closed
        cluster.answering = True
        cluster.wait_for(lambda: len(cluster.requests) >= 2)
        for link in cluster.links[1:]:
            while link.unanswered:
                link.answer()
        future.result(WAIT_S)


def test_metadata_max_age_ms_asks_again_while_producing(cluster: FakeCluster, patch: pytest.MonkeyPatch) -> None:
    with producing(patch, cluster, metadata_max_age_ms=1) as producer:
        producer.produce("t", b"v").result(WAIT_S)
        cluster.add_topic("t", 3)
        while not cluster.refreshes:
            producer.produce("t", b"v").result(WAIT_S)
        seen: set[int] = set()
        while len(seen) < 3:  # new partitions are found and used
            seen.add(producer.produce("t", b"v").result(WAIT_S).partition)
        assert seen == {0, 1, 2}


class _Exchange:
    """One that welcomes, answers once and ends."""

    welcome = Welcome(1, "c", 0, "inc", 7, "", "")

    def __init__(self) -> None:
        self.replies = [
            codec.encode(ProduceResponse(1, [ProduceResult(5, -1), ProduceResult(-1, -1, "RecordTooLarge", "x")]))
        ]

    def receive(self) -> tuple[bytes, list[Any]]:
        if not self.replies:
            raise BrokerNotAvailable("ended")
        return self.replies.pop(0), []

    def close(self) -> None: ...


def test_client_id_and_connection_timeout_reach_the_server() -> None:
    seen: list[Any] = []

    class Channels:
        def data_channel(self, host: str, port: int) -> Any:
            seen.append((host, port))
            return self

        def exchange(self, hello: Any, timeout_s: float) -> _Exchange:
            seen.extend([hello, timeout_s])
            return _Exchange()

    class Listener:
        def link_opened(self, link: Any, window: int) -> None:
            seen.append(window)

        def link_answered(self, link: Any, results: Any) -> None:
            seen.append(results)

        def link_ended(self, link: Any, opened: bool, error: Any) -> None:
            seen.append((opened, error))

    link = ProduceLink(("h", 9, "inc", 3), Channels(), Listener(), "billing", 1.5)  # type: ignore[arg-type]
    link.start()
    link.join(WAIT_S)
    address, hello, timeout_s, window, results, (opened, ended) = seen
    assert (address, timeout_s, window) == (("h", 9), 1.5, 7)
    assert (hello.kind, hello.client_id, hello.incarnation, hello.broker_id) == ("produce", "billing", "inc", 3)
    assert results[0] == (5, -1, None)
    assert isinstance(results[1][2], RecordTooLarge)
    assert opened
    assert isinstance(ended, BrokerNotAvailable)
