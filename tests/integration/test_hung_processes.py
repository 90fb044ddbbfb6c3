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
from tests.integration.test_kills import PARTITIONS, TIMEOUT_S, TOPIC, Writer, check
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


def leader_epochs(admin: rayqueue.AdminClient) -> dict[int, int]:
    return {one.partition: one.leader_epoch for one in admin.describe_topic(TOPIC).partitions}


def serves(cluster: Cluster, broker_id: int) -> int:
    """The broker's process, while it serves; else 0."""
    return sum(
        p.pid for p in cluster.status().processes if (p.role, p.broker_id, p.state) == ("broker", broker_id, "running")
    )


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
def test_a_broker_that_is_stopped_holds_up_nobody_and_is_ended(cluster: Cluster, admin: rayqueue.AdminClient) -> None:
    """Leaders stay where they are, the others answer for it, and a new process takes its place on the same node."""
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    epochs = leader_epochs(admin)
    stopped = process_of(cluster, "broker", 0)
    os.kill(stopped, signal.SIGSTOP)
    try:
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as fresh:
            assert leaders(fresh) == leaders(admin), "others answer"
        eventually(lambda: writer.wait_for_more(20) or serves(cluster, 0) not in (0, stopped), TIMEOUT_S, "a successor")
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
    eventually(lambda: cluster.status().healthy, TIMEOUT_S, "a healthy status")
    assert leader_epochs(admin) == epochs
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(120)
def test_a_broker_and_its_replica_actor_that_are_stopped_are_both_ended(
    cluster: Cluster, admin: rayqueue.AdminClient
) -> None:
    """By the process that stands by: it ends the broker, whose successor ends the replica actor."""
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    broker_id = leaders(admin)[0]
    stopped = [process_of(cluster, role, broker_id) for role in ("broker", "replica")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        writer.wait_for_more()
        eventually(lambda: serves(cluster, broker_id) not in (0, stopped[0]), TIMEOUT_S, "a successor")
        eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    finally:
        for pid in stopped:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(120)
def test_the_active_coordinator_that_is_stopped_holds_up_nobody(cluster: Cluster, admin: rayqueue.AdminClient) -> None:
    """Leaders stay where they are; it goes on as a standby."""
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    epochs = leader_epochs(admin)
    stopped = cluster.status().coordinator.pid
    os.kill(stopped, signal.SIGSTOP)
    try:
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
    assert again.role == "coordinator" and again.standing == "standby"
    assert leader_epochs(admin) == epochs
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(120)
def test_a_leader_its_broker_and_the_active_coordinator_that_fall_silent_at_once(
    cluster: Cluster, admin: rayqueue.AdminClient
) -> None:
    """What a node that is lost without a word is to the others: they elect a coordinator, and that one leaders."""
    writer = Writer(cluster.bootstrap_servers)
    writer.wait_for_more()
    eventually(lambda: all_in_sync(admin), TIMEOUT_S, "a full ISR")
    leader, active = leaders(admin)[0], cluster.status().coordinator.pid
    stopped = [process_of(cluster, role, leader) for role in ("broker", "replica")]
    for pid in (active, *stopped):
        os.kill(pid, signal.SIGSTOP)
    try:
        writer.wait_for_more(1)
        eventually(lambda: leader not in leaders(admin).values(), TIMEOUT_S, "other leaders")
    finally:
        os.kill(active, signal.SIGCONT)
    eventually(lambda: cluster.status().healthy and all_in_sync(admin), TIMEOUT_S, "a healthy cluster")
    writer.stop()
    check(writer, cluster.bootstrap_servers)


@pytest.mark.timeout(120)
def test_a_coordinator_that_hangs_is_ended_and_votes_again(cluster: Cluster) -> None:
    stopped = cluster.status().coordinator
    os.kill(stopped.pid, signal.SIGSTOP)

    def replaced() -> bool:
        there = [p for p in cluster.status().processes if p.coordinator_id == stopped.coordinator_id]
        return [(p.state, p.standing) for p in there] == [("running", "standby")] and there[0].pid != stopped.pid

    try:
        eventually(replaced, TIMEOUT_S, "another process, as a standby")
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: cluster.status().healthy, TIMEOUT_S, "a healthy status")
