"""The benchmarks on a Ray cluster that runs already, of three nodes on this machine: `--address`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench, Scale
from benchmarks.harness.interruption import running
from benchmarks.harness.loads import Load, LoadFailed
from benchmarks.harness.ray_cluster import ClusterSystem, RayCluster
from benchmarks.harness.ray_loads import RayLoad
from benchmarks.harness.ray_nodes import ClusterFailed, NodeAgent
from benchmarks.peers.ray_queue import PEER as RAY_QUEUE
from benchmarks.workloads import WORKLOADS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc"),
]

SCALE = Scale(seconds=0.05, sweep_seconds=0.05, repeats=1, warm_up=0, bytes_max=500_000, rows_max=2_000, partitions=5)
STORE_BYTES = 80 << 20
GONE_WAIT_S = 30.0


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[str]:
    before = set(accounting.descendants(os.getpid()))
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**node)
        yield cluster.address
    finally:
        started = set(accounting.descendants(os.getpid())) - before
        ray.shutdown()
        cluster.shutdown()
    assert NodeAgent().wait_gone(sorted(started), GONE_WAIT_S) == []


@pytest.fixture(scope="module")
def cluster(three_nodes: str) -> RayCluster:
    return RayCluster(three_nodes, {"num.replica.actors": 1, "num.standby.replica.actors": 0})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def system(cluster: RayCluster, directory: Path) -> Iterator[ClusterSystem]:
    with cluster.start(directory / "rayqueue") as started:
        yield started
        pids = started.processes()["actors"]
    assert pids and not any(running(pid) for pid in pids)
    assert not (directory / "rayqueue").exists() and not ray.is_initialized()


class Recorded:
    """Starts loads and remembers them."""

    def __init__(self, start_load: Callable[..., Load]) -> None:
        self._start_load = start_load
        self.loads: list[RayLoad] = []

    def __call__(self, kind: type, label: str, **arguments: Any) -> Load:
        load = self._start_load(kind, label, **arguments)
        assert isinstance(load, RayLoad)
        self.loads.append(load)
        return load

    def nodes(self, label: str) -> set[str]:
        return {load.node.node_id for load in self.loads if load.label == label}


@pytest.fixture(scope="module")
def loads(cluster: RayCluster) -> Recorded:
    return Recorded(cluster.start_load)


@pytest.fixture(scope="module")
def bench(system: ClusterSystem, directory: Path, loads: Recorded) -> Bench:
    return Bench([system], directory, SCALE, loads)


def test_rayqueue_runs_on_every_node_and_all_of_it_is_accounted_for(system: ClusterSystem) -> None:
    seen = rayqueue.status(system.cluster)
    assert len({broker.node_id for broker in seen.brokers}) == 3
    found = system.processes()
    titles = [accounting.title(pid) for pid in found["ray"]]
    assert sum("raylet --" in title for title in titles) == 3
    assert sum("gcs_server --" in title for title in titles) == 1
    assert sorted(found["actors"]) == sorted(process.pid for process in seen.processes)
    assert len(system.actors("PartitionReplicaProcess")) == 3
    replicas = system.actors("PartitionReplicaProcess")
    assert all(accounting.title(pid).startswith("ray::PartitionReplica") for pid in replicas)
    assert not set(found["ray"]) & set(found["actors"])
    assert system.nodes.memory(found["actors"]) == pytest.approx(accounting.memory(found["actors"]), rel=0.5)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("w1", "rayqueue-rows_in"),
        ("w2", "rayqueue-batches_in"),
        ("w3", "rayqueue-rows_out"),
        ("w8", "rayqueue-arrow_out"),
    ],
)
def test_a_workload_runs_with_its_loads_spread_over_the_nodes(
    bench: Bench, loads: Recorded, name: str, label: str
) -> None:
    loads.loads.clear()
    outcome = WORKLOADS[name](bench)

    assert outcome.figures and all(sample > 0 for figure in outcome.figures for sample in figure.samples)
    # Readers of tables stay with their leader; all others are spread, also those that are made anew for each topic.
    assert len(loads.nodes(label)) >= (1 if label.endswith("arrow_out") else 2)
    assert not any(running(load.pid) for load in loads.loads)


def test_loads_are_where_what_they_measure_is(system: ClusterSystem, bench: Bench) -> None:
    with system.topic() as topic:
        with bench.load(system, "batches_in") as batches_in:
            produced = batches_in.call("run", topic=topic, rows=100, value_bytes=100, seconds=1, bytes_max=100_000)
        assert system.bytes_on_disk() > 100_000
        with (
            bench.load(system, "arrow_out", topic=topic) as mapped,
            bench.load(system, "arrow_out_streamed", topic=topic) as streamed,
        ):
            assert mapped.node.node_id == system.leader_node(topic) != streamed.node.node_id
            meter = bench.meter(system, mapped, streamed)
            sums = {load.call("run", records=produced["records"])["sum"] for load in (mapped, streamed)}
            assert len(sums) == 1
            assert set(meter.used()) == {"actors", "ray", "clients"}


def test_a_load_that_fails_says_where_and_why(system: ClusterSystem, bench: Bench) -> None:
    with bench.load(system, "rows_in") as load:
        with pytest.raises(LoadFailed, match=r"rayqueue-rows_in on node (?s:.*)TypeError"):
            load.call("run", nothing="like this")
        with pytest.raises(LoadFailed, match="AttributeError"):
            load.begin("walk").result(60)
    with pytest.raises(LoadFailed, match="rows_in"), bench.load(system, "rows_in", linger_ms="soon"):
        raise AssertionError("it did not start")


def test_rays_own_queue_is_a_peer_there(system: ClusterSystem, bench: Bench, directory: Path) -> None:
    with RAY_QUEUE.start(directory, directory, print) as peer, peer.topic() as topic:
        (pid,) = peer.processes()["queue"]
        assert accounting.title(pid).startswith("ray::_QueueActor")
        for tuning in peer.tunings["one_by_one"].values():
            with bench.load(peer, "one_by_one", topic=topic, **tuning) as load:
                assert load.call("awaited", count=3)["seconds"] > 0
                assert load.call("pipelined", count=300)["seconds"] > 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nowhere"])
def test_a_ray_that_is_not_there_is_said_in_a_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterFailed) as caught, RayCluster(address).start(tmp_path):
        raise AssertionError("there is none")
    assert address in str(caught.value) and "\n" not in str(caught.value)
