"""What `rayqueue doctor` makes of what it finds."""

import fcntl
import os
import platform
from types import SimpleNamespace

import pytest

import rayqueue
from rayqueue.admin_descriptions import BrokerDescription, ClusterDescription, PartitionDescription, TopicDescription
from rayqueue.cli import checks, checks_cluster, checks_ray
from rayqueue.cli.options import Connection
from rayqueue.cluster_probe import NodeProbe, RayProbe
from rayqueue.errors import AuthenticationError, BrokerNotAvailable, ClusterNotRunning


def cluster(alive=True, host="127.0.0.1", **changes):
    broker = BrokerDescription(0, host, 9000, "node", alive, 2, 2)
    values = {
        "cluster_id": "c",
        "brokers": [broker],
        "coordinator": "127.0.0.1:9001",
        "coordinator_epoch": 1,
        "metadata_index": 5,
        "topics": 1,
        "partitions": 2,
        "without_leader": [],
        "under_replicated": [],
    }
    return ClusterDescription(**{**values, **changes})


def topic(error=""):
    partition = PartitionDescription(0, 0, 1, [0], [0], error=error)
    return TopicDescription("t", "0" * 32, [partition], None, None, {}, [])


def test_python():
    assert checks.check_python((3, 11, 7)).result == "ok"
    old = checks.check_python((3, 9, 1))
    assert old.result == "fail" and "3.10" in old.advice


def test_a_data_directory_that_can_be_made(tmp_path):
    assert checks.check_data_dir(tmp_path).result == "ok"
    assert "can be made" in checks.check_data_dir(tmp_path / "a" / "b").found
    (tmp_path / "file").write_text("")
    assert checks.check_data_dir(tmp_path / "file" / "data").result == "fail"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_data_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    found = checks.check_data_dir(tmp_path)
    assert found.result == "fail" and "--data-dir" in found.advice


@pytest.mark.parametrize(("free", "result"), [(100 << 30, "ok"), (1 << 30, "warn"), (1 << 20, "fail")])
def test_disk_space(tmp_path, monkeypatch, free, result):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free, total=200 << 30))
    found = checks.check_disk(tmp_path)
    assert found.result == result and bool(found.advice) == (result != "ok")


def test_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    assert checks.check_shared_memory(tmp_path).result == "warn"
    assert checks.check_shared_memory(tmp_path / "missing").result == "ok"


def test_open_files(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    found = checks.check_descriptors()
    assert found.result == "warn" and "ulimit -n 4096" in found.advice


def test_a_lock_that_is_held_while_no_cluster_is_up(tmp_path):
    lock = tmp_path / "0" / "lock"
    lock.parent.mkdir()
    lock.write_text("4711 somehost\n")
    assert checks.check_locks(tmp_path, cluster_up=False).result == "ok"
    with open(lock) as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        found = checks.check_locks(tmp_path, cluster_up=False)
        assert found.result == "fail" and "process 4711 on somehost" in found.found
        assert checks.check_locks(tmp_path, cluster_up=True).result == "ok"


def test_ray_that_is_missing_or_away():
    (missing,) = checks_ray.judge_ray(RayProbe(None, "ray is not installed"))
    assert missing.result == "fail" and "pip install" in missing.advice
    (away,) = checks_ray.judge_ray(RayProbe("2.60.0", "ClusterNotRunning: there is no Ray on this machine"))
    assert away.result == "fail" and "rayqueue start" in away.advice


@pytest.mark.parametrize(
    ("node", "result", "about"),
    [
        (NodeProbe("n", rayqueue.__version__, platform.python_version(), "", True), "ok", "rayqueue"),
        (NodeProbe("n", None, "3.11.1", "No module named 'rayqueue'", True), "fail", "cannot be imported"),
        (NodeProbe("n", "0.0.1", platform.python_version(), "", True), "fail", "0.0.1 there"),
        (NodeProbe("n", rayqueue.__version__, "2.7.1", "", True), "warn", "Python 2.7.1 there"),
        (NodeProbe("n", None, "", "GetTimeoutError", False), "fail", "no worker there answers"),
    ],
)
def test_nodes(node, result, about):
    ray, found = checks_ray.judge_ray(RayProbe("2.60.0", "", 1, [node]))
    assert ray.result == "ok" and "1 lost" in ray.found
    assert found.result == result and about in found.found and bool(found.advice) == (result != "ok")


@pytest.mark.parametrize(
    ("error", "about"),
    [
        (ClusterNotRunning("no"), "rayqueue start --name blue"),
        (AuthenticationError("no"), "RAYQUEUE_TOKEN"),
        (BrokerNotAvailable("nobody at h:1"), "rayqueue status --name blue"),
    ],
)
def test_a_cluster_that_cannot_be_asked(error, about):
    found = checks_cluster.failure(error, Connection("auto", "blue", None))
    assert found.result == "fail" and about in found.advice


def test_brokers_and_coordinator():
    assert [c.result for c in checks_cluster.check_brokers(cluster())] == ["ok"]
    assert [c.result for c in checks_cluster.check_brokers(cluster(alive=False))] == ["fail"]
    assert [c.result for c in checks_cluster.check_brokers(cluster(brokers=[]))] == ["fail"]
    assert checks_cluster.check_coordinator(cluster()).result == "ok"
    assert checks_cluster.check_coordinator(cluster(coordinator="")).result == "fail"


def test_partitions():
    assert checks_cluster.check_partitions(cluster(), [topic()]).result == "ok"
    many = [f"t-{n}" for n in range(9)]
    found = checks_cluster.check_partitions(cluster(without_leader=many), [topic()])
    assert found.result == "fail" and "t-4 and 4 more" in found.found
    assert checks_cluster.check_partitions(cluster(), [topic("no answer")]).result == "fail"
    assert checks_cluster.check_partitions(cluster(under_replicated=["t-0"]), [topic()]).result == "warn"


def test_token():
    assert "no token is needed" in checks_cluster.check_token(cluster(), None).found
    assert "is the cluster's" in checks_cluster.check_token(cluster(host="10.0.0.1"), "secret").found


def test_a_data_directory_that_is_not_known_is_not_checked():
    found = {check.name: check for check in checks.check_machine(None, True)}
    assert found["data directory"].found == "not checked; give --data-dir"
    assert "locks" not in found and "disk" not in found
