"""The command line: files of logs, measurements, the doctor."""

import json
import os

import pytest
from click.testing import CliRunner

from rayqueue import AdminClient
from rayqueue.cli.main import cli
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.cli_session import runner, shell_in, topic_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("cli"), brokers=2) as running:
        yield running


@pytest.fixture
def topic(request, admin):
    yield from topic_for(request, admin)


@pytest.fixture
def run(cluster):
    return runner(cluster)


@pytest.fixture
def shell(cluster, tmp_path):
    return shell_in(cluster, tmp_path)


def test_log_dump_and_verify(run, shell, cluster, topic, admin, tmp_path):
    shell(f"printf 'k:v\\n' | rayqueue topic produce {topic} -k : -p 0")
    path = admin.describe_topic(topic).partitions[0].path
    dumped = json.loads(run("log", "dump", path, "--json").stdout)
    assert (dumped["topic"], dumped["partition"], dumped["offset"], dumped["key"], dumped["value"]) == (
        topic,
        0,
        0,
        "k",
        "v",
    )
    batch = json.loads(run("log", "dump", path, "--batches", "--json").stdout)
    assert batch["record_count"] == 1 and batch["sound"]
    report = json.loads(run("log", "verify", path, "--json").stdout)
    assert report["sound"] and report["records"] == 1
    assert "all sound" in run("log", "verify", str(cluster.data_dir)).stdout

    damaged = tmp_path / "00000000000000000000.arrow"
    data = bytearray((next(f for f in os.scandir(path) if f.name.endswith(".arrow"))).path.encode())
    with open(bytes(data), "rb") as file:
        content = bytearray(file.read())
    content[-20] ^= 1
    damaged.write_bytes(content)
    result = run("log", "verify", str(damaged), status=1)
    assert "CRC32C" in result.stdout and "fail" in result.stdout
    for arguments in ((), ("--batches",), ("--json",)):
        assert "are damaged" in run("log", "dump", str(damaged), *arguments, status=1).stderr
    damaged.write_bytes(content[:-20])
    assert "within a message's body" in run("log", "dump", str(damaged), status=1).stderr
    damaged.write_bytes(b"garbage " * 20)
    result = run("log", "dump", str(damaged), status=1)
    assert f"{damaged}: skipped from byte 0" in result.stderr and result.stdout == ""


def test_perf(run):
    written = json.loads(run("perf", "produce", "--topic", "perf", "-n", "2000", "--partitions", "2", "--json").stdout)
    assert written["records"] == 2000 and written["bytes"] == 200_000 and written["latency_ms"]["p50"] > 0
    arrow = run(
        "perf", "produce", "--topic", "perf", "-n", "3000", "--api", "arrow", "--batch-records", "700", "--json"
    )
    assert json.loads(arrow.stdout)["records"] == 3000
    for api in ("arrow", "rows"):
        read = json.loads(run("perf", "consume", "--topic", "perf", "--api", api, "--json").stdout)
        assert read["records"] == 5000 and read["bytes"] >= 500_000
    assert "records/s" in run("perf", "produce", "--topic", "perf", "-n", "50", "--rate", "1000").stdout


def test_perf_end_to_end(run):
    result = run("perf", "e2e", "--rate", "200", "--seconds", "0.5", "--json")
    found = json.loads(result.stdout)
    assert found["records"] == 100 and 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["max"]


def test_perf_consume_of_an_empty_topic_says_what_to_do(run, topic):
    assert "rayqueue perf produce" in run("perf", "consume", "--topic", topic, status=1).stderr


def test_doctor_on_a_sound_cluster(run, cluster):
    found = json.loads(run("doctor", "--data-dir", str(cluster.data_dir), "--json").stdout)
    results = {check["name"]: check["result"] for check in found["checks"]}
    assert found["healthy"] and not found["summary"]["fail"]
    assert results["cluster"] == results["brokers"] == results["partitions"] == results["locks"] == "ok"


def test_doctor_finds_what_is_wrong(tmp_path):
    with InProcessCluster(tmp_path / "data", brokers=2) as running:
        with AdminClient(running.bootstrap_servers) as admin:
            admin.create_topic("t", 2, replication_factor=1)
        running.stop_replica(1)
        arguments = ["doctor", "-b", running.bootstrap_servers, "--data-dir", str(running.data_dir)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 1
        assert "fail  partitions" in result.stdout and "->" in result.stdout
    # The very directory, while no cluster answers but a process holds its lock.
    with InProcessCluster(tmp_path / "data", brokers=1) as running:
        result = CliRunner().invoke(cli, ["doctor", "-b", "127.0.0.1:1", "--data-dir", str(running.data_dir)])
        assert result.exit_code == 1
        assert "fail  cluster" in result.stdout and "fail  locks" in result.stdout and str(os.getpid()) in result.stdout
