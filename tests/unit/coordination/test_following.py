"""How the metadata log is followed, and how directories, tokens and ports are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors.identity import DirectoryLock, bind_server, kept_token
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.actors.watch_hub import BATCH_RECORDS_MAX, WatchHub
from rayqueue.coordination.records import ClusterRecord, ProducerIdsRecord, Record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import BrokerNotAvailable, RayQueueError, StorageError
from rayqueue.protocol.messages import MetadataBatch, WatchRequest

WAIT_S = 20.0
HOST = "127.0.0.1"

# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_watcher_is_sent_what_is_committed_and_then_what_comes() -> None:
    seen: list[str] = []
    hub = WatchHub(lambda watcher, epoch: seen.append(f"+{watcher}"), lambda watcher, epoch: seen.append(f"-{watcher}"))
    with pytest.raises(BrokerNotAvailable):
        next(hub.watch(WatchRequest(0, "w")))
    records = [b"0", b"1", b"2"]
    hub.open(records, [1, 2, 3], 2, 7)
    stream = hub.watch(WatchRequest(1, "w"))
    assert next(stream) == MetadataBatch(1, 2, 7, [b"1"])
    hub.publish(3)
    assert next(stream) == MetadataBatch(2, 3, 7, [b"2"])
    assert next(stream) == MetadataBatch(3, 3, 7, []), "a silence is filled"
    ahead = hub.watch(WatchRequest(9, "ahead"))
    assert next(ahead) == MetadataBatch(0, 3, 7, records)
    hub.open([], [], 0, -1)
    for one in (stream, ahead):
        with pytest.raises(BrokerNotAvailable):
            next(one)
    assert seen == ["+w", "-w", "+w", "+ahead", "-w", "-ahead"]


def test_a_command_is_sent_whole_however_many_records_it_has() -> None:
    hub = WatchHub(lambda watcher, epoch: None, lambda watcher, epoch: None)
    large = BATCH_RECORDS_MAX + 10
    ends = [1, 2, 2 + large, 3 + large, 3 + 2 * large]  # the last one is not committed yet
    records = [b"%d" % number for number in range(ends[-1])]
    hub.open(records, ends, ends[-2], 1)
    stream = hub.watch(WatchRequest(0, "w"))
    sent = [next(stream) for _ in range(3)]
    assert [(one.index, one.end) for one in sent] == [(0, 2), (2, 2 + large), (2 + large, 3 + large)]
    assert [record for one in sent for record in one.records] == records[: ends[-2]]
    hub.publish(ends[-1])
    assert (last := next(stream)).end == ends[-1] and len(last.records) == large


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

    def shutdown(self) -> None:
        raise AssertionError("it is in use")


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
