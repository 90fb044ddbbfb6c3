"""Produce and fetch exchanges of a replica actor, on real sockets and a real disk, right and wrong."""

# size: one fixture cluster, one story: all that a client can say to a replica actor

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pytest

from rayqueue import errors
from rayqueue.actors.exchange import Exchange as ServerExchange
from rayqueue.actors.identity import DirectoryLock
from rayqueue.protocol import codec, ipc
from rayqueue.protocol.messages import (
    COMPRESSION_CODES,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    OffsetQuery,
    ProduceRequest,
    TopicInfo,
    TopicsResponse,
    TruncateQuery,
)
from rayqueue.storage.log import Log
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.wire_client import (
    TIME,
    TIMEOUT_S,
    Batch,
    WireClient,
    answer,
    produce,
    random_values,
    records,
    send,
    watchdog,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path_factory.mktemp("cluster"), config={"socket.request.max.bytes": 8 << 20}) as one:
        yield one


@pytest.fixture
def wire(cluster: InProcessCluster) -> Iterator[WireClient]:
    one = WireClient(cluster)
    yield one
    one.close()


@pytest.fixture
def topic(wire: WireClient, request: pytest.FixtureRequest) -> TopicInfo:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:200]
    return wire.create(name, partitions=2)


def test_acks_come_in_the_order_of_requests_and_readers_get_the_same_records(
    wire: WireClient, topic: TopicInfo
) -> None:
    exchange = wire.open("produce", topic)
    groups = [random_values(n) for n in (1, 100, 7, 1000, 1)]
    for correlation, values in enumerate(groups):
        send(exchange, [wire.batch(topic, values)], correlation)
    answers = [answer(exchange) for _ in groups]
    assert [a.correlation for a in answers] == list(range(len(groups)))
    assert [a.results[0].base_offset for a in answers] == [0, 1, 101, 108, 1108]
    reader = wire.subscribe(topic, 0)
    reader.until(1109)
    assert reader.values == [v for values in groups for v in values]
    assert reader.offsets == list(range(1109))


