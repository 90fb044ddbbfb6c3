"""rayqueue as a system that is measured: on a Ray of its own, or, for tests, inside this process."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.latency import summary
from rayqueue.perf import columns, consume, drain, latency, one_by_one, produce

NAME = "benchmarks"
MAPPED_WAIT_S = 30.0
ACTORS = ("Broker", "PartitionReplicaProcess", "Coordinator")


class RowsIn(produce.RowsIn):
    """The producer of `rayqueue.perf`; whoever counts what it used stops counting before it is checked."""

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:  # type: ignore[override]
        """See `produce.RowsIn.send`."""
        return self.send(topic, value_bytes, seconds, records_max)


class MappedOut(consume.ArrowOut):
    """The reader of `rayqueue.perf` that is said to map: it has to."""

    def check(self) -> None:
        """Reads a table more.

        Raises:
            AssertionError: its values do not lie in a file of the leader's.
        """
        self.client.seek_to_beginning()
        table = self.client.consume_arrow(timeout=MAPPED_WAIT_S)
        values = next((chunk.buffers()[2] for chunk in table["value"].chunks if len(chunk)), None)
        if values is None or not in_a_file(values.address):
            raise AssertionError("this reader is called mapped, and gets its records over the stream")


def in_a_file(address: int) -> bool:
    """Whether this process has a file mapped at the address (proc_pid_maps(5))."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *_ = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return inode != "0"
    return False


class Receiver(latency.Receiver):
    """The receiver of `rayqueue.perf`, with its latencies summed up as every system's are."""

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        """See `latency.Receiver.latencies` and `summary`."""
        return summary(self.latencies(begin_ns, count, skip_ns))


ROLES: Mapping[str, type] = {
    "rows_in": RowsIn,
    "batches_in": produce.BatchesIn,
    "rows_out": consume.RowsOut,
    "arrow_out": MappedOut,
    "arrow_out_streamed": consume.ArrowOutStreamed,
    "sender": latency.Sender,
    "receiver": Receiver,
    "one_by_one": one_by_one.OneByOne,
    "pacer": drain.Pacer,
    "drainer": drain.Drainer,
    "columns_in": columns.ColumnsIn,
    "columns_out": columns.ColumnsOut,
}

_MIB = 1 << 20

TUNINGS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "rows_in": {
        "default": {},
        "linger 5": {"linger_ms": 5},
        "linger 5, batch 1 MiB": {"linger_ms": 5, "batch_size": _MIB},
    },
    "batches_in": {
        "default": {},
        "requests of 4 MiB": {"max_request_size": 4 * _MIB},
    },
    "rows_out": {"default": {}, "poll()": {"num_messages": 1}},
    "sender": {
        "default": {},
        "linger 0.5": {"linger_ms": 0.5},
        "linger 1": {"linger_ms": 1},
    },
}


@dataclass
class RayqueueSystem:
    """A running cluster of rayqueue.

    Attributes:
        data_dir: where its data lies.
        on_ray: whether the actors are processes of Ray, to be found among this process's descendants; else they are
            in this process.
        replicas: of its topics.
    """

    bootstrap_servers: str
    token: str | None
    data_dir: Path
    on_ray: bool
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = "rayqueue"
    replicas: int = 1
    roles: Mapping[str, type] = field(default_factory=lambda: ROLES)
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = field(default_factory=lambda: TUNINGS)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def client(self) -> dict[str, Any]:
        """Settings for a client, as JSON can carry them."""
        return {"bootstrap_servers": self.bootstrap_servers, "token": self.token}

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        """A fresh topic, deleted at the end of the block."""
        name = f"bench-{next(self._numbers)}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        with rayqueue.AdminClient(**self.client()) as admin:
            admin.create_topic(name, partitions, self.replicas, settings)
            try:
                yield name
            finally:
                admin.delete_topic(name)

    def processes(self) -> dict[str, list[int]]:
        """Process ids: "actors" (rayqueue's) and "ray" (Ray's own)."""
        if not self.on_ray:
            return {"actors": [os.getpid()], "ray": []}
        actors, ray = [], []
        for pid in accounting.descendants(os.getpid())[1:]:
            title = accounting.title(pid)
            if title.startswith(tuple(f"ray::{name}" for name in ACTORS)):
                actors.append(pid)
            elif title.startswith("ray::") or "/ray/" in title:
                ray.append(pid)
        return {"actors": actors, "ray": ray}

    def actors(self, kind: str) -> list[int]:
        """Process ids of one class of actor."""
        if not self.on_ray:
            return [os.getpid()]
        return [pid for pid in self.processes()["actors"] if accounting.title(pid).startswith(f"ray::{kind}")]

    def bytes_on_disk(self) -> int:
        """Bytes that its data directory takes."""
        return accounting.bytes_on_disk(self.data_dir)


@contextlib.contextmanager
def on_ray(data_dir: Path, brokers: int = 1, config: dict[str, Any] | None = None) -> Iterator[RayqueueSystem]:
    """A rayqueue cluster on a local Ray of its own; both end with it.

    Workers of Ray run at nice 15 by default, below the load generators, which would measure the scheduler; here
    they run at the same priority as everything else.
    """
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"worker_niceness": 0},
    )
    try:
        cluster = rayqueue.start(name=NAME, brokers=brokers, data_dir=str(data_dir), config=config or {})
        try:
            settings = {"brokers": brokers, "config": config or {}, "worker_niceness": 0}
            yield RayqueueSystem(cluster.bootstrap_servers, cluster.token, data_dir, True, settings)
        finally:
            rayqueue.shutdown(name=NAME)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def in_process(data_dir: Path, brokers: int = 1, config: dict[str, Any] | None = None) -> Iterator[RayqueueSystem]:
    """The same inside this process, without Ray: for tests, which take no times."""
    from rayqueue.testing.inprocess import InProcessCluster  # loads are made in processes that need no actors

    with InProcessCluster(data_dir, brokers, config or {}) as cluster:
        settings = {"brokers": brokers, "config": config or {}, "in_process": True}
        yield RayqueueSystem(cluster.bootstrap_servers, None, data_dir, False, settings)
