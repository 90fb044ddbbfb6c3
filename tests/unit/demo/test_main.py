"""The whole demo, small, with its real service processes, on a cluster in this process instead of Ray's."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import rayqueue
from rayqueue.cluster_status import ClusterStatus, PartitionStatus, ProcessStatus, TopicStatus
from rayqueue.demo import failover, main, verify
from rayqueue.testing.inprocess import InProcessCluster


class Clusters:
    """Stands where `rayqueue.start`, `status` and `shutdown` do, and where a process is killed."""

    def __init__(self) -> None:
        self.running: dict[str, InProcessCluster] = {}

    def start(self, name: str, brokers: int, data_dir: str, config: Any) -> Any:
        cluster = InProcessCluster(data_dir, brokers, config)
        cluster.start()
        self.running[name] = cluster
        return SimpleNamespace(name=name, bootstrap_servers=cluster.bootstrap_servers, token=None)

    def status(self, name: str) -> ClusterStatus:
        cluster = self.running[name]
        with rayqueue.AdminClient(cluster.bootstrap_servers) as admin:
            topics = [
                TopicStatus(t.name, False, [
                    PartitionStatus(p.partition, p.leader, p.leader_epoch, p.replicas, p.isr, False, False)
                    for p in t.partitions
                ])
                for t in admin.describe_topics()
            ]  # fmt: skip
        processes = [
            ProcessStatus("replica", b, slot, "running", "", "", b, "", str(cluster.data_dir / str(b)), "")
            for b, slot in cluster.replicas
        ]
        return ClusterStatus(name, "", cluster.bootstrap_servers, False, "", 1, 1, processes, topics)

    def kill(self, pid: int, signal: int) -> None:
        """Of a replica actor: it stops, and starts again, as Ray would have it."""
        (cluster,) = self.running.values()
        cluster.stop_replica(pid)
        cluster.start_replica(pid)

    def shutdown(self, name: str) -> None:
        if name in self.running:  # else it does nothing, as the real one
            self.running.pop(name).stop()


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    found = Clusters()
    monkeypatch.setitem(vars(rayqueue), "start", found.start)  # setattr would import what is there: Ray
    monkeypatch.setitem(vars(rayqueue), "status", found.status)
    monkeypatch.setitem(vars(rayqueue), "shutdown", found.shutdown)
    monkeypatch.setattr(failover, "os", SimpleNamespace(kill=found.kill))
    monkeypatch.setattr(main, "PACE_S", 1.0)
    return found


def _run(tmp_path: Path, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    console = Console(file=out, width=110, highlight=False)
    return main.run(data_dir=tmp_path, flights=2000, console=console, **options), out.getvalue()


def test_all_checks_hold_and_nothing_is_left(tmp_path: Path, clusters: Clusters) -> None:
    status, text = _run(tmp_path)
    assert status == 0, text
    assert "\n2,000 flights in, 2,000 read back\n" in text
    assert "FAILED" not in text
    assert "the leader of delays-1, flights-0, flights-3, weather-0 was killed" in text
    assert "the same in each of 3 replicas" in text
    assert clusters.running == {} and list(tmp_path.iterdir()) == []


def test_a_failed_check_is_the_exit_status_and_the_data_is_kept_when_asked(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = verify.read_back
    monkeypatch.setattr(main, "read_back", lambda *given: read(*given).slice(1))
    status, text = _run(tmp_path, as_json=True, keep=True)
    assert status == 1
    result = json.loads(text)
    assert result["checks"][0] == {"text": "2,000 flights in, 1,999 read back", "ok": False}
    assert [str(path) for path in tmp_path.iterdir()] == [result["data_dir"]]
    assert list(Path(result["segments"]).glob("*.arrow"))
    assert clusters.running == {}


def test_a_cluster_that_does_not_start_is_an_error_with_its_reason(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**given: Any) -> None:
        raise rayqueue.errors.StorageError("the disk is full: make room")

    monkeypatch.setitem(vars(rayqueue), "start", fail)
    status, _ = _run(tmp_path)
    assert status == 1
    assert "the disk is full: make room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
