"""Brokers that are stopped in order, one after the other, while records are produced: nobody notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rayqueue
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.test_replication import TIMEOUT_S, in_sync, read_all
from tests.integration.waiting import eventually


class Steady:
    """Produces one record after the other with acks=all, and notes when each was acked."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.acked: list[float] = []
        self.errors: list[BaseException] = []
        self._servers = bootstrap_servers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(TIMEOUT_S)
        assert self.errors == []

    def _run(self) -> None:
        try:
            with rayqueue.Producer(bootstrap_servers=self._servers) as producer:
                while not self._stop.is_set():
                    producer.produce("t", b"%d" % len(self.acked)).result(TIMEOUT_S)
                    self.acked.append(time.monotonic())
        except BaseException as error:
            self.errors.append(error)

    def more(self, count: int) -> None:
        """Waits for so many more."""
        wanted = len(self.acked) + count
        eventually(lambda: len(self.acked) >= wanted or self.errors, TIMEOUT_S, "an ack")

    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in zip(self.acked, self.acked[1:], strict=False))


def leader_of(admin: rayqueue.AdminClient) -> int:
    return int(admin.describe_topic("t").partitions[0].leader)


def test_a_rolling_restart_is_not_noticed(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, brokers=3) as cluster:
        servers = cluster.bootstrap_servers
        with rayqueue.AdminClient(bootstrap_servers=servers) as admin:
            admin.create_topic("t", 1, replication_factor=3)
            load = Steady(servers)
            with load.running():
                load.more(50)
                for _ in range(3):
                    leader = leader_of(admin)
                    cluster.stop_broker(leader)
                    assert leader_of(admin) != leader
                    load.more(50)
                    cluster.restart_broker(leader)
                    eventually(lambda: in_sync(admin) or load.errors, TIMEOUT_S, "in sync")
                load.more(50)
        assert [int(value) for value in read_all(cluster)] == list(range(len(load.acked)))
        assert load.longest_gap_s() < 1.0


def test_each_step_of_a_stop_in_order(tmp_path: Path) -> None:
    """Asked to leave it leads nothing and is in no ISR, though it runs on; so its end changes nothing."""
    with InProcessCluster(tmp_path, brokers=3, replicas=2) as cluster:
        servers = cluster.bootstrap_servers
        with rayqueue.AdminClient(bootstrap_servers=servers) as admin:
            admin.create_topic("t", 6, replication_factor=3)
            assert cluster.brokers[0].leave() == 0
            partitions = admin.describe_topic("t").partitions
            assert all(p.leader != 0 and 0 not in p.isr for p in partitions)
            epochs = [p.leader_epoch for p in partitions]
            with rayqueue.Producer(bootstrap_servers=servers) as producer:
                for number in range(60):
                    producer.produce("t", b"x", partition=number % 6).result(TIMEOUT_S)
            cluster.stop_broker(0)
            eventually(lambda: not any(b.alive for b in admin.describe_cluster().brokers if not b.broker_id), TIMEOUT_S)
            assert [p.leader_epoch for p in admin.describe_topic("t").partitions] == epochs
            cluster.restart_broker(0)
            eventually(lambda: in_sync(admin), TIMEOUT_S, "in sync")
