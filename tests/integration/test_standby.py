"""A process that stands by takes over from a replica actor whose process is killed, on a real Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.cluster import Cluster
from rayqueue.cluster_status import ProcessStatus
from tests.integration.waiting import eventually

TIMEOUT_S = 60.0
TOPIC = "events"
SETTINGS = {"num.replica.actors": 1}
# Ray takes longer than this to start a process, on any machine we have seen.
TAKEN_OVER_S = 0.7


@pytest.fixture
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def of(cluster: Cluster, role: str) -> list[ProcessStatus]:
    return [process for process in cluster.status().processes if process.role == role]


def standby(cluster: Cluster) -> ProcessStatus:
    """The process that stands by, once there is one."""
    found: list[ProcessStatus] = eventually(
        lambda: [p for p in of(cluster, "standby") if p.state == "running"], TIMEOUT_S, "a process that stands by"
    )
    assert len(found) == 1
    return found[0]


class Writer:
    """Produces numbers, a record every few ms, whatever happens; when each was acked."""

    def __init__(self, servers: str) -> None:
        self.acked: list[float] = []
        self._servers = servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with rayqueue.Producer(bootstrap_servers=self._servers) as producer:
            number = 0
            while not self._stop.wait(0.005):
                producer.produce(TOPIC, b"%d" % number).add_done_callback(self._note)
                number += 1

    def _note(self, future: rayqueue.RecordFuture) -> None:
        assert future.exception() is None
        self.acked.append(time.monotonic())

    def wait_for_more(self, count: int = 100) -> None:
        goal = len(self.acked) + count
        eventually(lambda: len(self.acked) >= goal, TIMEOUT_S, f"{count} more acks")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


@pytest.mark.timeout(240)
def test_a_killed_leader_is_replaced_before_ray_starts_another(local_ray: None, tmp_path: Path) -> None:
    with rayqueue.start(name="standby", brokers=1, data_dir=tmp_path, config=SETTINGS) as cluster:
        servers = cluster.bootstrap_servers
        with rayqueue.AdminClient(bootstrap_servers=servers) as admin:
            admin.create_topic(TOPIC)
        (endpoint,) = [p.endpoint for p in of(cluster, "replica")]
        writer = Writer(servers)
        for _ in range(2):  # the second time, the one that Ray started in place of the first stands by
            successor = standby(cluster)
            assert (successor.slot, successor.endpoint, successor.problem) == (-1, "", "")
            assert cluster.status().healthy and "standby" in str(cluster.status())
            writer.wait_for_more()
            (leader,) = of(cluster, "replica")
            killed = time.monotonic()
            os.kill(leader.pid, signal.SIGKILL)
            eventually(lambda killed=killed: writer.acked[-1] > killed + 2 * TAKEN_OVER_S, TIMEOUT_S, "acks after it")
            (now,) = of(cluster, "replica")
            assert (now.pid, now.slot, now.endpoint) == (successor.pid, 0, endpoint)
            moments = [killed, *(at for at in writer.acked if at > killed)]
            gap = max(later - earlier for earlier, later in zip(moments, moments[1:], strict=False))
            assert gap < TAKEN_OVER_S, f"{gap:.2f} s without an ack"
        writer.stop()
        with rayqueue.Consumer(
            TOPIC, auto_offset_reset="earliest", stop_at="latest", bootstrap_servers=servers
        ) as all_:
            values = [int(message.value) for message in all_]
        assert values == list(range(len(writer.acked)))
