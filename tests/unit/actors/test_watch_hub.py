"""Streams of the metadata log: what a watcher is sent, and who counts as there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rayqueue.actors import watch_hub
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.published_log import BATCH_RECORDS_MAX
from rayqueue.actors.watch_hub import WatchHub
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.errors import BrokerNotAvailable, NotController, ProtocolError
from rayqueue.protocol import codec
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    Identity,
    MetadataBatch,
    WatchBeat,
    WatchRequest,
)

WAIT_S = 20.0
HOST = "127.0.0.1"


class Rig:
    """A hub behind a real server, and what it told the coordinator."""

    def __init__(self, beat_interval_s: float = 0.01, timeout_s: float = WAIT_S) -> None:
        self.told: list[str] = []
        self._changed = threading.Condition()
        self.hub = WatchHub(
            lambda watcher, epoch: self._tell(f"+{watcher} {epoch}"),
            lambda watcher, epoch: self._tell(f"-{watcher} {epoch}"),
            lambda watcher, index, epoch: self._tell(f"{watcher}={index} {epoch}"),
            lambda epoch: self._tell(f"stalled {epoch}"),
            beat_interval_s,
            timeout_s,
        )
        identity = Identity(PROTOCOL_VERSION, "c", "coordinator", -1, "i", 0)
        self._server = DataServer(HOST, 0, identity=identity, exchanges={"watch": self.hub.serve})
        self._opened: list[Exchange] = []

    def _tell(self, word: str) -> None:
        with self._changed:
            self.told.append(word)
            self._changed.notify_all()

    def wait_told(self, *words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(words) <= set(self.told), WAIT_S), self.told

    def serve(self, epoch: int, *commands: list[bytes]) -> None:
        """These are committed, and the coordinator is active."""
        self.hub.start_from([], 0)
        for command in commands:
            self.hub.append(command)
        self.hub.serve_epoch(sum(map(len, commands)), epoch)

    def commit(self, end: int, command: list[bytes]) -> None:
        self.hub.append(command)
        self.hub.publish(end)

    def watch(self, index: int, watcher: str = "w") -> Exchange:
        exchange = DataChannel(HOST, self._server.port).exchange(Hello(PROTOCOL_VERSION, "watch"), WAIT_S)
        self._opened.append(exchange)
        exchange.send(codec.encode(WatchRequest(index, watcher)))
        return exchange

    def close(self) -> None:
        for exchange in self._opened:
            exchange.close()
        self.hub.close()
        self._server.shutdown()


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**settings: float) -> Rig:
        made.append(Rig(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def received(exchange: Exchange) -> MetadataBatch:
    return codec.decode(exchange.receive_within(WAIT_S), MetadataBatch)


def news(exchange: Exchange) -> MetadataBatch:
    """The next batch with records."""
    while not (batch := received(exchange)).records:
        pass
    return batch


def test_a_watcher_is_sent_what_is_committed_and_then_what_comes(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    rig.serve(7, [b"0"], [b"1"])
    stream = rig.watch(1)
    assert received(stream) == MetadataBatch(1, 2, 7, [b"1"])
    assert received(stream) == MetadataBatch(2, 2, 7, []), "a silence is filled"
    rig.commit(3, [b"2"])
    assert news(stream) == MetadataBatch(2, 3, 7, [b"2"])
    assert received(rig.watch(9, "ahead")) == MetadataBatch(0, 3, 7, [b"0", b"1", b"2"])
    assert received(rig.watch(3, "level")) == MetadataBatch(3, 3, 7, []), "also one that lacks nothing hears at once"
    rig.wait_told("+w 7", "+ahead 7", "+level 7")


def test_streams_end_when_the_coordinator_is_another_one_or_stops(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    with pytest.raises(NotController):
        received(rig.watch(0))
    assert rig.told == []
    rig.serve(1)
    first = rig.watch(0)
    received(first)
    rig.serve(2)
    with pytest.raises(BrokerNotAvailable):
        while True:
            received(first)
    rig.wait_told("-w 1")
    second = rig.watch(0)
    assert received(second).coordinator_epoch == 2
    rig.hub.close()
    with pytest.raises(BrokerNotAvailable):
        while True:
            received(second)
    rig.wait_told("-w 2")


def test_a_command_is_sent_whole_however_many_records_it_has(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    large = BATCH_RECORDS_MAX + 10
    ends = [1, 2, 2 + large, 3 + large, 3 + 2 * large]  # the last one is not committed yet
    records = [b"%d" % number for number in range(ends[-1])]
    commands = [records[first:end] for first, end in zip([0, *ends], ends, strict=False)]
    rig.serve(1, *commands[:-1])
    stream = rig.watch(0)
    sent = [news(stream) for _ in range(3)]
    assert [(one.index, one.end) for one in sent] == [(0, 2), (2, 2 + large), (2 + large, 3 + large)]
    assert [record for one in sent for record in one.records] == records[: ends[-2]]
    rig.commit(ends[-1], commands[-1])
    assert (last := news(stream)).end == ends[-1] and len(last.records) == large


def test_what_a_watcher_has_applied_is_told_when_it_grows(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    rig.serve(4, [b"0"])
    stream = rig.watch(0)
    for index in (0, 0, 1, 0, 1, 2):
        stream.send(codec.encode(WatchBeat(index)))
    rig.wait_told("w=2 4")
    assert rig.told == ["+w 4", "w=0 4", "w=1 4", "w=2 4"]
    stream.send(b"no beat")
    with pytest.raises(ProtocolError):
        while True:
            received(stream)
    rig.wait_told("-w 4")


def test_a_connection_that_breaks_ends_the_stream_at_once(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    rig.serve(1)
    stream = rig.watch(0)
    received(stream)
    stream.close()
    rig.wait_told("-w 1")


def test_who_says_nothing_is_ended_and_who_beats_is_not(rigs: Callable[..., Rig]) -> None:
    rig = rigs(timeout_s=0.2)
    rig.serve(1)
    silent, lively = rig.watch(0, "silent"), rig.watch(0, "lively")
    with pytest.raises(BrokerNotAvailable):
        while True:
            received(silent)
            received(lively)  # every 10 ms or so
            lively.send(codec.encode(WatchBeat(0)))
    rig.wait_told("-silent 1")
    received(lively)
    assert "-lively 1" not in rig.told


def test_a_hub_that_stood_still_blames_nobody(rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock has gone on; what the watchers have said meanwhile it has not read."""
    rig = rigs(timeout_s=2.0)
    rig.serve(3)
    stream = rig.watch(0)
    received(stream)
    clock = time.monotonic
    monkeypatch.setattr(watch_hub.time, "monotonic", lambda: clock() + 60.0)
    rig.wait_told("stalled 3")
    for _ in range(5):
        received(stream)
    assert rig.told == ["+w 3", "stalled 3"]


