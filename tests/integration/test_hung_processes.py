"""SIGSTOP of each kind of process while a producer waits for acks: what it led is led by others, nothing acked is lost.

On a real Ray cluster, by process id, of processes that this cluster started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.cluster import Cluster
from tests.integration.test_kills import PARTITIONS, TIMEOUT_S, TOPIC, Writer, check, pids
from tests.integration.waiting import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    directory: Path = tmp_path_factory.mktemp("hung")
    try:
        with rayqueue.start(name="hung", brokers=3, data_dir=directory, config={"num.replica.actors": 1}) as running:
            yield running
    finally:
        ray.shutdown()


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[rayqueue.AdminClient]:
    """With the topic, which is each test's own."""
    with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as client:
        client.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
        yield client
        client.delete_topic(TOPIC)


def leaders(admin: rayqueue.AdminClient) -> dict[int, int]:
    return {one.partition: one.leader for one in admin.describe_topic(TOPIC).partitions}


def all_in_sync(admin: rayqueue.AdminClient) -> bool:
    return all(len(one.isr) == 3 for one in admin.describe_topic(TOPIC).partitions)


def process_of(cluster: Cluster, role: str, broker_id: int) -> int:
    (pid,) = [p.pid for p in cluster.status().processes if p.role == role and p.broker_id == broker_id]
    return int(pid)


@pytest.mark.timeout(120)
def test_a_leader_that_is_stopped_is_replaced_and_ended(cluster: Cluster, admin: rayqueue.AdminClient) -> None:
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    leader = leaders(admin)[0]
    stopped = process_of(cluster, "replica", leader)
    os.kill(stopped, signal.SIGSTOP)
    try:
        writer.wait_for_more()
        assert leader not in leaders(admin).values()
        eventually(lambda: process_of(cluster, "replica", leader) != stopped, TIMEOUT_S, "a successor")
        eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", ["broker", "coordinator"])
def test_a_broker_or_the_active_coordinator_that_is_stopped_holds_up_nobody(
    cluster: Cluster, admin: rayqueue.AdminClient, role: str
) -> None:
    """Leaders stay where they are; it goes on where it was, a coordinator as a standby."""
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    epochs = {one.partition: one.leader_epoch for one in admin.describe_topic(TOPIC).partitions}
    stopped = cluster.status().coordinator.pid if role == "coordinator" else pids(cluster, role)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        if role == "coordinator":
            admin.create_topic("meanwhile")
            assert cluster.status().coordinator.pid != stopped
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            writer.wait_for_more(20)
    finally:
        os.kill(stopped, signal.SIGCONT)
    writer.wait_for_more()
    eventually(lambda: cluster.status().healthy, TIMEOUT_S, "a healthy status")
    (again,) = [p for p in cluster.status().processes if p.pid == stopped]
    assert again.role == role and again.standing in ("", "standby")
    assert {one.partition: one.leader_epoch for one in admin.describe_topic(TOPIC).partitions} == epochs
    writer.stop()
    check(writer, cluster.bootstrap_servers)
