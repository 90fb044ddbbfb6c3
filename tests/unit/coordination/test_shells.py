"""The coordinator's and the broker's processes without Ray: their directories, ports, log and streams."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.identity import DirectoryLock, bind_server, kept_token
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.actors.options import BrokerOptions, CoordinatorOptions
from rayqueue.actors.watch_hub import WatchHub
from rayqueue.client.connection import Channel
from rayqueue.config import BrokerConfig
from rayqueue.coordination.records import ClusterRecord, ProducerIdsRecord, Record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import (
    AuthenticationError,
    BrokerNotAvailable,
    ClusterMismatch,
    ProtocolError,
    RayQueueError,
    StorageError,
)
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    CreateTopicsRequest,
    Empty,
    Identity,
    InitProducerIdResponse,
    MetadataBatch,
    MetadataRequest,
    MetadataResponse,
    ProducerIdBlock,
    TopicSpec,
    TopicsResponse,
    WatchRequest,
)
from rayqueue.storage.files import AppendFile, OsFiles

WAIT_S = 20.0
HOST = "127.0.0.1"


class Shells:
    """Starts coordinators and brokers on one data directory, and stops what is left at the end."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._running: list[Coordinator | Broker] = []
        self.channels: list[Channel] = []

    def coordinator(self, config: dict[str, Any] | None = None, files: Any = None, wait: bool = True) -> Coordinator:
        parsed = BrokerConfig.parse(config)
        options = CoordinatorOptions("c", str(self.data_dir), HOST, HOST, parsed, needs_token=parsed.token is not None)
        made = Coordinator(options, files=files)
        self._running.append(made)
        if wait:
            assert made.ready.wait(WAIT_S), made.report()
        return made

    def broker(self, coordinator: Coordinator, broker_id: int = 0, cluster_id: str = "c1", **options: Any) -> Broker:
        base = BrokerOptions(
            "c", cluster_id, broker_id, str(self.data_dir), HOST, HOST, (HOST, coordinator.port),
            coordinator.token, coordinator.options.config, "n", **options,
        )  # fmt: skip
        started = threading.Event()
        made = Broker(base, lambda slot: started.set())
        self._running.append(made)
        return made

    def stop(self, process: Coordinator | Broker) -> None:
        self._running.remove(process)
        process.stop()

    def channel(self, process: Coordinator | Broker, token: str | None = None) -> Channel:
        self.channels.append(Channel(HOST, process.port, token))
        return self.channels[-1]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        for process in reversed(self._running):
            process.stop()


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[Shells]:
    made = Shells(tmp_path)
    yield made
    made.close()


