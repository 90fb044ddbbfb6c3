"""A cluster on Ray: started, found, killed in parts, stopped and started again. One small Ray for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import rayqueue
from rayqueue.actors import handles, lifecycle
from rayqueue.actors.identity import DirectoryLock
from rayqueue.actors.names import broker_name, coordinator_name, replica_name
from rayqueue.cluster import Cluster, ClusterStatus, ProcessStatus, connect, resolve_bootstrap, shutdown, start, status
from rayqueue.errors import (
    ClusterMismatch,
    ClusterNotRunning,
    ConfigError,
    StorageError,
    UnknownTopicOrPartition,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BACK_S = 60.0
# One replica: a test that kills a process sees what becomes of what only that process has.
# Processes that stand by start later and would move what is counted here: tests/integration/test_standby.py has them.
SETTINGS = {"num.replica.actors": 1, "num.standby.replica.actors": 0, "default.replication.factor": 1}


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def running(one_ray: None, data_dir: Path) -> Iterator[Cluster]:
    """Two brokers on the one node, a replica actor each."""
    with start(brokers=2, data_dir=data_dir, config=SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def admin(running: Cluster) -> Iterator[rayqueue.AdminClient]:
    client = rayqueue.AdminClient(bootstrap_servers=running.bootstrap_servers)
    yield client
    client.close()


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`, asked again and again; an error of ours counts as not yet."""
    deadline = time.monotonic() + BACK_S
    pause = threading.Event()
    while True:
        try:
            value = condition()
        except rayqueue.RayQueueError as error:
            value, what = None, f"{what} ({error})"[:500]
        if value:
            return value
        assert time.monotonic() < deadline, what
        pause.wait(0.05)


