"""The producer under faults, and from its making to its end, against a cluster that does what the test says."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.errors import (
    DeliveryTimeout,
    NotEnoughReplicas,
    NotLeaderOrFollower,
    RayQueueError,
    RecordTooLarge,
    RequestTimeout,
    UnknownTopicOrPartition,
)
from rayqueue.producer import Producer
from rayqueue.protocol.messages import PartitionInfo
from rayqueue.protocol.schemas import typed_log_schema
from tests.unit.client.fake_cluster import WAIT_S, FakeCluster, FakeLink, producing

TYPED = typed_log_schema(pa.schema([("carrier", pa.string()), ("flight", pa.int32())]))


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.add_topic("t")
    made.add_topic("wide", 4)
    made.add_topic("typed", schema=TYPED, key_column="carrier")
    made.add_topic("small", configs={"max_message_bytes": "200"})
    return made


@pytest.fixture
def producer(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    with producing(monkeypatch, cluster) as made:
        yield made


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_server_that_starts_again_on_its_port_is_found_by_its_incarnation(
    cluster: FakeCluster, producer: Producer
) -> None:
    producer.produce("t", b"1").result(WAIT_S)
    cluster.answering = False
    unanswered = producer.produce("t", b"2")
    cluster.wait_for(lambda: len(cluster.requests) == 2)
    info = cluster.topics["t"]
    info.partitions[0] = PartitionInfo(0, 0, 2, [0], [0], "a", 1, "another")
    cluster.answering = True
    cluster.links[0].end()
    assert unanswered.result(WAIT_S).offset == 1
    # (A try to reach the old one, refused, may begin last: each has a thread of its own.)
    assert cluster.opened[0][2] == "inc"
    assert {node[2] for node in cluster.opened} == {"inc", "another"}
    headers = [request.batches[0] for _, request, _ in cluster.requests]
    assert [(h.base_sequence, h.leader_epoch) for h in headers] == [(0, 1), (1, 1), (1, 2)]


def test_not_leader_is_followed(cluster: FakeCluster, producer: Producer) -> None:
    moved = PartitionInfo(0, 1, 2, [1], [1], "b", 2, "inc")

    def respond(request: Any, number: int) -> Any:
        if cluster.requests[-1][0][0] == "a":
            cluster.topics["t"].partitions[0] = moved
            return -1, -1, NotLeaderOrFollower("moved")
        return 5, -1, None

    cluster.respond = respond
    assert producer.produce("t", b"v").result(WAIT_S).offset == 5


def test_one_failed_batch_does_not_hold_up_those_behind_it(cluster: FakeCluster, producer: Producer) -> None:
    producer.produce("t", b"first").result(WAIT_S)
    poison = {1}

    def respond(request: Any, number: int) -> Any:
        batch = request.batches[number]
        if batch.base_sequence in poison and batch.producer_epoch == 0:
            return -1, -1, RecordTooLarge("no")
        return 10 + batch.base_sequence, -1, None

    cluster.respond = respond
    with pytest.raises(RecordTooLarge):
        producer.produce("t", b"bad").result(WAIT_S)
    assert producer.produce("t", b"good").result(WAIT_S).offset == 10
    assert cluster.requests[-1][1].batches[0].producer_epoch == 1


def test_a_deleted_topic_fails_what_is_on_its_way_and_the_next_record_says_so(
    cluster: FakeCluster, producer: Producer
) -> None:
    producer.produce("t", b"v").result(WAIT_S)
    cluster.respond = lambda request, number: (-1, -1, UnknownTopicOrPartition("not here"))
    del cluster.topics["t"]
    with pytest.raises(UnknownTopicOrPartition, match="was deleted"):
        producer.produce("t", b"v").result(WAIT_S)
    with pytest.raises(UnknownTopicOrPartition, match="topic create t"):
        producer.produce("t", b"v")


def test_a_topic_made_anew_under_its_name_is_another(cluster: FakeCluster, producer: Producer) -> None:
    producer.produce("t", b"v").result(WAIT_S)
    cluster.add_topic("t", topic_id=b"another".ljust(16))
    ours = cluster.respond

    def respond(request: Any, number: int) -> Any:
        if request.batches[number].topic_id != b"another".ljust(16):
            return -1, -1, UnknownTopicOrPartition("not here")
        return ours(request, number)

    cluster.respond = respond
    with pytest.raises(UnknownTopicOrPartition, match="deleted"):
        producer.produce("t", b"old").result(WAIT_S)
    assert producer.produce("t", b"new").result(WAIT_S).offset == 0


def test_a_leader_that_cannot_be_reached_is_in_the_timeout(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.refusing = True
    why = "never sent; last error: BrokerNotAvailable: refused"
    with (
        producing(monkeypatch, cluster, delivery_timeout_ms=50) as producer,
        pytest.raises(DeliveryTimeout, match=why),
    ):
        producer.produce("t", b"v").result(WAIT_S)


def test_why_it_takes_so_long_is_in_the_timeout_of_a_result(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.respond = lambda request, number: (-1, -1, NotEnoughReplicas("one in sync"))
    with producing(monkeypatch, cluster) as producer:
        record = producer.produce("t", b"v")
        table = producer.produce_batch("t", [{"value": b"w"}])
        cluster.wait_for(lambda: len(cluster.requests) > 1)
        for late in (record, table):
            with pytest.raises(RequestTimeout, match="last error: NotEnoughReplicas: one in sync"):
                late.result(0.01)
        cluster.refusing = True
        cluster.links[0].end()
        cluster.wait_for(lambda: len(cluster.opened) > 2)
        with pytest.raises(RequestTimeout, match="last error: BrokerNotAvailable"):
            record.result(0.01)


def test_a_server_that_stops_reading_does_not_hold_the_sender_for_ever(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producing(monkeypatch, cluster, request_timeout_ms=80) as producer:
        producer.produce("t", b"1").result(WAIT_S)
        cluster.stopped = cluster.opened[0]
        future = producer.produce("t", b"2")
        assert cluster.links[0].ended.wait(WAIT_S)
        cluster.stopped = None
        assert future.result(WAIT_S).offset == 1


def test_a_stopped_server_that_was_replaced_is_left_at_once(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producing(monkeypatch, cluster, request_timeout_ms=2000) as producer:
        producer.produce("t", b"1").result(WAIT_S)
        cluster.stopped = cluster.opened[0]
        cluster.topics["t"].partitions[0] = PartitionInfo(0, 1, 2, [1], [1], "b", 2, "inc")
        assert producer.produce("t", b"2").result(WAIT_S).offset == 1
        assert cluster.refreshes, "a slow send is a reason to ask who leads"
        assert cluster.requests[-1][0][0] == "b"


def test_a_link_that_gets_no_thread_is_tried_again_and_the_others_go_on(
    cluster: FakeCluster, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.topics["wide"].partitions[1] = PartitionInfo(1, 1, 1, [1], [1], "b", 2, "inc")
    start = FakeLink.start
    refused: list[Any] = []

    def refusing(self: FakeLink) -> None:
        if self.node[0] == "b" and len(refused) < 2:
            with cluster.changed:
                refused.append(self.node)
                cluster.changed.notify_all()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(FakeLink, "start", refusing)
    late = producer.produce("wide", b"1", partition=1)
    cluster.wait_for(lambda: refused)
    assert producer.produce("wide", b"0", partition=0).result(WAIT_S).offset == 0
    assert late.result(WAIT_S).offset == 0
    assert len(refused) == 2


# --- life -------------------------------------------------------------------------------------------------------------


def test_close_flushes_and_refuses_what_comes_after(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, linger_ms=60_000) as producer:
        future = producer.produce("t", b"v")
        assert producer.close(WAIT_S) == 0
        assert future.done()
        for call in (lambda: producer.produce("t", b"v"), lambda: producer.produce_batch("t", [{"value": b""}])):
            with pytest.raises(RayQueueError, match="closed: make a new one"):
                call()
        assert producer.close() == 0
        assert "closed" in repr(producer)


def test_close_in_time_fails_what_is_left_and_says_so(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.answering = False
    with producing(monkeypatch, cluster) as producer:
        futures = [producer.produce("t", b"v") for _ in range(3)]
        assert producer.close(0.01) == 3
        for future in futures:
            with pytest.raises(RayQueueError, match="closed before an ack came"):
                future.result(0)
        assert "3 records undelivered" in caplog.text


def test_leaving_the_block_by_an_exception_flushes_too(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, linger_ms=60_000) as producer:
        with pytest.raises(ZeroDivisionError), producer:
            producer.produce("t", b"v")
            raise ZeroDivisionError
        assert cluster.rows() == [b"v"]


def test_leaving_by_ctrl_c_does_not_hang(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayqueue.producer._INTERRUPTED_FLUSH_S", 0.01)
    cluster.answering = False
    with producing(monkeypatch, cluster) as producer, pytest.raises(KeyboardInterrupt), producer:
        future = producer.produce("t", b"v")
        raise KeyboardInterrupt
    assert future.done()


def test_a_forgotten_producer_warns_and_delivers(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster):
        forgotten = Producer(bootstrap_servers="fake:1", linger_ms=60_000)
        future = forgotten.produce("t", b"v")
        with pytest.warns(ResourceWarning, match="1 records undelivered"):
            del forgotten
            gc.collect()
        assert future.result(WAIT_S).offset == 0


def test_pickling_says_what_to_do(producer: Producer) -> None:
    with pytest.raises(TypeError, match="make one in the process that needs it"):
        pickle.dumps(producer)


def test_a_forked_child_is_told(cluster: FakeCluster, producer: Producer) -> None:
    producer.produce("t", b"v").result(WAIT_S)
    producer.produce("t", b"v")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for call in (lambda: producer.produce("t", b"v"), producer.flush, lambda: producer.produce_batch("t", [])):
            try:
                call()
                said.append("nothing")
            except RayQueueError as error:
                said.append(str(error))
        producer.close()
        os.write(write, ",".join(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "forked,forked,forked"
    os.waitpid(child, 0)
    assert producer.flush(WAIT_S) == 0


def test_an_interrupt_between_two_columns_leaves_the_chunk_whole(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with producing(monkeypatch, cluster, linger_ms=60_000) as producer:
        producer.produce("t", b"0", b"k")
        with monkeypatch.context() as patch:

            def interrupted() -> int:
                raise KeyboardInterrupt

            patch.setattr("rayqueue.producer.time_ns", interrupted)
            with pytest.raises(KeyboardInterrupt):
                producer.produce("t", b"1", b"k")
        assert producer.produce("t", b"2", b"k").metadata  # the next takes its place
        producer.flush(WAIT_S)
        assert cluster.rows() == [b"0", b"2"]


def test_a_table_that_is_cut_short_does_not_hang(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with producing(monkeypatch, cluster, max_request_size=1024, buffer_memory=5000) as producer:
        taken: list[Any] = []
        accumulator = producer._pipeline.accumulator
        add = accumulator.add

        def interrupted(piece: Any) -> None:
            taken.append(piece)
            if len(taken) == 2:
                raise KeyboardInterrupt
            add(piece)

        monkeypatch.setattr(accumulator, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            producer.produce_batch("t", [{"value": b"x" * 500}] * 20)
        assert producer.flush(WAIT_S) == 0
        assert 0 < len(cluster.rows()) < 20
