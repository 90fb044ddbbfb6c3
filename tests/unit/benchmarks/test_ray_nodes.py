"""Loads on the nodes of a Ray cluster, without Ray: where they are put, and who accounts for which process.

On a real one: tests/integration/test_benchmarks_on_ray.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import accounting, ray_nodes
from benchmarks.harness.accounting import Memory, Stat
from benchmarks.harness.ray_cluster import RayCluster, accounted
from benchmarks.harness.ray_loads import Placement
from benchmarks.harness.ray_nodes import Node, NodeAgent, Nodes, clock_ahead_ns, ray_processes
from benchmarks.harness.system import PeerFailed
from benchmarks.peers import PEERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")


class Remote:
    """A method of an agent that answers at once."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def remote(self, *arguments: Any) -> Any:
        return self._answer(*arguments)


class FakeAgent:
    """An agent on a machine whose processes cost what their ids say."""

    def __init__(self) -> None:
        self.cpu_s = Remote(lambda pids: float(sum(pids)))
        self.memory = Remote(lambda pids: Memory(sum(pids), len(pids)))
        self.open_files = Remote(len)
        self.ray_processes = Remote(lambda: [5])
        self.bytes_on_disk = Remote(lambda directory: 100)
        self.removed: list[tuple[str, bool]] = []
        self.remove = Remote(lambda directory, parent_too: self.removed.append((directory, parent_too)))


def node(name: str, host: str, number: int) -> Node:
    return Node(number, name, "10.0.0.1", host, host, FakeAgent(), 0)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Two nodes here, two on another machine."""
    monkeypatch.setattr(ray_nodes, "ask", lambda answer, what: answer)
    return Nodes([node("a", "here", 0), node("b", "here", 0), node("c", "there", 3), node("d", "there", 4)])


def test_processes_of_other_machines_are_asked_for_there(nodes: Nodes) -> None:
    me = os.getpid()
    far = [nodes.all[2].global_pid(7), nodes.all[3].global_pid(9)]
    assert nodes.all[0].global_pid(me) == me and min(far) >= accounting.PIDS_HERE_BELOW
    with accounted(nodes):
        assert accounting.cpu_s([me, *far]) == pytest.approx(accounting.cpu_s([me]) + 16, abs=1)
        assert accounting.memory(far) == Memory(16, 2)
        assert accounting.open_files([me, *far]) >= 3 + 2
        meter = accounting.CpuMeter({"far": far})
        assert meter.used() == {"far": 0.0}


def test_machines_are_asked_once(nodes: Nodes) -> None:
    assert [one.node_id for one in nodes.hosts] == ["b", "d"]
    assert nodes.ray_processes() == [5, nodes.all[3].global_pid(5)]
    assert nodes.bytes_on_disk(Path("data")) == 200
    nodes.remove(Path("data"))
    assert [one.agent.removed for one in nodes.all] == [[], [("data", False)], [], [("data", True)]]
    assert not nodes.one_machine and Nodes(nodes.all[:2]).one_machine
    assert nodes.by_id("c") is nodes.all[2] and nodes.by_id("e") is None


def test_an_agent_removes_what_was_made_for_the_run(tmp_path: Path) -> None:
    data = tmp_path / "run" / "rayqueue"
    data.mkdir(parents=True)
    (data / "log").write_text("x")
    NodeAgent().remove(str(data), False)
    assert list((tmp_path / "run").iterdir()) == []
    data.mkdir()
    NodeAgent().remove(str(data), True)
    NodeAgent().remove(str(data), True)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_waits_for_processes_to_end() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert NodeAgent().wait_gone([process.pid], 0.01) == [process.pid]
        process.communicate(b"\n")
        assert NodeAgent().wait_gone([process.pid], 10) == []


def test_rays_own_processes_are_those_of_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    session = "/somewhere/session_2026-01-01_00-00-00_1_2/"
    titles = {
        1: f"gcs_server --log_dir={session}logs",
        2: f"raylet --socket={session}sockets/raylet",
        3: "ray::IDLE",
        4: "ray::DashboardAgent",
        5: "ray::Broker.report",
        6: "raylet --socket=/somewhere/session_2026-01-01_00-00-00_3_4/sockets/raylet",
        7: "ray::IDLE",
        8: "python driver.py",
    }
    parents = {3: 2, 4: 2, 5: 2, 7: 6}
    monkeypatch.setattr(accounting, "stats", lambda: {pid: Stat(pid, parents.get(pid, 0), 0.0) for pid in titles})
    monkeypatch.setattr(accounting, "title", titles.__getitem__)
    assert ray_processes(2) == [1, 2, 3, 4]


class FakeTime:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000

    def monotonic_ns(self) -> int:
        return self.now


def test_a_clock_is_told_from_the_quickest_look(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime()
    monkeypatch.setattr(ray_nodes, "time", clock)
    lags = iter([400, 20, *[300] * 20])

    def look() -> int:
        clock.now += next(lags)  # all of it on the way there: the worst case
        return clock.now + 5_000_000

    assert clock_ahead_ns(look) == 5_000_000 + 20 // 2


ROLES: dict[type, str] = {
    int: "rows_in",
    float: "arrow_out",
    str: "arrow_out_streamed",
    bytes: "sender",
    list: "receiver",
}


def placed(nodes: Nodes, leader: str) -> Placement:
    return Placement(nodes.all, ROLES, lambda topic: leader)


def test_loads_go_to_all_nodes_in_turn(nodes: Nodes) -> None:
    placement = placed(nodes, "a")
    assert [placement.choose(int, None).node_id for _ in range(5)] == ["a", "b", "c", "d", "a"]
    assert placement.choose(int, "topic").node_id == "b"


def test_what_plays_no_role_runs_here(nodes: Nodes) -> None:
    placement = placed(nodes, "c")
    assert {placement.choose(dict, topic).node_id for topic in (None, "t", None, "t")} == {"a", "b"}


def test_readers_of_tables_are_at_the_leader_or_on_another_machine(nodes: Nodes) -> None:
    placement = placed(nodes, "c")
    assert {placement.choose(float, "topic").node_id for _ in range(3)} == {"c"}
    assert {placement.choose(str, "topic").host for _ in range(3)} == {"here"}
    here = placed(Nodes(nodes.all[:2]), "b")
    assert {here.choose(str, "topic").node_id for _ in range(3)} == {"a"}
    assert placed(Nodes(nodes.all[:1]), "a").choose(str, "topic").node_id == "a"


def test_a_sender_and_its_receiver_share_a_clock(nodes: Nodes) -> None:
    placement = placed(nodes, "a")
    hosts = {placement.choose(kind, "topic").host for kind in (bytes, list, bytes, list)}
    assert hosts == {"there"}


def test_peers_of_one_machine_are_left_out_on_several(nodes: Nodes, tmp_path: Path) -> None:
    cluster = RayCluster("auto")
    cluster.nodes = nodes
    redis = cluster.local(PEERS["redis"])
    assert redis.name == "redis"
    with pytest.raises(PeerFailed, match="skipped: the Ray cluster has 2 machines"):
        redis.start(tmp_path, tmp_path, print)
    assert cluster.local(PEERS["ray.util.queue"]) is PEERS["ray.util.queue"]