def until(process: Coordinator | Broker, condition: Callable[[], bool]) -> None:
    """Waits for a state that a process reports."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(process.report())


def create(channel: Channel, *names: str) -> TopicsResponse:
    specs = [TopicSpec(name, 1, -1, {}, b"", "") for name in names]
    return channel.call("create_topics", CreateTopicsRequest(specs, 100), TopicsResponse, WAIT_S)


# --- the coordinator --------------------------------------------------------------------------------------------------


def test_what_was_answered_is_there_after_a_restart_on_the_same_port_under_a_new_epoch(shells: Shells) -> None:
    first = shells.coordinator()
    with pytest.raises(BrokerNotAvailable):
        create(shells.channel(first), "a")
    assert first.format("c1") == "c1"
    shells.broker(first).ready.wait(WAIT_S)
    assert create(shells.channel(first), "a", "b d").results[1].error == "InvalidTopic"
    port, before = first.port, shells.channel(first).call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S)
    shells.stop(first)
    second = shells.coordinator()
    after = shells.channel(second).call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S)
    assert (second.port, [t.name for t in after.topics], after.cluster_id) == (port, ["a"], "c1")
    assert after.index >= before.index and after.coordinator_epoch > before.coordinator_epoch
    with pytest.raises(ClusterMismatch):
        second.format("c2")


def test_a_second_coordinator_waits_for_the_first_and_takes_over(shells: Shells) -> None:
    first = shells.coordinator()
    second = shells.coordinator(wait=False)
    until(second, lambda: second.report().state == "waiting")
    assert "in use by process" in second.report().problem
    port = first.port
    shells.stop(first)
    assert second.ready.wait(WAIT_S) and second.port == port


class FullDisk(OsFiles):
    """Refuses to append while `full`."""

    full = False

    def append(self, file: AppendFile, pieces: Any, total: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(file, pieces, total)


def test_a_full_disk_is_told_to_whoever_asks_and_left_behind_when_there_is_space(shells: Shells) -> None:
    files = FullDisk()
    coordinator = shells.coordinator(files=files)
    coordinator.format("c1")
    channel = shells.channel(coordinator)
    first = channel.call("allocate_producer_ids", AllocateProducerIds(0), ProducerIdBlock, WAIT_S)
    files.full = True
    with pytest.raises(StorageError):
        channel.call("allocate_producer_ids", AllocateProducerIds(0), ProducerIdBlock, WAIT_S)
    files.full = False
    until(coordinator, lambda: coordinator.report().state == "running")
    again = channel.call("allocate_producer_ids", AllocateProducerIds(0), ProducerIdBlock, WAIT_S)
    assert again.first == first.first + first.count, "what could not be written was never handed out"


def test_a_lost_metadata_log_is_not_taken_for_a_new_cluster(shells: Shells) -> None:
    coordinator = shells.coordinator()
    coordinator.format("c1")
    shells.stop(coordinator)
    for path in (shells.data_dir / "coordinator" / "metadata").iterdir():
        path.unlink()
    lost = shells.coordinator(wait=False)
    until(lost, lambda: lost.report().state == "failed")
    assert "restore" in lost.report().problem and lost.report().error == "StorageError"


def test_the_token_is_asked_for(shells: Shells) -> None:
    coordinator = shells.coordinator({"token": "secret"})
    coordinator.format("c1")
    with pytest.raises(AuthenticationError):
        shells.channel(coordinator).call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S)
    right = shells.channel(coordinator, "secret")
    assert right.call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S).cluster_id == "c1"


def test_foreign_bytes_disturb_nobody(shells: Shells) -> None:
    coordinator = shells.coordinator()
    coordinator.format("c1")
    channel = shells.channel(coordinator)
    for request in (Empty(), Identity(1, "", "", 0, "", 0), "text", [1, 2, 3]):
        with pytest.raises(ProtocolError):
            channel.call("create_topics", request, TopicsResponse, WAIT_S)
    assert channel.call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S).topics == []


# --- the broker -------------------------------------------------------------------------------------------------------


def test_a_broker_hands_out_ids_and_answers_metadata_without_the_coordinator(shells: Shells) -> None:
    coordinator = shells.coordinator({"auto.create.topics.enable": True})
    coordinator.format("c1")
    broker = shells.broker(coordinator)
    assert broker.ready.wait(WAIT_S), broker.report()
    channel = shells.channel(broker)
    ids = [channel.call("init_producer_id", Empty(), InitProducerIdResponse, WAIT_S).producer_id for _ in range(3)]
    assert ids == [0, 1, 2]
    assert channel.call("metadata", MetadataRequest(["t"]), MetadataResponse, WAIT_S).topics == []
    shells.stop(coordinator)
    metadata = channel.call("metadata", MetadataRequest(None), MetadataResponse, WAIT_S)
    assert [b.port for b in metadata.brokers] == [broker.port]
    assert channel.call("init_producer_id", Empty(), InitProducerIdResponse, WAIT_S).producer_id == 3


def test_a_broker_keeps_its_identity_and_port(shells: Shells) -> None:
    coordinator = shells.coordinator()
    coordinator.format("c1")
    first = shells.broker(coordinator)
    assert first.ready.wait(WAIT_S), first.report()
    port, incarnation = first.port, first.incarnation
    shells.stop(first)
    second = shells.broker(coordinator)
    assert second.ready.wait(WAIT_S), second.report()
    assert second.port == port and second.incarnation != incarnation


def test_a_directory_of_another_cluster_or_a_new_one_under_an_old_id_is_refused(shells: Shells) -> None:
    coordinator = shells.coordinator()
    coordinator.format("c1")
    first = shells.broker(coordinator)
    assert first.ready.wait(WAIT_S), first.report()
    shells.stop(first)
    stranger = shells.broker(coordinator, cluster_id="c2")
    until(stranger, lambda: stranger.report().state == "failed")
    assert stranger.report().error == "ClusterMismatch" and "data_dir" in stranger.report().problem
    shells.stop(stranger)
    (shells.data_dir / "0" / "identity.json").unlink()
    empty = shells.broker(coordinator)
    until(empty, lambda: empty.report().state == "failed")
    assert empty.report().error == "ClusterMismatch" and "belongs to directory" in empty.report().problem


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_watcher_is_sent_what_is_committed_and_then_what_comes() -> None:
    seen: list[str] = []
    hub = WatchHub(lambda watcher, epoch: seen.append(f"+{watcher}"), lambda watcher, epoch: seen.append(f"-{watcher}"))
    with pytest.raises(BrokerNotAvailable):
        next(hub.watch(WatchRequest(0, "w")))
    records = [b"0", b"1", b"2"]
    hub.open(records, 2, 7)
    stream = hub.watch(WatchRequest(1, "w"))
    assert next(stream) == MetadataBatch(1, 2, 7, [b"1"])
    hub.publish(3)
    assert next(stream) == MetadataBatch(2, 3, 7, [b"2"])
    assert next(stream) == MetadataBatch(3, 3, 7, []), "a silence is filled"
    ahead = hub.watch(WatchRequest(9, "ahead"))
    assert next(ahead) == MetadataBatch(0, 3, 7, records)
    hub.open([], 0, -1)
    for one in (stream, ahead):
        with pytest.raises(BrokerNotAvailable):
            next(one)
    assert seen == ["+w", "-w", "+w", "+ahead", "-w", "-ahead"]


class FakeChannel:
    """A connection whose stream is what the test puts into it."""

    def __init__(self, batches: list[MetadataBatch], requests: list[WatchRequest]) -> None:
        self._batches = batches
        self._requests = requests

    def watch(self, action: str, request: WatchRequest, reply: Any, timeout_s: float) -> Iterator[MetadataBatch]:
        self._requests.append(request)
        yield from self._batches
        raise BrokerNotAvailable("the stream ends")

    def close(self) -> None:
        """Nothing to close."""


def batch(index: int, epoch: int, *records: Record) -> MetadataBatch:
    return MetadataBatch(index, index + len(records), epoch, [encode_record(record) for record in records])


def follow(streams: list[list[MetadataBatch]], index: int) -> tuple[MetadataFollower, list[Any], list[WatchRequest]]:
    """Follows streams one after the other until they are used up and `index` is reached."""
    calls: list[Any] = []
    requests: list[WatchRequest] = []
    used_up = threading.Event()

    def connect() -> Any:
        if not streams:
            used_up.set()
            raise BrokerNotAvailable("no more streams")
        return FakeChannel(streams.pop(0), requests)

    def on_batch(state: ClusterState, records: list[Record], end: int, epoch: int) -> None:
        calls.append((state.next_producer_id, len(records), end, epoch))

    failures: list[BaseException] = []
    follower = MetadataFollower(connect, "w", on_batch, on_failure=failures.append)
    follower.start()
    assert used_up.wait(WAIT_S)
    follower.stop()
    assert follower.index == index and not failures
    return follower, calls, requests


CLUSTER = ClusterRecord("c1", 0)


def ids(next_id: int) -> ProducerIdsRecord:
    return ProducerIdsRecord(next_id)


def test_a_follower_goes_on_where_it_was_and_tells_each_new_coordinator() -> None:
    streams = [
        [batch(0, 1, CLUSTER), batch(1, 1, ids(5)), batch(2, 1)],
        [batch(2, 2), batch(2, 2), batch(2, 2, ids(6))],
    ]
    _, calls, requests = follow(streams, 3)
    assert [request.index for request in requests] == [0, 2]
    assert calls == [(0, 1, 1, 1), (5, 1, 2, 1), (5, 0, 2, 2), (6, 1, 3, 2)], "keepalives are passed over"


def test_a_follower_leaves_a_coordinator_of_an_older_epoch() -> None:
    _, calls, _ = follow([[batch(0, 2, CLUSTER)], [batch(1, 1, ids(5))], [batch(1, 2, ids(6))]], 2)
    assert calls[-1] == (6, 1, 2, 2) and len(calls) == 2


def test_a_follower_of_a_log_that_was_lost_starts_over() -> None:
    follower, calls, _ = follow([[batch(0, 1, CLUSTER, ids(5))], [batch(0, 2, ClusterRecord("c2", 0))]], 1)
    assert calls[-1] == (0, 1, 1, 2) and follower.state.cluster_id == "c2"


def test_a_hole_in_the_log_is_never_passed_over() -> None:
    _, calls, requests = follow([[batch(0, 1, CLUSTER)], [batch(2, 1, ids(5))], [batch(1, 1, ids(6))]], 2)
    assert [request.index for request in requests] == [0, 1, 1] and calls[-1] == (6, 1, 2, 1)


def test_a_report_that_fails_is_made_again_on_the_next_stream() -> None:
    reported: list[int] = []

    def on_batch(state: ClusterState, records: list[Record], end: int, epoch: int) -> None:
        reported.append(end)
        if len(reported) == 1:
            raise RayQueueError("the coordinator is away")

    streams = [[batch(0, 1, CLUSTER)], [batch(1, 2)]]
    done = threading.Event()

    def connect() -> Any:
        if not streams:
            done.set()
            raise BrokerNotAvailable("no more streams")
        return FakeChannel(streams.pop(0), [])

    follower = MetadataFollower(connect, "w", on_batch)
    follower.start()
    assert done.wait(WAIT_S)
    follower.stop()
    assert reported == [1, 1]


# --- directories and ports --------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_and_named(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path / "d" / "lock"), DirectoryLock(tmp_path / "d" / "lock")
    assert first.try_acquire() and first.try_acquire()
    assert not second.try_acquire() and "process" in second.holder()
    stop, told = threading.Event(), []

    def waiting(what: str) -> None:
        told.append(what)
        stop.set()

    assert not second.acquire(stop, waiting) and str(tmp_path / "d") in told[0]
    first.release()
    assert second.acquire(threading.Event())
    second.release()


def test_a_token_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    token = kept_token(tmp_path / "token")
    assert len(token) >= 43 and kept_token(tmp_path / "token") == token
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    assert kept_token(tmp_path / "other") != token


class Server:
    def __init__(self, port: int) -> None:
        self.port = port or 4711


def test_a_port_is_kept_and_a_taken_one_is_waited_for_then_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def make(port: int) -> Server:
        asked.append(port)
        if port == 4711 and len(asked) > 2:
            raise OSError("Address already in use")
        return Server(port) if port else Server(4712 if len(asked) > 1 else 4711)

    assert bind_server(tmp_path, "b", HOST, make).port == 4711
    assert bind_server(tmp_path, "b", HOST, make).port == 4711 and asked == [0, 4711]
    monkeypatch.setattr("rayqueue.actors.identity.PORT_WAIT_S", 0.2)
    told: list[str] = []
    assert bind_server(tmp_path, "b", HOST, make, waiting=told.append).port == 4712
    assert asked[2:] == [4711, 4711, 0] and len(told) == 1 and "4711" in told[0]
    assert bind_server(tmp_path, "b", HOST, make).port == 4712, "the new one is kept"


def test_a_port_that_was_set_is_never_replaced(tmp_path: Path) -> None:
    stop = threading.Event()

    def make(port: int) -> Server:
        assert port == 99
        stop.set()
        raise OSError("Address already in use")

    with pytest.raises(StorageError, match="port 99"):
        bind_server(tmp_path, "b", HOST, make, stop, fixed_port=99)
