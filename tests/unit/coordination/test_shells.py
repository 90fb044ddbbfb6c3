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
from rayqueue.actors.options import BrokerOptions, CoordinatorOptions
from rayqueue.client.connection import Channel
from rayqueue.client.data_channel import DataChannel
from rayqueue.config import BrokerConfig
from rayqueue.errors import (
    AuthenticationError,
    BrokerNotAvailable,
    ClusterMismatch,
    ProtocolError,
    StorageError,
)
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    CreateTopicsRequest,
    Empty,
    Identity,
    InitProducerIdResponse,
    MetadataRequest,
    MetadataResponse,
    ProducerIdBlock,
    TopicSpec,
    TopicsResponse,
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
            "c", cluster_id, broker_id, str(self.data_dir), HOST, HOST, ((HOST, coordinator.port),),
            coordinator.token, coordinator.options.config, "n", **options,
        )  # fmt: skip
        started = threading.Event()
        made = Broker(base, lambda slot: started.set(), lambda: None)
        self._running.append(made)
        return made

    def stop(self, process: Coordinator | Broker) -> None:
        self._running.remove(process)
        process.stop()

    def channel(self, process: Coordinator | Broker, token: str | None = None) -> Channel | DataChannel:
        if isinstance(process, Coordinator):
            return DataChannel(HOST, process.port, token)
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


def create(channel: Channel | DataChannel, *names: str) -> TopicsResponse:
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
    assert second.format() == "c1", "whoever names no cluster takes the one that is there"
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
    for path in (shells.data_dir / "coordinator-0" / "metadata").iterdir():
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
