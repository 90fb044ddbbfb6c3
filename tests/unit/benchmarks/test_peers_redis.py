"""Redis as a peer: what it says when it is missing, and, where it is installed, that its roles do what they count."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.interruption import running
from benchmarks.harness.payload import SUM_BELOW, random_values, touch_all
from benchmarks.harness.system import PeerFailed, System
from benchmarks.peers import PEERS, redis, redis_clients, server
from benchmarks.peers.redis import PEER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux")
absent = PEER.missing(Path())
needs_redis = pytest.mark.skipif(absent is not None, reason=str(absent))

ROWS = 2500
VALUE_BYTES = 100


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with PEER.start(tmp_path_factory.mktemp("redis"), Path(), print) as system:
        yield system


@contextlib.contextmanager
def load(system: System, role: str, **arguments: Any) -> Iterator[Any]:
    with contextlib.closing(system.roles[role](client=system.client(), **arguments)) as made:
        yield made


def admin(system: System) -> Any:
    return contextlib.closing(redis_clients.connect(system.client()))


def test_what_is_missing_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_program", lambda name: None)
    monkeypatch.setattr(server, "importable", lambda name: False)
    assert PEER.missing(Path()) == (
        "redis-server and the Python package redis[hiredis] not installed: "
        "apt install redis-server and pip install 'redis[hiredis]'"
    )


def test_it_is_among_the_peers() -> None:
    assert PEERS["redis"] is PEER


def test_what_is_due_goes_together_and_nothing_before_its_time() -> None:
    began = time.monotonic_ns()
    parts = list(redis_clients.due_together(began - 500, count=30, rate=1e9 / 50, batch=8))
    assert [moment for part in parts for moment in part] == [began - 500 + 50 * number for number in range(30)]
    assert len(parts[0]) == 8 and all(len(part) <= 8 for part in parts)
    later = time.monotonic_ns() + 20_000_000
    (part,) = redis_clients.due_together(later, count=1, rate=1.0, batch=8)
    assert time.monotonic_ns() >= later == part[0]


@needs_redis
@pytest.mark.parametrize("ack", [True, False])
@pytest.mark.parametrize("partitions", [1, 3])
def test_rows_come_back_as_they_went_in(running_redis: System, partitions: int, ack: bool) -> None:
    with running_redis.topic(partitions) as topic:
        with load(running_redis, "rows_in") as rows_in:
            assert rows_in.run(topic, VALUE_BYTES, 30.0, ROWS)["records"] == ROWS
        values = random_values(1000, VALUE_BYTES)
        sent = [values[0], *(values[(1 + number) % 1000] for number in range(ROWS))]
        with load(running_redis, "rows_out", topic=topic, count=300, ack=ack) as rows_out:
            expected = touch_all(sent) % SUM_BELOW
            assert [rows_out.run(ROWS + 1)["sum"] for _ in range(2)] == [expected, expected]
        with admin(running_redis) as connection:
            assert sum(connection.xlen(stream) for stream in redis_clients.streams_of(topic)) == ROWS + 1
            assert connection.xinfo_groups(redis_clients.streams_of(topic)[0]) == []


@needs_redis
def test_what_a_run_may_write_is_bounded_by_its_time_too(running_redis: System) -> None:
    with running_redis.topic() as topic, load(running_redis, "rows_in", batch=10) as rows_in:
        found = rows_in.run(topic, VALUE_BYTES, 0.02, 10**9)
        with admin(running_redis) as connection:
            assert connection.xlen(f"{topic}/0") == found["records"] + 1


@needs_redis
def test_every_record_sent_is_received_in_its_round(running_redis: System) -> None:
    with (
        running_redis.topic() as topic,
        load(running_redis, "receiver", topic=topic) as receiver,
        load(running_redis, "sender", topic=topic) as sender,
    ):
        for _ in range(2):
            begin = time.monotonic_ns()
            assert sender.run(begin, count=50, rate=5000, value_bytes=VALUE_BYTES)["late_ms"] >= 0
            found = receiver.run(begin, count=50, skip_ns=2_000_000)
            assert found["count"] == 40
            assert 0 < found["p50"] <= found["max"]


@needs_redis
@pytest.mark.parametrize("ack", [True, False])
def test_items_are_got_as_they_were_put(running_redis: System, ack: bool) -> None:
    with running_redis.topic() as topic, load(running_redis, "one_by_one", topic=topic, ack=ack) as items:
        assert items.awaited(20)["seconds"] > 0
        assert items.pipelined(2100)["seconds"] > 0
        with admin(running_redis) as connection:
            assert connection.xlen(f"{topic}/0") == 2120


@needs_redis
def test_records_are_synced_before_they_are_acked_only_while_it_is_asked_for(running_redis: System) -> None:
    with admin(running_redis) as connection:

        def synced() -> str:
            return str(connection.config_get("appendfsync")["appendfsync"])

        with running_redis.topic():
            assert synced() == "everysec"
            with running_redis.topic(flush_messages=1):
                assert synced() == "always"
            assert synced() == "everysec"
    with pytest.raises(ValueError, match="nothing like segment_bytes"), running_redis.topic(segment_bytes=1):
        raise AssertionError("there is no such topic")


@needs_redis
def test_a_topic_gives_its_bytes_back(running_redis: System) -> None:
    before = running_redis.bytes_on_disk()
    with running_redis.topic() as topic, load(running_redis, "rows_in") as rows_in:
        rows_in.run(topic, 1000, 30.0, 3000)
        assert running_redis.bytes_on_disk() > 2_000_000
    assert running_redis.bytes_on_disk() <= before + 8192
    with admin(running_redis) as connection:
        assert connection.dbsize() == 0


@needs_redis
def test_it_ends_with_its_block_and_tells_what_it_is(tmp_path: Path) -> None:
    with PEER.start(tmp_path, Path(), print) as system:
        (pid,) = system.processes()["redis"]
        assert running(pid)
        assert system.settings["version"].split(".")[0].isdigit()
        assert "everysec" in system.settings["command"]
    assert not running(pid)


@needs_redis
def test_a_port_that_somebody_has_taken_is_left_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        ports = iter([port, server.free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        with PEER.start(tmp_path, Path(), print) as system:
            assert system.client()["port"] != port
        monkeypatch.setattr(server, "free_port", lambda: port)
        with pytest.raises(PeerFailed, match=redis.PORT_TAKEN), PEER.start(tmp_path, Path(), print):
            raise AssertionError("it did not start")
