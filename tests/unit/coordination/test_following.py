"""How the metadata log is followed, and how directories, tokens and ports are kept."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors.coordinator_addresses import CoordinatorAddresses
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.exchange import Exchange
from rayqueue.actors.identity import DirectoryLock, bind_server, kept_token
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.coordination.records import ClusterRecord, ProducerIdsRecord, Record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import NotController, StorageError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, MetadataBatch, WatchBeat, WatchRequest

WAIT_S = 20.0
HOST = "127.0.0.1"

# --- following --------------------------------------------------------------------------------------------------------


class ScriptedCoordinator:
    """A coordinator whose streams send what the test says, and then end; what watchers say is kept.

    Attributes:
        requests: of the streams that were opened. beats: what they said on each.
        refused: set when one was opened for which there is no script.
    """

    def __init__(self, streams: list[list[MetadataBatch]]) -> None:
        self._streams = streams
        self.requests: list[WatchRequest] = []
        self.beats: list[list[int]] = []
        self.refused = threading.Event()
        identity = Identity(PROTOCOL_VERSION, "c1", "coordinator", -1, "i", 0)
        self.server = DataServer(HOST, 0, identity=identity, exchanges={"watch": self._watch})
        self.address = HOST, self.server.port

    def _watch(self, exchange: Exchange) -> None:
        received = exchange.receive()
        assert received is not None
        if not self._streams:
            self.refused.set()
            raise NotController("no more streams")
        self.requests.append(codec.decode(received[0], WatchRequest))
        said: list[int] = []
        self.beats.append(said)
        for one in self._streams.pop(0):
            exchange.send(codec.encode(one))
            while not said or said[-1] < one.end:  # also those that say nothing new are applied
                beat = exchange.receive()
                if beat is None:
                    return  # the watcher does not like what it was sent
                said.append(codec.decode(beat[0], WatchBeat).applied)


def batch(index: int, epoch: int, *records: Record) -> MetadataBatch:
    return MetadataBatch(index, index + len(records), epoch, [encode_record(record) for record in records])


def follow(
    streams: list[list[MetadataBatch]], index: int, fails: int = 0
) -> tuple[MetadataFollower, list[Any], list[WatchRequest]]:
    """Follows streams one after the other until they are used up and `index` is reached; the first `fails` batches
    cannot be acted on."""
    calls: list[Any] = []

    def on_batch(state: ClusterState, records: list[Record], end: int, epoch: int) -> None:
        calls.append((state.next_producer_id, len(records), end, epoch))
        if len(calls) <= fails:
            raise StorageError("not now")

    failures: list[BaseException] = []
    coordinator = ScriptedCoordinator(streams)
    addresses = CoordinatorAddresses([coordinator.address])
    follower = MetadataFollower(addresses, "c1", None, "w", on_batch, on_failure=failures.append)
    follower.start()
    assert coordinator.refused.wait(WAIT_S)
    assert follower.stop(WAIT_S)
    coordinator.server.shutdown()
    assert follower.index == index and not failures
    return follower, calls, coordinator.requests


CLUSTER = ClusterRecord("c1", 0)


def ids(next_id: int) -> ProducerIdsRecord:
    return ProducerIdsRecord(next_id)


def test_a_follower_goes_on_where_it_was() -> None:
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


def test_what_could_not_be_acted_on_is_tried_again_on_the_next_stream() -> None:
    _, calls, _ = follow([[batch(0, 1, CLUSTER)], [batch(1, 2)]], 1, fails=1)
    assert [end for _, _, end, _ in calls] == [1, 1]


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
