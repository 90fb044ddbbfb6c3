"""Other replicas and other leaders, on the command line."""

import json

import pytest

from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.cli_session import runner
from tests.integration.waiting import eventually

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("cli"), brokers=3) as running:
        yield running


@pytest.fixture
def run(cluster):
    return runner(cluster)


def test_a_partition_is_moved_and_its_replication_factor_changed(run, admin):
    admin.create_topic("moved", 2)
    done = run("topic", "reassign", "moved", "0=1,2", "1=0,1,2", "--throttle", "100000000", "--wait")
    assert "Topic moved: done." in done.stdout
    described = json.loads(run("topic", "describe", "moved", "--json").stdout)
    assert [p["replicas"] for p in described["partitions"]] == [[1, 2], [0, 1, 2]]
    assert json.loads(run("topic", "reassign", "moved", "0=2,1", "--wait", "--json").stdout) == []
    assert "No partition is being reassigned." in run("topic", "reassignments").stderr
    assert "no broker 9" in run("topic", "reassign", "moved", "0=9", status=1).stderr
    admin.delete_topic("moved")


def test_what_is_under_way_is_shown_and_cancelled(run, admin, cluster):
    admin.create_topic("stuck", 1, replication_factor=1)
    (here,) = admin.describe_topic("stuck").partitions[0].replicas
    there = (here + 1) % 3
    cluster.stop_replica(there)
    try:
        assert "being reassigned" in run("topic", "reassign", "stuck", f"0={there}").stdout
        (row,) = json.loads(run("topic", "reassignments", "--json").stdout)
        assert row == {
            "topic": "stuck",
            "partition": 0,
            "replicas": [here, there],
            "adding": [there],
            "removing": [here],
            "isr": [here],
        }
        assert "stuck" in run("topic", "reassignments").stdout
        assert "1 being reassigned" in run("status").stdout
        assert "Cancelled 1 reassignment" in run("topic", "reassign", "stuck", "--cancel").stdout
        assert admin.describe_topic("stuck").partitions[0].replicas == [here]
    finally:
        cluster.start_replica(there)


def test_wrong_usage_is_said(run):
    for arguments in (["x"], ["x", "0=1", "--cancel"], ["x", "0"], ["x", "0=a"], ["x", "0=1", "--throttle", "0"]):
        assert run("topic", "reassign", *arguments, status=2).stderr
    assert "name the topic" in run("topic", "elect-leaders", "--unclean", status=2).stderr


def test_leaders_go_back_and_an_unclean_one_is_asked_for_by_name(run, admin, cluster):
    admin.create_topic("led", 1, replication_factor=2, config={"min.insync.replicas": 1})
    first, second = admin.describe_topic("led").partitions[0].replicas
    cluster.stop_replica(first)
    eventually(lambda: admin.describe_topic("led").partitions[0].leader == second, TIMEOUT_S)
    cluster.start_replica(first)
    eventually(lambda: len(admin.describe_topic("led").partitions[0].isr) == 2, TIMEOUT_S)
    assert "1 partition changed" in run("topic", "elect-leaders", "led").stdout
    cluster.stop_replica(second)
    eventually(lambda: admin.describe_topic("led").partitions[0].isr == [first], TIMEOUT_S)
    cluster.stop_replica(first)
    cluster.start_replica(second)
    unclean = ("topic", "elect-leaders", "led", "0", "--unclean", "--json")
    eventually(lambda: json.loads(run(*unclean).stdout) == {"moved": 1}, TIMEOUT_S, "the loss of the leader is noticed")
    assert "UNCLEAN" in run("status", status=1).stdout
    cluster.start_replica(first)
    eventually(lambda: len(admin.describe_topic("led").partitions[0].isr) == 2, TIMEOUT_S)
