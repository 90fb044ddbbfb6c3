"""NATS JetStream: Debian's server with its streams in files, and nats-py.

Records are acked when the server has stored them, as Kafka's are with acks=all and no fsync: it syncs its files every
two minutes, and this version can do no more.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import accounting
from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.system import Say
from benchmarks.peers import nats_clients, server
from benchmarks.peers.nats_clients import Connection, streams_of, topic_name

PROGRAM = "nats-server"
PACKAGE = "nats-py"
START_WAIT_S = 10.0
PROBE_WAIT_S = 1.0

ROLES: Mapping[str, type] = {
    "rows_in": nats_clients.RowsIn,
    "rows_out": nats_clients.RowsOut,
    "sender": nats_clients.Sender,
    "receiver": nats_clients.Receiver,
}
TUNINGS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "rows_in": {"default": {}, "4,000 in flight": {"in_flight": 4000}},
    "rows_out": {"default": {}, "one ack a pull": {"ack": "last"}},
}


@dataclass
class NatsSystem:
    """A running server.

    Attributes:
        directory: where its streams lie.
        cannot: settings of topics that it has nothing like.
    """

    process: ChildProcess
    url: str
    directory: Path
    settings: dict[str, Any]
    name: str = "nats"
    roles: Mapping[str, type] = field(default_factory=lambda: ROLES)
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = field(default_factory=lambda: TUNINGS)
    cannot: frozenset[str] = frozenset({"flush_messages"})
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def client(self) -> dict[str, Any]:
        """Where it listens."""
        return {"url": self.url}

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        """A fresh topic, deleted at the end of the block.

        Raises:
            ValueError: a setting that JetStream has nothing like.
        """
        if config:
            raise ValueError(f"NATS JetStream has nothing like {', '.join(config)}")
        name = topic_name(next(self._numbers), partitions)
        with contextlib.closing(Connection(self.client())) as admin:
            streams = admin.client.jetstream()
            made = []
            try:
                for stream in streams_of(name):
                    admin.run(streams.add_stream(name=stream, subjects=[stream], storage="file"))
                    made.append(stream)
                yield name
            finally:
                for stream in made:
                    admin.run(streams.delete_stream(stream))

    def processes(self) -> dict[str, list[int]]:
        """The server."""
        return {"nats": [self.process.pid]}

    def bytes_on_disk(self) -> int:
        """Bytes of its streams."""
        return accounting.bytes_on_disk(self.directory)


def command(directory: Path) -> list[str]:
    """How the server is started: on a port that it chooses and tells in a file."""
    program = server.find_program(PROGRAM) or PROGRAM
    listen = ["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(directory)]
    return [program, *listen, "--jetstream", "--store_dir", str(directory / "store")]


class NatsPeer:
    """How to get NATS and how to run it."""

    name = "nats"

    def missing(self, cache: Path) -> str | None:
        """Whether the server or the client is not installed, and how to install it."""
        return server.missing(PROGRAM, "nats", PACKAGE)

    def prepare(self, cache: Path, say: Say) -> None:
        """There is nothing to get: what it needs is installed."""

    @contextlib.contextmanager
    def start(self, directory: Path, cache: Path, say: Say) -> Iterator[NatsSystem]:
        """A server on a free loopback port, its data in `directory`.

        Raises:
            PeerFailed: it did not come up.
        """
        with ChildProcess(command(directory), directory / "nats.log", directory) as process:
            ports = directory / f"{PROGRAM}_{process.pid}.ports"
            server.wait_until(lambda: _url(ports) is not None, "NATS", process, START_WAIT_S)
            url = str(_url(ports))
            with contextlib.closing(Connection({"url": url})) as admin:
                version = admin.client.connected_server_version
                settings = {
                    "version": f"{version.major}.{version.minor}.{version.patch}",
                    "command": command(directory)[1:],
                    "client": server.client_versions("nats-py"),
                }
            yield NatsSystem(process, url, directory / "store", settings)


def _url(ports: Path) -> str | None:
    """Where the server listens, once it has told."""
    try:
        return str(json.loads(ports.read_text())["nats"][0])
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # it is not there yet, or being written


PEER = NatsPeer()