def test_one_request_for_two_partitions(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    send(exchange, [wire.batch(topic, [b"a"], 0), wire.batch(topic, [b"b", b"c"], 1), wire.batch(topic, [b"d"], 0)])
    assert [r.base_offset for r in answer(exchange).results] == [0, 0, 1]


def test_an_idempotent_producer_resends(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    first = wire.batch(topic, [b"a", b"b"], producer=(9, 0, 0))
    second = wire.batch(topic, [b"c"], producer=(9, 0, 2))
    assert [produce(exchange, b).base_offset for b in (first, second, first, second)] == [0, 2, 0, 2]
    gap = produce(exchange, wire.batch(topic, [b"e"], producer=(9, 0, 4)))
    assert gap.error == "OutOfOrderSequence"
    reader = wire.subscribe(topic, 0)
    reader.until(3)
    assert reader.values == [b"a", b"b", b"c"]


def test_a_restarted_actor_still_knows_its_producers(
    cluster: InProcessCluster, wire: WireClient, topic: TopicInfo
) -> None:
    batch = wire.batch(topic, [b"a", b"b"], producer=(11, 0, 0))
    assert produce(wire.open("produce", topic), batch).base_offset == 0
    cluster.stop_replica(0)
    cluster.start_replica(0)
    exchange = wire.open("produce", topic)
    assert produce(exchange, batch).base_offset == 0
    assert produce(exchange, wire.batch(topic, [b"c"], producer=(11, 0, 2))).base_offset == 2


def test_acks_0_gets_no_answer(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    send(exchange, [wire.batch(topic, [b"silent"])], correlation=1, acks=0)
    send(exchange, [wire.batch(topic, [b"heard"])], correlation=2, acks=1)
    assert answer(exchange).correlation == 2
    reader = wire.subscribe(topic, 0)
    reader.until(2)
    assert reader.values == [b"silent", b"heard"]


def compressed_row(batch: pa.RecordBatch, codec_name: str) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec_name)) as writer:
        writer.write_batch(batch)
        end = sink.tell()
    prefix = batch.schema.serialize().size
    return sink.getvalue().slice(prefix, end - prefix)


@pytest.mark.parametrize("codec_name", ["lz4", "zstd"])
def test_compressed_batches_stand_as_they_came(wire: WireClient, topic: TopicInfo, codec_name: str) -> None:
    values = [b"the same again" * 20] * 50
    row = compressed_row(records(values), codec_name)
    compressed = Batch(topic.topic_id, 0, row, 50, attributes=COMPRESSION_CODES[codec_name])
    assert produce(wire.open("produce", topic), compressed).base_offset == 0
    reader = wire.subscribe(topic, 0)
    reader.until(50)
    assert reader.values == values


def damaged(row: pa.Buffer, at: int) -> pa.Buffer:
    data = bytearray(row.to_pybytes())
    data[at] ^= 0x10
    return pa.py_buffer(bytes(data))


def with_crc(row: pa.Buffer, topic: TopicInfo, count: int = 1, **fields: Any) -> Batch:
    """A batch whose CRC is right, whatever its bytes are."""
    crc = 0
    try:
        message = ipc.split_message(row)
        crc = ipc.wire_crc(message, google_crc32c.value(message.body))
    except errors.CorruptRecord:
        fields.setdefault("crc", 1)
    return Batch(topic.topic_id, 0, row, count, **{"crc": crc, **fields})


def bad_batches(topic: TopicInfo) -> dict[str, tuple[Batch, str]]:
    good = records([b"x" * 50]).serialize()
    other = pa.record_batch({"a": pa.array([1.5])}).serialize()
    no_time = pa.RecordBatch.from_arrays(
        [*records([b"x"]).columns[:3], pa.nulls(1, records([b"x"]).schema.field(3).type)], names=list("abcd")
    ).serialize()
    return {
        "a bit flipped": (
            Batch(topic.topic_id, 0, damaged(good, good.size - 70), 1, crc=with_crc(good, topic).crc),
            "CorruptRecord",
        ),
        "cut short": (with_crc(good.slice(0, good.size - 8), topic), "CorruptRecord"),
        "not arrow": (with_crc(pa.py_buffer(os.urandom(500)), topic), "CorruptRecord"),
        "empty": (with_crc(pa.py_buffer(b""), topic), "CorruptRecord"),
        "a schema": (with_crc(records([b"x"]).schema.serialize(), topic), "CorruptRecord"),
        "other columns": (with_crc(other, topic), "SchemaMismatch"),
        "no timestamp": (with_crc(no_time, topic), "SchemaMismatch"),
        "wrong count": (with_crc(good, topic, count=2), "ProtocolError"),
        "wrong time": (with_crc(good, topic, time=TIME + 1), "ProtocolError"),
        "wrong compression": (with_crc(good, topic, attributes=3), "ProtocolError"),
        "control batch": (with_crc(good, topic, attributes=32), "ProtocolError"),
        "no sequence": (with_crc(good, topic, producer=(4, -1, -1)), "ProtocolError"),
        "no rows": (with_crc(records([]).serialize(), topic, count=0), "ProtocolError"),
        "too large": (with_crc(records([b"x" * (1 << 20) + b"y"]).serialize(), topic), "RecordTooLarge"),
        "unknown partition": (Batch(topic.topic_id, 7, good, 1), "UnknownTopicOrPartition"),
        "unknown topic": (Batch(b"?" * 16, 0, good, 1), "UnknownTopicOrPartition"),
        "newer epoch": (with_crc(good, topic, leader_epoch=99), "NotLeaderOrFollower"),
    }


def test_bad_batches_get_their_error_and_disturb_nobody(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    cases = bad_batches(topic)
    got = {name: produce(exchange, batch) for name, (batch, _) in cases.items()}
    assert {name: result.error for name, result in got.items()} == {name: error for name, (_, error) in cases.items()}
    assert all(result.message for result in got.values())
    assert produce(exchange, wire.batch(topic, [b"fine"])).base_offset == 0


def test_a_bad_batch_does_not_take_its_request_with_it(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    send(exchange, [wire.batch(topic, [b"a"]), wire.batch(topic, [b"x"], 7), wire.batch(topic, [b"b"])])
    assert [(r.base_offset, r.error) for r in answer(exchange).results] == [
        (0, ""),
        (-1, "UnknownTopicOrPartition"),
        (1, ""),
    ]


@pytest.mark.parametrize(
    ("message", "rows"),
    [
        (b"\xff garbage", [b"x"]),
        (codec.encode(ProduceRequest(1, -1, [])), []),
        (codec.encode(ProduceRequest(1, 5, [])), [b"x"]),
        (codec.encode({"not": "a request"}), [b"x"]),
    ],
)
def test_a_message_that_is_no_request_ends_its_stream(
    wire: WireClient, topic: TopicInfo, message: bytes, rows: list[bytes]
) -> None:
    exchange = wire.open("produce", topic)
    exchange.send(message, [pa.py_buffer(row) for row in rows])
    with pytest.raises(errors.ProtocolError):
        exchange.receive()
    assert produce(wire.open("produce", topic), wire.batch(topic, [b"fine"])).base_offset == 0


def test_a_record_larger_than_the_request_limit_ends_its_stream(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    send(exchange, [wire.batch(topic, [bytes(9 << 20)])])
    with pytest.raises(errors.ProtocolError, match=r"socket\.request\.max\.bytes"):
        answer(exchange)


def test_a_reader_waits_for_what_comes(wire: WireClient, topic: TopicInfo) -> None:
    reader = wire.subscribe(topic, 0)
    assert reader.step().high_watermark == 0
    exchange = wire.open("produce", topic)
    for number in range(20):
        value = f"{number}".encode()
        produce(exchange, wire.batch(topic, [value]))
        reader.until(number + 1)
        assert reader.values[-1] == value


def test_credit_bounds_what_is_sent(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    for _ in range(10):
        produce(exchange, wire.batch(topic, random_values(100)))
    reader = wire.subscribe(topic, 0, credit=1)
    reader.until(100)
    held = len(reader.values)
    assert held == 100, "a push may pass the credit by one batch, no more"
    reader.exchange.send(codec.encode(FetchRequest([], [], 1 << 30)))
    reader.until(1000)
    assert reader.offsets == list(range(1000))


def test_a_reader_outside_the_log_is_told_the_range(wire: WireClient, topic: TopicInfo) -> None:
    produce(wire.open("produce", topic), wire.batch(topic, [b"a", b"b"]))
    for offset in (-1, 3, 10**12):
        part = wire.subscribe(topic, offset).step()
        assert part.error == "OffsetOutOfRange"
        assert (part.log_start, part.high_watermark) == (0, 2)


def test_bad_subscriptions_are_refused_one_by_one(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("fetch", topic)
    wanted = [
        FetchPartition(1, b"?" * 16, 0, 0, -1, False),
        FetchPartition(2, topic.topic_id, 0, 0, 99, False),
        FetchPartition(3, topic.topic_id, 0, 0, -1, False),
        FetchPartition(3, topic.topic_id, 1, 0, -1, False),
    ]
    exchange.send(codec.encode(FetchRequest(wanted, [], 1)))
    errors_by_id: list[tuple[int, str]] = []
    while len(errors_by_id) < 4:
        parts = codec.decode(exchange.receive()[0], FetchResponse).parts
        errors_by_id += [(part.subscription, part.error) for part in parts]
    assert sorted(errors_by_id) == [
        (1, "UnknownTopicOrPartition"),
        (2, "FencedLeaderEpoch"),
        (3, ""),
        (3, "ProtocolError"),
    ]


def test_a_client_that_stops_reading_holds_up_nobody(wire: WireClient, topic: TopicInfo) -> None:
    exchange = wire.open("produce", topic)
    values = random_values(5000)
    for _ in range(20):
        assert not produce(exchange, wire.batch(topic, values)).error
    deaf = wire.subscribe(topic, 0)  # credit for all of it, never read
    reader = wire.subscribe(topic, 0)
    reader.until(100_000)
    assert produce(exchange, wire.batch(topic, [b"on it goes"])).base_offset == 100_000
    deaf.exchange.close()


def test_records_deleted_under_a_reader(wire: WireClient, topic: TopicInfo) -> None:
    produce(wire.open("produce", topic), wire.batch(topic, random_values(10)))
    info = wire.client.topic(topic.name).partitions[0]
    channel = wire.client.data_channel(info.host, info.port)
    request = DeleteRecordsRequest([TruncateQuery(topic.topic_id, 0, 4), TruncateQuery(topic.topic_id, 0, 99)])
    answers = channel.call("delete_records", request, ListOffsetsResponse, TIMEOUT_S).answers
    assert (answers[0].offset, answers[1].error) == (4, "OffsetOutOfRange")
    queries = [OffsetQuery(topic.topic_id, 0, t) for t in (-2, -1, TIME, TIME + 1)]
    found = channel.call("list_offsets", ListOffsetsRequest(queries), ListOffsetsResponse, TIMEOUT_S).answers
    assert [(a.offset, a.timestamp) for a in found] == [(4, -1), (10, -1), (4, TIME), (-1, -1)]
    newer = [OffsetQuery(topic.topic_id, 0, -1, epoch) for epoch in (info.leader_epoch, info.leader_epoch + 1)]
    found = channel.call("list_offsets", ListOffsetsRequest(newer), ListOffsetsResponse, TIMEOUT_S).answers
    assert [(a.offset, a.error) for a in found] == [(10, ""), (-1, "FencedLeaderEpoch")]


def test_segments_are_plain_arrow_streams(cluster: InProcessCluster, wire: WireClient, topic: TopicInfo) -> None:
    values = random_values(30)
    produce(wire.open("produce", topic), wire.batch(topic, values))
    directory = Path(cluster.data_dir) / "0" / "partitions" / f"{topic.name}-{topic.topic_id.hex()}-0"
    with pa.OSFile(str(directory / f"{0:020d}.arrow")) as file:
        assert pa.ipc.open_stream(file).read_next_batch().column("value").to_pylist() == values


def test_streams_come_and_go_while_records_flow(wire: WireClient, topic: TopicInfo) -> None:
    """Each round has streams of its own: a wake-up lost at a stream's start or end would be a reader that waits."""
    for number in range(60):
        reader = wire.subscribe(topic, number)
        exchange = wire.open("produce", topic)
        value = f"{number}".encode()
        assert produce(exchange, wire.batch(topic, [value])).base_offset == number
        reader.until(1)
        assert reader.values == [value]
        exchange.close()
        reader.exchange.close()


def test_the_longest_topic_name_has_a_directory(wire: WireClient) -> None:
    topic = wire.create("n" * 249)
    assert produce(wire.open("produce", topic), wire.batch(topic, [b"fits"])).base_offset == 0


def test_a_log_that_goes_offline_fails_alone(cluster: InProcessCluster, wire: WireClient, topic: TopicInfo) -> None:
    directory = Path(cluster.data_dir) / "0" / "partitions" / f"{topic.name}-{topic.topic_id.hex()}-0"
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.write_text("a file where the log's directory should be")
    exchange = wire.open("produce", topic)
    assert produce(exchange, wire.batch(topic, [b"nowhere"], 0)).error == "StorageError"
    assert produce(exchange, wire.batch(topic, [b"nowhere"], 0)).error == "StorageError"
    assert produce(exchange, wire.batch(topic, [b"elsewhere"], 1)).base_offset == 0


def test_a_few_bytes_that_inflate_to_many_are_refused(wire: WireClient, topic: TopicInfo) -> None:
    row = compressed_row(records([bytes(1_000_000)] * 20), "zstd")
    assert row.size < 100_000
    result = produce(wire.open("produce", topic), with_crc(row, topic, count=20, attributes=COMPRESSION_CODES["zstd"]))
    assert result.error == "RecordTooLarge"
    assert "decompressed" in result.message


@pytest.mark.parametrize("time", [-1, 10**18])
def test_times_that_nobody_can_read_are_refused(wire: WireClient, topic: TopicInfo, time: int) -> None:
    assert produce(wire.open("produce", topic), wire.batch(topic, [b"x"], time=time)).error == "ProtocolError"


def test_answers_that_nobody_reads_stop_the_stream_and_not_the_actor(wire: WireClient, topic: TopicInfo) -> None:
    deaf = wire.open("produce", topic)
    batch = wire.batch(topic, random_values(800))
    sent = 0
    stalled = threading.Event()

    def flood() -> None:
        nonlocal sent
        try:
            while not stalled.is_set():
                send(deaf, [batch])
                sent += 1
        except errors.RayQueueError:
            stalled.set()  # closed below

    thread = threading.Thread(target=flood)
    thread.start()
    exchange = wire.open("produce", topic, 1)
    for number in range(50):
        assert produce(exchange, wire.batch(topic, [b"x"], 1)).base_offset == number
    stalled.set()
    deaf.close()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    assert produce(exchange, wire.batch(topic, [b"x"], 1)).base_offset == 50


def test_log_append_time_is_told_also_of_a_duplicate(wire: WireClient) -> None:
    topic = wire.create("by-the-log", message_timestamp_type="LogAppendTime")
    exchange = wire.open("produce", topic)
    batch = wire.batch(topic, [b"a"], producer=(21, 0, 0))
    first, again = produce(exchange, batch), produce(exchange, batch)
    assert first.timestamp > TIME
    assert (again.base_offset, again.timestamp) == (first.base_offset, first.timestamp)


def test_files_of_a_topic_deleted_while_its_actor_was_away_are_removed(
    cluster: InProcessCluster, wire: WireClient, topic: TopicInfo
) -> None:
    produce(wire.open("produce", topic), wire.batch(topic, [b"x"]))
    directory = Path(cluster.data_dir) / "0" / "partitions" / f"{topic.name}-{topic.topic_id.hex()}-0"
    assert directory.is_dir()
    cluster.stop_replica(0)
    request = DeleteTopicsRequest([topic.name], timeout_ms=100)
    wire.client.call_coordinator("delete_topics", request, TopicsResponse)
    cluster.start_replica(0)
    assert not directory.exists()
    assert [path.name for path in directory.parent.glob(f"{topic.name}*")] == []


def test_a_topic_whose_files_cannot_be_removed_does_not_hold_up_the_others(
    cluster: InProcessCluster, wire: WireClient, topic: TopicInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(wire.open("produce", topic), wire.batch(topic, [b"x"]))
    with monkeypatch.context() as patch:
        patch.setattr(Log, "delete", lambda self: (_ for _ in ()).throw(errors.StorageError("I/O error")))
        wire.client.call_coordinator("delete_topics", DeleteTopicsRequest([topic.name]), TopicsResponse)
    after = wire.create("made-after-the-failure")
    assert produce(wire.open("produce", after), wire.batch(after, [b"x"])).base_offset == 0


def test_a_replica_actor_that_cannot_write_its_nonce_says_so_and_tries_again(
    cluster: InProcessCluster, wire: WireClient, topic: TopicInfo
) -> None:
    cluster.stop_replica(0)
    nonce = Path(cluster.data_dir) / "0" / "nonce-0"
    nonce.unlink()
    nonce.mkdir()  # as good as a full disk: the file cannot be written
    with pytest.raises(errors.RequestTimeout, match="directory"):
        cluster.start_replica(0, timeout_s=0.5)
    nonce.rmdir()
    assert cluster.replicas[0, 0].ready.wait(TIMEOUT_S)
    assert produce(wire.open("produce", topic), wire.batch(topic, [b"x"])).base_offset == 0


def test_stopping_during_a_recovery_waits_for_it_and_hosts_nothing_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InProcessCluster(tmp_path) as own:
        wire = WireClient(own)
        topic = wire.create("slow", partitions=3)
        for partition in range(3):
            produce(wire.open("produce", topic, partition), wire.batch(topic, [b"x"], partition))
        wire.close()
        own.stop_replica(0)
        entered, go_on = threading.Event(), threading.Event()
        opening = Log.open

        def slow_open(*args: Any) -> Log:
            entered.set()
            assert go_on.wait(TIMEOUT_S)
            return opening(*args)

        monkeypatch.setattr(Log, "open", slow_open)
        starting = threading.Thread(target=own.start_replica, args=(0,), daemon=True)
        starting.start()
        assert entered.wait(TIMEOUT_S)
        replica = own.replicas[0, 0]
        stopping = threading.Thread(target=own.stop_replica, args=(0,))
        stopping.start()
        lock = DirectoryLock(tmp_path / "0" / "locks" / "replica-0")
        assert not lock.try_acquire(), "the directory is not let go while a recovery writes in it"
        go_on.set()
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()
        assert list(replica._table) == []
        assert lock.try_acquire()
        lock.release()


def test_a_client_that_reads_no_answers_does_not_use_up_the_budget_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam, release = threading.Event(), threading.Event()
    write_one = ServerExchange._write_one

    def jammed(self: ServerExchange, wait: bool) -> None:
        """A connection that takes nothing: what is left is the thread's, which waits for the client."""
        if self.hello.client_id == "deaf" and jam.is_set() and not release.is_set():
            if not wait:
                self._blocked = True
                return
            release.wait(TIMEOUT_S)
        write_one(self, wait)

    monkeypatch.setattr(ServerExchange, "_write_one", jammed)
    with InProcessCluster(tmp_path, config={"queued.max.bytes": 1 << 20}) as own:
        wire = WireClient(own)
        topic = wire.create("shared")
        deaf = wire.open("produce", topic, client_id="deaf")
        jam.set()
        send(deaf, [Batch(b"?" * 16, 0, pa.py_buffer(bytes(1_048_300)), 1, crc=1)])
        exchange = wire.open("produce", topic)
        with watchdog(TIMEOUT_S / 2, exchange):
            assert produce(exchange, wire.batch(topic, [b"x"])).base_offset == 0
        release.set()
        wire.close()
