"""Group coordinators on a real Ray: processes of their own, started with the first group, started again when killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue import AdminClient
from rayqueue.cluster import Cluster, restart
from rayqueue.cluster_status import ProcessStatus
from rayqueue.protocol.group_messages import GroupPartition
from tests.integration.group_client import GroupClient, TestMember
from tests.integration.waiting import eventually

pytestmark = pytest.mark.timeout(240)

TIMEOUT_S = 60.0
PARTITIONS = 4
SETTINGS = {"num.replica.actors": 1, "num.standby.replica.actors": 0, "offsets.topic.num.partitions": 2}
# From the kill of a group coordinator's process to the next commit: most of it is Ray's start of a process.
AGAIN_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    data = tmp_path_factory.mktemp("groups")
    try:
        with rayqueue.start("groups", brokers=2, data_dir=str(data), config=SETTINGS) as one:
            assert not groups(one), "before there is a group there is no process for it"
            with AdminClient(bootstrap_servers=one.bootstrap_servers) as admin:
                admin.create_topic("clicks", partitions=PARTITIONS)
            yield one
    finally:
        ray.shutdown()


def groups(cluster: Cluster) -> dict[int, ProcessStatus]:
    """The group coordinators by broker."""
    return {process.broker_id: process for process in cluster.status().processes if process.role == "groups"}


def serving(cluster: Cluster) -> bool:
    found = groups(cluster)
    return len(found) == 2 and all(one.state == "running" for one in found.values())


@pytest.fixture
def client(cluster: Cluster) -> GroupClient:
    one = GroupClient(cluster.bootstrap_servers, "g", cluster.token)
    one.committed()
    eventually(lambda: serving(cluster), TIMEOUT_S, "a group coordinator beside each broker")
    return one


def runs(pid: int) -> bool:
    """Whether the process is there, and more of it than its entry."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_they_are_processes_that_status_shows(cluster: Cluster, client: GroupClient) -> None:
    found = groups(cluster)
    titles = [Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in found.values()]
    assert all(title.startswith(b"ray::GroupCoordinator") for title in titles), titles
    assert all(Path(one.log_file).name == f"broker-{broker_id}-groups.log" for broker_id, one in found.items())
    assert cluster.status().healthy and "  groups" in str(cluster.status())
    assert {one.endpoint for one in found.values()} >= {f"{client.find().host}:{client.find().port}"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_killed_or_hangs_is_replaced(cluster: Cluster, client: GroupClient, how: signal.Signals) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        offsets: dict[GroupPartition, int] = dict.fromkeys(sorted(member.holds), 7)
        assert member.commit(offsets) == [""] * PARTITIONS
        before = groups(cluster)[client.find().broker_id]
        os.kill(before.pid, how)
        began = time.monotonic()
        assert member.commit(dict.fromkeys(offsets, 8)) == [""] * PARTITIONS
        took_s = time.monotonic() - began
        assert client.committed() == dict.fromkeys(offsets, 8)
        assert member.beat().error == "" and not member.errors, "the member is still one"
        after = groups(cluster)[before.broker_id]
        assert after.pid != before.pid and after.endpoint == before.endpoint
        print(f"{how.name}: {took_s:.2f} s")
        assert took_s < AGAIN_S
    eventually(lambda: serving(cluster), TIMEOUT_S)


def test_a_rolling_restart_takes_them_along(cluster: Cluster, client: GroupClient) -> None:
    partitions = {GroupPartition(topic_of(cluster), n): 3 for n in range(PARTITIONS)}
    other = GroupClient(cluster.bootstrap_servers, "other", cluster.token)
    assert other.commit(partitions) == [""] * PARTITIONS
    before = groups(cluster)
    assert restart("groups", timeout_s=TIMEOUT_S) == [0, 1]
    assert other.committed() == partitions
    after = groups(cluster)
    assert all(after[broker_id].pid != before[broker_id].pid for broker_id in before)


def topic_of(cluster: Cluster) -> bytes:
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        return bytes.fromhex(admin.describe_topic("clicks").topic_id)


def test_after_a_stop_and_start_all_is_there(cluster: Cluster, client: GroupClient) -> None:
    partitions = {GroupPartition(topic_of(cluster), n): 5 for n in range(PARTITIONS)}
    assert GroupClient(cluster.bootstrap_servers, "kept", cluster.token).commit(partitions) == [""] * PARTITIONS
    data = Path(cluster.status().data_dir)
    pids = [one.pid for one in cluster.status().processes]
    rayqueue.shutdown("groups")
    assert not [pid for pid in pids if runs(pid)], "a process is left"
    again = rayqueue.start("groups", brokers=2, data_dir=str(data), config=SETTINGS)
    assert serving(again), "start waits for them"
    assert GroupClient(again.bootstrap_servers, "kept", again.token).committed() == partitions
