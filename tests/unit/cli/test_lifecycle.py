"""`shutdown` and `status` on the command line, with a stand-in for what needs Ray."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import rayqueue
from rayqueue.admin_descriptions import (
    BrokerDescription,
    ClusterDescription,
    PartitionDescription,
    TopicDescription,
)
from rayqueue.cli import doctor
from rayqueue.cli.main import cli
from rayqueue.cli.options import Connection
from rayqueue.cli.status_by_address import judge


@pytest.fixture
def lifecycle(monkeypatch):
    """Stands in for the module that imports Ray."""
    module = SimpleNamespace()
    monkeypatch.setitem(__import__("sys").modules, "rayqueue.cluster", module)
    monkeypatch.setattr(rayqueue, "cluster", module, raising=False)
    return module


def test_shutdown_says_whether_there_was_a_cluster(lifecycle):
    lifecycle.shutdown = lambda name: name == "there"
    result = CliRunner().invoke(cli, ["shutdown", "--name", "typo"])
    assert (result.exit_code, result.stdout) == (0, "Cluster typo was not running.\n")
    result = CliRunner().invoke(cli, ["shutdown", "--name", "typo", "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"name": "typo", "stopped": False})
    assert "is stopped" in CliRunner().invoke(cli, ["shutdown", "--name", "there"]).stdout


def test_doctor_looks_where_the_running_cluster_has_its_data(lifecycle, monkeypatch):
    monkeypatch.setenv("RAYQUEUE_DATA_DIR", "/elsewhere")
    lifecycle.connect = lambda name: SimpleNamespace(data_dir=f"/data/{name}")
    through_ray = Connection("auto", "c", None)
    assert str(doctor._data_dir(through_ray, True)) == "/data/c"
    assert str(doctor._data_dir(through_ray, False)) == "/elsewhere"
    assert doctor._data_dir(Connection("127.0.0.1:1", "c", None), True) is None


def described(leader=0, isr=(0, 1), alive=True, error="", unclean_epoch=-1):
    brokers = [BrokerDescription(0, "10.0.0.1", 9500, "n0", alive, 1, 1)]
    cluster = ClusterDescription("c1", brokers, "10.0.0.1:9400", 3, 17, 1, 1, [], [])
    partition = PartitionDescription(
        0, leader, 5, [0, 1], list(isr), "10.0.0.1:9600", error=error, unclean_epoch=unclean_epoch
    )
    return cluster, [TopicDescription("t", "00", [partition], None, None, {"min.insync.replicas": "1"}, [])]


def test_a_status_by_address_has_the_keys_of_one_through_ray():
    found = judge(*described(), Connection("10.0.0.1:9500", "default", None))
    assert found.healthy and found.brokers[0].endpoint == "10.0.0.1:9500"
    assert found.to_dict()["bootstrap_servers"] == "grpc://10.0.0.1:9500" and found.to_dict()["partitions"] == 1
    assert "cluster c1: healthy" in str(found) and "data directory" not in str(found)


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"alive": False}, "broker 0 does not live"),
        ({"leader": -1}, "t-0 has no leader"),
        ({"isr": (0,)}, "t-0 is under-replicated"),
        ({"isr": ()}, "t-0 refuses acks=all"),
        ({"unclean_epoch": 5}, "UNCLEAN"),
        ({"error": "no answer"}, "t-0: no answer"),
    ],
)
def test_what_is_wrong_is_a_problem(change, about):
    found = judge(*described(**change), Connection("10.0.0.1:9500", "default", None))
    assert not found.healthy and about in found.problems[0]