def test_a_watcher_that_does_not_read_holds_up_nobody_and_costs_one_batch(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    size, count = 1 << 20, 64  # far more than a connection takes
    rig.serve(1)
    deaf, other = rig.watch(0, "deaf"), rig.watch(0, "other")
    received(other)
    for number in range(1, count + 1):
        rig.commit(number, [bytes(size)])
        assert news(other).end == number
    (stream,) = [one for one in rig.hub._streams if one.watcher == "deaf"]
    assert stream.index < count and len(stream.exchange._outbox) <= 1
    at = 0
    while at < count:  # once it reads it gets all of it
        batch = received(deaf)
        assert batch.index == at
        at = batch.end


def test_who_has_followed_less_than_the_snapshot_begins_with_it(rigs: Callable[..., Rig]) -> None:
    rig = rigs()
    rig.hub.start_from([b"all", b"before"], 40)
    rig.hub.append([b"40", b"41"])
    rig.hub.serve_epoch(42, 3)
    level = rig.watch(41)
    assert received(level) == MetadataBatch(41, 42, 3, [b"41"])
    late = rig.watch(12)
    assert received(late) == MetadataBatch(0, 40, 3, [b"all", b"before"])
    assert received(late) == MetadataBatch(40, 42, 3, [b"40", b"41"])
    rig.hub.start_from([b"less"], 42)  # taken while they follow
    rig.commit(43, [b"42"])
    assert news(level) == news(late) == MetadataBatch(42, 43, 3, [b"42"])
    rig.hub.stop_serving()
    with pytest.raises(BrokerNotAvailable):
        while True:
            received(level)
    with pytest.raises(NotController):
        received(rig.watch(43))
