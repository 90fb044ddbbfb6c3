"""Redis 7 Streams: Debian's server with its append-only file synced once a second, and redis-py.

Records are acked when the server has appended them, as Kafka's are with acks=all and no fsync. With flush_messages=1
the server syncs its file before it answers (appendfsync always, for all topics while such a one exists). Snapshots are
off, and so is rewriting the file while it grows, which is in Redis' favour.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import accounting
from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.system import Say
from benchmarks.peers import redis_clients, server
from benchmarks.peers.redis_clients import connect, groups_key, streams_of, topic_name

PROGRAM = "redis-server"
PACKAGE = "redis[hiredis]"
START_WAIT_S = 10.0
PROBE_WAIT_S = 1.0
PORT_TRIES = 3
PORT_TAKEN = "Address already in use"
IDLE_WAIT_S = 60.0
POLL_S = 0.005

ROLES: Mapping[str, type] = {
    "rows_in": redis_clients.RowsIn,
    "rows_out": redis_clients.RowsOut,
    "sender": redis_clients.Sender,
    "receiver": redis_clients.Receiver,
    "one_by_one": redis_clients.OneByOne,
}
TUNINGS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "rows_in": {"default": {}, "pipelines of 10,000": {"batch": 10_000}},
    "rows_out": {"default": {}, "NOACK": {"ack": False}},
}


@dataclass
class RedisSystem:
    """A running server.

    Attributes:
        directory: where its data lies.
    """

    process: ChildProcess
    port: int
    directory: Path
    settings: dict[str, Any]
    name: str = "redis"
    roles: Mapping[str, type] = field(default_factory=lambda: ROLES)
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = field(default_factory=lambda: TUNINGS)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _topics: dict[str, bool] = field(default_factory=dict)  # those that exist → whether they are synced at once

    def client(self) -> dict[str, Any]:
        """Where it listens."""
        return {"host": "127.0.0.1", "port": self.port}

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        """A fresh topic; at the end of the block its streams are deleted and their bytes on the disk given back.

        Raises:
            ValueError: a setting that Redis has nothing like.
        """
        at_once = config.pop("flush_messages", None) == 1
        if config:
            raise ValueError(f"Redis Streams has nothing like {', '.join(config)}")
        name = topic_name(next(self._numbers), partitions)
        with contextlib.closing(connect(self.client())) as admin:
            self._topics[name] = at_once
            try:
                self._sync(admin)
                yield name
            finally:
                del self._topics[name]
                self._sync(admin)
                admin.unlink(*streams_of(name), groups_key(name))
                self._give_back(admin)

    def _sync(self, admin: Any) -> None:
        admin.config_set("appendfsync", "always" if any(self._topics.values()) else "everysec")

    def _give_back(self, admin: Any) -> None:
        """Waits until memory is freed, and has the file written anew unless others' records would be copied."""
        self._wait(lambda: admin.info("memory")["lazyfree_pending_objects"] == 0, "freeing memory")
        if self._topics:
            return
        admin.bgrewriteaof()
        self._wait(lambda: not _rewriting(admin.info("persistence")), "rewriting its file")

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + IDLE_WAIT_S
        while not done():
            if time.monotonic() > give_up:
                raise TimeoutError(f"Redis is {what} for {IDLE_WAIT_S:g} s: {self.process.tail()}")
            time.sleep(POLL_S)

    def processes(self) -> dict[str, list[int]]:
        """The server."""
        return {"redis": [self.process.pid]}

    def bytes_on_disk(self) -> int:
        """Bytes of its append-only file."""
        return accounting.bytes_on_disk(self.directory / "appendonlydir")


def _rewriting(info: dict[str, Any]) -> bool:
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def command(port: int, directory: Path) -> list[str]:
    """How the server is started."""
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-percentage": "0",
        "save": "",
    }
    program = server.find_program(PROGRAM) or PROGRAM
    return [program, *itertools.chain.from_iterable((f"--{name}", value) for name, value in settings.items())]


class RedisPeer:
    """How to get Redis and how to run it."""

    name = "redis"

    def missing(self, cache: Path) -> str | None:
        """Whether the server or the client is not installed, and how to install it."""
        return server.missing(PROGRAM, "redis", PACKAGE)

    def prepare(self, cache: Path, say: Say) -> None:
        """There is nothing to get: what it needs is installed."""

    @contextlib.contextmanager
    def start(self, directory: Path, cache: Path, say: Say) -> Iterator[RedisSystem]:
        """A server on a free loopback port, its data in `directory`.

        Raises:
            PeerFailed: it did not come up.
        """
        port, process = _start(directory)
        with process, contextlib.closing(connect({"host": "127.0.0.1", "port": port})) as admin:
            settings = {
                "version": admin.info("server")["redis_version"],
                "command": command(port, directory)[1:],
                "client": server.client_versions("redis", "hiredis"),
            }
            yield RedisSystem(process, port, directory, settings)


def _start(directory: Path) -> tuple[int, ChildProcess]:
    """A server that answers. Somebody may take a free port before it does: then it is tried with another one."""
    for left in reversed(range(PORT_TRIES)):
        port = server.free_port()
        process = ChildProcess(command(port, directory), directory / "redis.log", directory)
        try:
            _wait_until_up(process, port)
            return port, process
        except BaseException as error:
            process.stop()
            if not left or PORT_TAKEN not in str(error):
                raise
    raise AssertionError("the last try returns or raises")


def _wait_until_up(process: ChildProcess, port: int) -> None:
    import redis

    def answers() -> bool:
        try:
            # Another server may have the port: then this one ends, and says why.
            return bool(admin.info("server")["process_id"] == process.pid)
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    with contextlib.closing(connect({"host": "127.0.0.1", "port": port}, PROBE_WAIT_S)) as admin:
        server.wait_until(answers, "Redis", process, START_WAIT_S)


PEER = RedisPeer()
