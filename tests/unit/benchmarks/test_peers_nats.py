"""NATS as a peer: what it says when it is missing, and, where it is installed, that its roles do what they count."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.interruption import running
from benchmarks.harness.payload import SUM_BELOW, random_values, touch_all
from benchmarks.harness.system import PeerFailed, System
from benchmarks.peers import PEERS, nats, nats_clients, server
from benchmarks.peers.nats import PEER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux")
absent = PEER.missing(Path())
needs_nats = pytest.mark.skipif(absent is not None, reason=str(absent))

ROWS = 1100
VALUE_BYTES = 100


@pytest.fixture(scope="module")
def running_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with PEER.start(tmp_path_factory.mktemp("nats"), Path(), print) as system:
        yield system


@contextlib.contextmanager
def load(system: System, role: str, **arguments: Any) -> Iterator[Any]:
    with contextlib.closing(system.roles[role](client=system.client(), **arguments)) as made:
        yield made


def stored(system: System, topic: str) -> int:
    """How many records all streams of a topic hold."""
    with contextlib.closing(nats_clients.Connection(system.client())) as admin:
        streams = admin.client.jetstream()
        infos = [admin.run(streams.stream_info(name)) for name in nats_clients.streams_of(topic)]
        return sum(info.state.messages for info in infos)


def test_what_is_missing_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_program", lambda name: None)
    monkeypatch.setattr(server, "importable", lambda name: True)
    assert PEER.missing(Path()) == "nats-server not installed: apt install nats-server"
    assert PEERS["nats"] is PEER


@needs_nats
@pytest.mark.parametrize("ack", ["each", "last"])
@pytest.mark.parametrize("partitions", [1, 3])
def test_rows_come_back_as_they_went_in(running_nats: System, partitions: int, ack: str) -> None:
    with running_nats.topic(partitions) as topic:
        with load(running_nats, "rows_in", in_flight=50) as rows_in:
            assert rows_in.run(topic, VALUE_BYTES, 30.0, ROWS)["records"] == ROWS
        assert stored(running_nats, topic) == ROWS + 1
        values = random_values(1000, VALUE_BYTES)
        sent = [values[0], *(values[number % 1000] for number in range(ROWS))]
        with load(running_nats, "rows_out", topic=topic, batch=90, ack=ack) as rows_out:
            expected = touch_all(sent) % SUM_BELOW
            assert [rows_out.run(ROWS + 1)["sum"] for _ in range(2)] == [expected, expected]


@needs_nats
def test_what_a_run_may_write_is_bounded_by_its_time_too(running_nats: System) -> None:
    with running_nats.topic() as topic, load(running_nats, "rows_in") as rows_in:
        found = rows_in.run(topic, VALUE_BYTES, 0.02, 10**9)
        assert stored(running_nats, topic) == found["records"] + 1


@needs_nats
def test_a_reader_that_gets_nothing_gives_up(running_nats: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_clients, "SILENCE_MAX_S", 0.0)
    monkeypatch.setattr(nats_clients, "FETCH_WAIT_S", 0.05)
    with (
        running_nats.topic(2) as topic,
        load(running_nats, "rows_out", topic=topic) as rows_out,
        pytest.raises(TimeoutError, match="0 of 5 records"),
    ):
        rows_out.run(5)


@needs_nats
def test_every_record_sent_is_received_in_its_round(running_nats: System) -> None:
    with (
        running_nats.topic() as topic,
        load(running_nats, "receiver", topic=topic) as receiver,
        load(running_nats, "sender", topic=topic) as sender,
    ):
        for _ in range(2):
            begin = time.monotonic_ns()
            assert sender.run(begin, count=50, rate=5000, value_bytes=VALUE_BYTES)["late_ms"] >= 0
            found = receiver.run(begin, count=50, skip_ns=2_000_000)
            assert found["count"] == 40
            assert 0 < found["p50"] <= found["max"]


@needs_nats
def test_what_it_cannot_promise_it_does_not(running_nats: System) -> None:
    with pytest.raises(ValueError, match="nothing like flush_messages"), running_nats.topic(flush_messages=1):
        raise AssertionError("there is no such topic")


@needs_nats
def test_a_topic_gives_its_bytes_back(running_nats: System) -> None:
    with running_nats.topic() as topic, load(running_nats, "rows_in") as rows_in:
        rows_in.run(topic, 1000, 30.0, 1000)
        assert running_nats.bytes_on_disk() > 1_000_000
    assert running_nats.bytes_on_disk() < 100_000


@needs_nats
def test_it_ends_with_its_block_and_tells_what_it_is(tmp_path: Path) -> None:
    with PEER.start(tmp_path, Path(), print) as system:
        (pid,) = system.processes()["nats"]
        assert running(pid)
        assert system.settings["version"].split(".")[0].isdigit()
    assert not running(pid)


@needs_nats
def test_one_that_does_not_come_up_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = nats.command(tmp_path)
    monkeypatch.setattr(nats, "command", lambda directory: [*good, "--config", str(directory / "nowhere.conf")])
    says = pytest.raises(PeerFailed, match=r"NATS ended with status 1: .*nowhere\.conf")
    with says, PEER.start(tmp_path, Path(), print):
        raise AssertionError("it did not start")
