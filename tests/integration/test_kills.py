"""kill -9 of every kind of process while a producer waits for acks: nothing acked is lost, nothing stands twice.

On a real Ray cluster, by process id, of processes that this cluster started.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.cluster import Cluster
from tests.integration.waiting import eventually

TIMEOUT_S = 60.0
TOPIC = "events"
PARTITIONS = 4
# A process that is killed loses nothing of what only it has; with more replicas others would stand in for it.
# A death lasts until Ray has started the process anew: nobody stands by.
SETTINGS = {"num.replica.actors": 1, "num.standby.replica.actors": 0, "default.replication.factor": 1}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def cluster(local_ray: None, tmp_path: Path) -> Iterator[Cluster]:
    with rayqueue.start(name="kills", brokers=2, data_dir=tmp_path, config=SETTINGS) as running:
        rayqueue.AdminClient(bootstrap_servers=running.bootstrap_servers).create_topic(TOPIC, partitions=PARTITIONS)
        yield running


class Writer:
    """A service that produces numbers and waits for each ack, until told to stop."""

    def __init__(self, servers: str) -> None:
        self.acked: list[tuple[int, int, int]] = []  # value, partition, offset
        self.errors: list[BaseException] = []
        self._servers = servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with rayqueue.Producer(bootstrap_servers=self._servers, retry_backoff_max_ms=100) as producer:
            number = 0
            while not self._stop.is_set():
                futures = [(n, producer.produce(TOPIC, b"%d" % n)) for n in range(number, number + 20)]
                number += 20
                for value, future in futures:
                    try:
                        where = future.result(timeout=TIMEOUT_S)
                        self.acked.append((value, where.partition, where.offset))
                    except rayqueue.RayQueueError as error:
                        self.errors.append(error)

    def wait_for_more(self, count: int = 200) -> None:
        """Waits until so many more records are acked: producing goes on by itself."""
        goal = len(self.acked) + count
        eventually(lambda: len(self.acked) >= goal, TIMEOUT_S, f"{count} more acks")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


def read_everything(servers: str) -> dict[tuple[int, int], int]:
    """(partition, offset) -> value of all records."""
    found = {}
    with rayqueue.Consumer(
        TOPIC, auto_offset_reset="earliest", stop_at="latest", bootstrap_servers=servers
    ) as consumer:
        for message in consumer:
            found[message.partition, message.offset] = int(message.value)
    return found


def check(writer: Writer, servers: str) -> None:
    """No acked record is lost or elsewhere; no value stands twice; offsets have no holes."""
    assert writer.errors == []
    found = read_everything(servers)
    lost = [one for one in writer.acked if found.get((one[1], one[2])) != one[0]]
    assert lost == [], f"{len(lost)} acked records are not where they were acked"
    values = list(found.values())
    assert len(set(values)) == len(values), "a value stands at two offsets"
    for partition in range(PARTITIONS):
        offsets = sorted(offset for p, offset in found if p == partition)
        assert offsets == list(range(len(offsets)))


def pids(cluster: Cluster, role: str) -> list[int]:
    return [process.pid for process in cluster.status().processes if process.role == role]


def kill(processes: list[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


def came_back(cluster: Cluster, role: str, killed: int, count: int) -> bool:
    """Whether the role is complete again, without the process that was killed."""
    try:
        now = [process for process in cluster.status().processes if process.role == role]
    except rayqueue.RayQueueError:
        return False
    return len(now) == count and all(p.state == "running" and p.pid != killed for p in now)


@pytest.mark.timeout(240)
def test_kill_9_of_each_kind_of_actor_while_producing(cluster: Cluster) -> None:
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    for role in ("replica", "broker", "coordinator"):
        old = pids(cluster, role)
        kill(old[:1])
        writer.wait_for_more()
        eventually(partial(came_back, cluster, role, old[0], len(old)), TIMEOUT_S, f"a new {role}")
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(240)
def test_everything_killed_at_once_comes_back_on_the_same_addresses(cluster: Cluster) -> None:
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    everything = [process.pid for process in cluster.status().processes]
    assert len(everything) == 5
    kill(everything)
    writer.wait_for_more()
    writer.stop()
    check(writer, cluster.bootstrap_servers)
    eventually(lambda: cluster.status().healthy, TIMEOUT_S, "a healthy status")


@pytest.mark.timeout(240)
def test_killed_shut_down_and_started_again_on_the_same_directory(local_ray: None, tmp_path: Path) -> None:
    with rayqueue.start(name="again", brokers=2, data_dir=tmp_path, config=SETTINGS) as first:
        servers = first.bootstrap_servers
        rayqueue.AdminClient(bootstrap_servers=servers).create_topic(TOPIC, partitions=PARTITIONS)
        writer = Writer(servers)
        writer.wait_for_more()
        kill([process.pid for process in first.status().processes])
        writer.wait_for_more()
        writer.stop()
    with rayqueue.start(name="again", brokers=2, data_dir=tmp_path, config=SETTINGS) as second:
        assert second.bootstrap_servers == servers
        check(writer, servers)
        more = Writer(servers)
        more.wait_for_more(20)
        more.stop()