def process(role: str, broker_id: int = -1, slot: int = -1) -> ProcessStatus:
    return next(p for p in status().processes if (p.role, p.broker_id, p.slot) == (role, broker_id, slot))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def command_line(pid: int) -> bytes:
    """Of a process; empty for a zombie, and for one that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def endpoints(seen: ClusterStatus) -> list[tuple[str, int, int, str]]:
    return [(p.role, p.broker_id, p.slot, p.endpoint) for p in seen.processes]


# --- what runs --------------------------------------------------------------------------------------------------------


def test_a_started_cluster_is_healthy_and_says_where_everything_is(
    running: Cluster, admin: rayqueue.AdminClient, data_dir: Path
) -> None:
    admin.create_topic("seen", partitions=4)
    seen = running.status()
    assert seen.healthy, str(seen)
    assert [(p.role, p.broker_id, p.slot) for p in seen.processes] == [
        ("coordinator", -1, -1), ("broker", 0, -1), ("replica", 0, 0), ("broker", 1, -1), ("replica", 1, 0),
    ]  # fmt: skip
    (topic,) = [t for t in seen.topics if t.name == "seen"]
    assert sorted(p.leader for p in topic.partitions) == [0, 0, 1, 1]
    assert not any(p.offline or p.under_replicated or p.isr != p.replicas for p in topic.partitions)
    assert seen.bootstrap_servers == ",".join(f"grpc://{b.endpoint}" for b in seen.brokers)
    for one in seen.processes:
        assert one.state == "running" and not gone(one.pid)
        assert Path(one.data_dir).is_relative_to(data_dir) and Path(one.log_file).exists()
        assert one.started_ms and f"process {one.pid} starts" in Path(one.log_file).read_text()
    assert all(one.endpoint.startswith("127.0.0.1:") for one in seen.processes), "one machine: loopback"
    assert not seen.needs_token and running.token is None
    text = str(seen)
    assert "healthy" in text and "STARTED" in text and "seen" in text and seen.brokers[0].endpoint in text
    assert seen.to_dict()["partitions"] == seen.partitions >= 4


def test_actors_are_titled_by_their_classes(running: Cluster) -> None:
    titles = {}
    for one in running.status().processes:
        title = subprocess.run(["ps", "-o", "args=", "-p", str(one.pid)], capture_output=True, text=True, check=True)
        titles[one.role] = title.stdout.strip()
    for role, kind in (("coordinator", "Coordinator"), ("broker", "Broker"), ("replica", "PartitionReplica")):
        assert titles[role].startswith(f"ray::{kind}"), titles


def test_start_again_changes_nothing(running: Cluster, data_dir: Path) -> None:
    before = endpoints(running.status()), [p.pid for p in running.status().processes]
    again = start(brokers=2, data_dir=data_dir, config=SETTINGS)
    assert (again.bootstrap_servers, again.cluster_id) == (running.bootstrap_servers, running.cluster_id)
    start()
    assert (endpoints(running.status()), [p.pid for p in running.status().processes]) == before


def test_a_start_that_asks_for_something_else_says_so(running: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shut it down first"):
        start(data_dir=tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        start(config={"num.replica.actors": 2})
    with pytest.raises(ConfigError, match="name"):
        start(name="a/b")
    with pytest.raises(ConfigError, match="from 1"):
        start(brokers=0)
    with pytest.raises(ConfigError, match=r"retention\.ms"):
        start(config={"retention.msec": 1})


def test_the_running_cluster_is_found_by_name(running: Cluster) -> None:
    assert connect().bootstrap_servers == running.bootstrap_servers
    assert resolve_bootstrap("default") == (running.bootstrap_servers, None)
    for find in (connect, status, resolve_bootstrap):
        with pytest.raises(ClusterNotRunning, match=r"rayqueue\.start"):
            find("other")


def test_a_fresh_process_connects(running: Cluster) -> None:
    code = (
        "import rayqueue\nc = rayqueue.connect()\nprint(c.bootstrap_servers)\n"
        "print(rayqueue.status().healthy)\nwith rayqueue.AdminClient() as a: print('seen' in a.list_topics())"
    )
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-3:-1] == [running.bootstrap_servers, "True"], done.stderr[-2000:]


def test_a_process_without_ray_uses_the_address(running: Cluster, admin: rayqueue.AdminClient) -> None:
    with pytest.raises(UnknownTopicOrPartition):
        admin.describe_topic("nowhere")
    code = f"import sys, rayqueue\na = rayqueue.AdminClient(bootstrap_servers={running.bootstrap_servers!r})\n"
    code += "a.list_topics(); a.close(); print('ray' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr[-2000:]


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [("coordinator",), ("broker", 0), ("replica", 1, 0)], ids=lambda who: who[0])
def test_a_killed_process_is_back_on_its_port_as_a_new_incarnation(
    running: Cluster, admin: rayqueue.AdminClient, who: tuple[Any, ...]
) -> None:
    name = f"before-{who[0]}"
    admin.create_topic(name, partitions=2)
    before = running.status()
    old = process(*who)
    os.kill(old.pid, signal.SIGKILL)
    eventually(lambda: gone(old.pid), f"{old} does not die")
    new = eventually(lambda: (p := process(*who)).state == "running" and p.pid != old.pid and p, f"{old} is not back")
    assert new.endpoint == old.endpoint
    assert new.started_ms > max(p.started_ms for p in before.processes), "the status says who was started anew"
    after = eventually(lambda: (s := running.status()).healthy and s, "the cluster does not become healthy")
    assert endpoints(after) == endpoints(before)
    same = {p.pid for p in before.processes} - {old.pid}
    assert same <= {p.pid for p in after.processes}, "nothing else was started anew"
    epochs = {(t.name, p.partition): (p.leader, p.leader_epoch) for t in before.topics for p in t.partitions}
    for topic in after.topics:
        for p in topic.partitions:
            leader, epoch = epochs[topic.name, p.partition]
            risen = who[0] == "replica" and leader == 1
            assert (p.leader, p.leader_epoch) == (leader, epoch + risen), "only the killed leader's epochs rise"
    admin.create_topic(f"after-{who[0]}", partitions=2)
    assert {name, f"after-{who[0]}"} <= {t.name for t in running.status().topics}


def test_a_process_that_crashes_leaves_its_stacks_in_its_log(running: Cluster) -> None:
    old = process("replica", 0, 0)
    os.kill(old.pid, signal.SIGSEGV)
    eventually(lambda: (p := process("replica", 0, 0)).state == "running" and p.pid != old.pid, "it is not back")
    assert "Segmentation fault" in Path(old.log_file).read_text()
    eventually(lambda: running.status().healthy, "the cluster does not become healthy")


def test_all_processes_killed_at_once_come_back(running: Cluster, admin: rayqueue.AdminClient) -> None:
    admin.create_topic("survivor", partitions=2)
    before = running.status()
    for one in before.processes:
        os.kill(one.pid, signal.SIGKILL)
    for one in before.processes:
        eventually(lambda pid=one.pid: gone(pid), "a process does not die")
    after = eventually(lambda: (s := running.status()).healthy and s, "the cluster does not become healthy")
    assert endpoints(after) == endpoints(before) and "survivor" in {t.name for t in after.topics}
    assert not {p.pid for p in after.processes} & {p.pid for p in before.processes}


def test_an_actor_that_another_process_ended_is_not_found_any_more(running: Cluster) -> None:
    name = replica_name("default", 1, 0)
    before = handles.find(name)
    code = f"import ray\nray.init(logging_level='ERROR')\nray.kill(ray.get_actor({name!r}, 'rayqueue'))"
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=120)
    eventually(lambda: handles.find(name) != before, "what Ray remembers of it is found for ever")
    eventually(lambda: running.status().healthy, "the cluster does not become healthy")


def test_a_broker_that_ray_has_given_up_is_started_again(running: Cluster) -> None:
    old = process("broker", 1)
    handle = handles.find(broker_name("default", 1))
    assert handle is not None
    handles.end(handle)
    new = eventually(
        lambda: (p := process("broker", 1)).state == "running" and p.pid != old.pid and p, "the broker is not back"
    )
    assert new.endpoint == old.endpoint


def test_a_hung_broker_is_named_by_the_status_and_its_partitions_are_served(running: Cluster) -> None:
    old = process("broker", 0)
    os.kill(old.pid, signal.SIGSTOP)
    try:
        seen = running.status()
    finally:
        os.kill(old.pid, signal.SIGCONT)
    assert not seen.healthy
    assert [p for p in seen.problems if f"{broker_name('default', 0)} is gone" in p], seen.problems
    assert [p for t in seen.topics for p in t.partitions if p.leader == 0] and not seen.offline
    eventually(lambda: running.status().healthy, "the cluster does not become healthy")


# --- stopped and started ----------------------------------------------------------------------------------------------


def test_shutdown_ends_every_process_and_start_brings_everything_back(
    running: Cluster, admin: rayqueue.AdminClient, data_dir: Path
) -> None:
    admin.create_topic("kept", partitions=3, config={"retention.ms": "1234"})
    before = running.status()
    shutdown()
    left = [p for p in before.processes if not gone(p.pid) and command_line(p.pid)]
    assert left == [], "nothing but zombies that Ray reaps"
    assert handles.actor_names("default") == []
    assert ray.is_initialized(), "a Ray that start did not begin goes on"
    with pytest.raises(ClusterNotRunning):
        status()
    shutdown()
    again = start(data_dir=data_dir, config=SETTINGS)
    assert (again.cluster_id, again.bootstrap_servers) == (running.cluster_id, running.bootstrap_servers)
    after = again.status()
    assert after.healthy and endpoints(after) == endpoints(before)
    assert {t.name: len(t.partitions) for t in after.topics} == {t.name: len(t.partitions) for t in before.topics}
    assert admin.describe_topic_config("kept")["retention.ms"].value == "1234"
    assert after.coordinator_epoch > before.coordinator_epoch
    epochs = [p.leader_epoch for t in before.topics for p in t.partitions]
    assert [p.leader_epoch for t in after.topics for p in t.partitions] == [epoch + 1 for epoch in epochs]


def test_more_brokers_can_be_had_and_never_fewer(running: Cluster, data_dir: Path) -> None:
    grown = start(brokers=3)
    assert grown.bootstrap_servers.startswith(running.bootstrap_servers)
    assert [b.broker_id for b in grown.status().brokers] == [0, 1, 2]
    assert len(start(brokers=1).status().brokers) == 3


# --- directories that cannot be used ----------------------------------------------------------------------------------


def test_a_directory_in_use_is_refused_and_nothing_is_left(
    one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "PATIENCE_S", 0.5)
    lock = DirectoryLock(tmp_path / "coordinator-0" / "lock")
    assert lock.try_acquire()
    try:
        with pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
            start("second", data_dir=tmp_path)
        assert handles.actor_names("second") == []
    finally:
        lock.release()


def test_directories_of_two_clusters_are_refused(running: Cluster, data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "0", tmp_path / "0")
    with pytest.raises(StorageError, match="none of the 1 nodes has its metadata"):
        start("second", data_dir=tmp_path)
    shutil.copytree(data_dir / "coordinator-0", tmp_path / "coordinator-0")
    identity = tmp_path / "coordinator-0" / "identity.json"
    identity.write_text(identity.read_text().replace(running.cluster_id, "0" * 32))
    with pytest.raises(ClusterMismatch, match="several clusters"):
        start("second", data_dir=tmp_path)
    assert handles.actor_names("second") == []


def test_a_directory_that_cannot_be_made_is_refused(one_ray: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="another data_dir"):
        start("second", data_dir=tmp_path / "file" / "data")
    assert handles.actor_names("second") == []


def test_a_node_with_another_version_is_named(one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayqueue, "__version__", "99.0")
    with pytest.raises(ConfigError, match=r"node [0-9.]+ .* has rayqueue .*install rayqueue==99\.0 there"):
        start("second", data_dir=tmp_path)
    assert handles.find(coordinator_name("second")) is None


def test_a_token_is_needed_where_others_can_reach_the_cluster(one_ray: None, tmp_path: Path) -> None:
    with start("open", brokers=1, data_dir=tmp_path, config={"listen.host": "0.0.0.0", "num.replica.actors": 1}) as it:
        assert it.token and it.status().needs_token
        assert (tmp_path / "token").stat().st_mode & 0o077 == 0
        assert resolve_bootstrap("open") == (it.bootstrap_servers, it.token)
        with rayqueue.AdminClient(cluster="open") as inside:
            inside.create_topic("t")
        with rayqueue.AdminClient(bootstrap_servers=it.bootstrap_servers, token=it.token) as given:
            assert "t" in given.list_topics()
        nobody = rayqueue.AdminClient(bootstrap_servers=it.bootstrap_servers)
        with nobody, pytest.raises(rayqueue.errors.AuthenticationError, match="token"):
            nobody.list_topics()
        token = it.token
    with start("open", brokers=1, data_dir=tmp_path, config={"listen.host": "0.0.0.0"}) as again:
        assert again.token == token


def test_a_broker_whose_directory_is_lost_is_missed_and_its_id_is_not_given_to_an_empty_one(
    one_ray: None, tmp_path: Path
) -> None:
    settings = {"num.replica.actors": 1}
    with start("lossy", brokers=1, data_dir=tmp_path, config=settings), rayqueue.AdminClient(cluster="lossy") as admin:
        admin.create_topic("t", partitions=2)
    shutil.rmtree(tmp_path / "0")
    with start("lossy", brokers=1, data_dir=tmp_path, config=settings) as again:
        seen = again.status()
        assert [(b.broker_id, b.state) for b in seen.brokers] == [(0, "gone"), (1, "running")]
        assert seen.offline == [("t", 0), ("t", 1)] and not seen.healthy


def test_shutdown_ends_a_process_that_hangs(one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "STOP_TIMEOUT_S", 1.0)
    monkeypatch.setattr(lifecycle, "GONE_TIMEOUT_S", 1.0)
    cluster = start("stuck", brokers=1, data_dir=tmp_path, config={"num.replica.actors": 1})
    pids = {(p.role, p.pid) for p in cluster.status().processes}
    for role, pid in pids:
        if role != "coordinator":
            os.kill(pid, signal.SIGSTOP)
    cluster.shutdown()
    for _, pid in pids:
        eventually(lambda pid=pid: gone(pid), "a process is left")
    assert handles.actor_names("stuck") == []
