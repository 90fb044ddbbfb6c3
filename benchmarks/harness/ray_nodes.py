"""The nodes of a Ray cluster that runs: an agent on each, which reads /proc there; what processes cost on all of them.

A process id of another machine stands for nothing here, so those carry the number of their node above `PID_BITS`; those
of this machine are what they are. `Nodes` accounts for both kinds as `accounting` does for its own.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import accounting
from benchmarks.harness.accounting import Memory
from benchmarks.harness.interruption import running

ASK_TIMEOUT_S = 30.0
# A worker process may have to be started first, and the benchmarks brought to its node.
START_TIMEOUT_S = 120.0
GONE_POLL_S = 0.01
CLOCK_LOOKS = 8
PID_BITS = accounting.PIDS_HERE_BELOW.bit_length() - 1
PID_MASK = accounting.PIDS_HERE_BELOW - 1
# Of a directory that is in the command lines of all servers of one Ray.
SESSION = re.compile(r"/session_[\w-]+/")
RAY_CHILDREN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class ClusterFailed(RuntimeError):
    """Ray, or a node of it, cannot be used; the message is one line and says what to do."""


def ask(reference: Any, what: str, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """The value of a reference.

    Raises:
        ClusterFailed: it raised there, its process is gone, or there is no answer in time.
    """
    import ray

    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise ClusterFailed(f"{what}: no answer in {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ClusterFailed(f"{what}: {lines[-1].strip() if lines else type(error).__name__}") from error


def host_identity() -> str:
    """What tells machines apart, and containers on one: those have clocks, process ids and loopback of their own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return " ".join([boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid"))])


class NodeAgent:
    """Runs as an actor on a node."""

    def host(self) -> tuple[str, str]:
        """The machine's identity and its name."""
        return host_identity(), socket.gethostname()

    def clock(self) -> int:
        """CLOCK_MONOTONIC in ns."""
        return time.monotonic_ns()

    def pid(self) -> int:
        """This process's id."""
        return os.getpid()

    def cpu_s(self, pids: list[int]) -> float:
        """See `accounting.cpu_s`."""
        return accounting.cpu_s(pids)

    def memory(self, pids: list[int]) -> Memory:
        """See `accounting.memory`."""
        return accounting.memory(pids)

    def open_files(self, pids: list[int]) -> int:
        """See `accounting.open_files`."""
        return accounting.open_files(pids)

    def ray_processes(self) -> list[int]:
        """Ray's own processes on this machine: see `ray_processes`."""
        return ray_processes(os.getppid())

    def bytes_on_disk(self, directory: str) -> int:
        """See `accounting.bytes_on_disk`; 0 where there is no such directory."""
        return accounting.bytes_on_disk(Path(directory))

    def remove(self, directory: str, parent_too: bool) -> None:
        """Removes a directory, if it is there, and the one it is in, if asked to."""
        if os.path.isdir(directory):
            shutil.rmtree(directory)
            if parent_too:
                os.rmdir(os.path.dirname(directory))

    def wait_gone(self, pids: list[int], wait_s: float) -> list[int]:
        """Waits for processes to end; those that have not in time."""
        give_up = time.monotonic() + wait_s
        while (left := [pid for pid in pids if running(pid)]) and time.monotonic() < give_up:
            time.sleep(GONE_POLL_S)
        return left


def ray_processes(raylet: int) -> list[int]:
    """Ray's own processes on the machine of this raylet: the servers of its session, all of whose command lines name
    it, and of the raylets' children the agents and the workers that wait; not those that run tasks and actors."""
    stats = accounting.stats()
    titles = {pid: accounting.title(pid) for pid in stats}
    session = SESSION.search(titles[raylet])
    assert session is not None, f"the parent of an actor is no raylet: {titles[raylet]}"
    servers = {pid for pid, title in titles.items() if session[0] in title and not title.startswith("ray::")}
    waiting = {pid for pid, title in titles.items() if title.startswith(RAY_CHILDREN) and stats[pid].parent in servers}
    return sorted(servers | waiting)


@dataclass(frozen=True)
class Node:
    """A live node.

    Attributes:
        number: 0 for all nodes on this machine; it stands above `PID_BITS` of process ids elsewhere.
        node_id, address: Ray's.
        host: identity of the machine. host_name: what it calls itself.
        agent: the handle of its `NodeAgent`.
        clock_ns: what its CLOCK_MONOTONIC is ahead of ours.
    """

    number: int
    node_id: str
    address: str
    host: str
    host_name: str
    agent: Any
    clock_ns: int

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.number == 0

    @property
    def name(self) -> str:
        """As messages have it."""
        return f"node {self.address} ({self.node_id[:8]})"

    def global_pid(self, pid: int) -> int:
        """The id by which `Nodes` knows a process of this node."""
        return self.number << PID_BITS | pid


class Nodes:
    """The live nodes of the Ray cluster that this process is connected to, with an agent on each.

    Attributes:
        all: in Ray's order, which is the same on each call of `ray.nodes`.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.all = nodes

    @property
    def one_machine(self) -> bool:
        """Whether all of them are on this machine."""
        return all(node.here for node in self.all)

    @property
    def hosts(self) -> list[Node]:
        """One node of each machine."""
        return list({node.host: node for node in self.all}.values())

    def by_id(self, node_id: str) -> Node | None:
        """The node of that id; None for one that was not there at the beginning."""
        return next((node for node in self.all if node.node_id == node_id), None)

    # --- what processes cost, wherever they are; see the functions of the same names in `accounting` ---

    def cpu_s(self, pids: Iterable[int]) -> float:
        """CPU seconds."""
        return float(sum(self._each(pids, accounting.cpu_s, "cpu_s")))

    def memory(self, pids: Iterable[int]) -> Memory:
        """Memory."""
        found = self._each(pids, accounting.memory, "memory")
        return Memory(sum(one.pss for one in found), sum(one.uss for one in found))

    def open_files(self, pids: Iterable[int]) -> int:
        """File descriptors."""
        return sum(self._each(pids, accounting.open_files, "open_files"))

    def _each(self, pids: Iterable[int], here: Callable[[list[int]], Any], method: str) -> list[Any]:
        """What this machine and the agents of the others answer, each for its own processes; all are asked at once."""
        by_number: dict[int, list[int]] = {}
        for pid in pids:
            by_number.setdefault(pid >> PID_BITS, []).append(pid & PID_MASK)
        local = by_number.pop(0, [])
        nodes = {node.number: node for node in self.all}
        asked = {nodes[number]: _call(nodes[number], method, mine) for number, mine in by_number.items()}
        return [here(local), *(ask(reference, node.name) for node, reference in asked.items())]

    # --- nodes ---

    def ray_processes(self) -> list[int]:
        """Ray's own processes on all machines."""
        asked = [(node, _call(node, "ray_processes")) for node in self.hosts]
        return [node.global_pid(pid) for node, reference in asked for pid in ask(reference, node.name)]

    def bytes_on_disk(self, directory: Path) -> int:
        """What a directory takes, on all machines."""
        asked = [(node, _call(node, "bytes_on_disk", str(directory))) for node in self.hosts]
        return sum(ask(reference, node.name) for node, reference in asked)

    def remove(self, directory: Path) -> None:
        """Removes a directory on all machines; on others, also the one it was in, which was made for it."""
        asked = [(node, _call(node, "remove", str(directory), not node.here)) for node in self.hosts]
        for node, reference in asked:
            ask(reference, node.name)


def _call(node: Node, method: str, *arguments: Any) -> Any:
    return getattr(node.agent, method).remote(*arguments)


def start_agents() -> Nodes:
    """An agent on each live node; they end with this process's connection to Ray.

    Raises:
        ClusterFailed: a node cannot run one; most likely it lacks rayqueue.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kind: Any = ray.remote(num_cpus=0, max_restarts=0)(NodeAgent)
    agents = []
    for node in ray.nodes():
        if node["Alive"]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            agents.append((node, kind.options(scheduling_strategy=strategy).remote()))
    hosts = [(agent, agent.host.remote()) for _, agent in agents]
    found: list[Node] = []
    for (node, agent), (_, reference) in zip(agents, hosts, strict=True):
        what = f"node {node['NodeManagerAddress']} cannot run the benchmarks (has it rayqueue[bench]?)"
        host, host_name = ask(reference, what, START_TIMEOUT_S)
        here = host == host_identity()
        number = 0 if here else len(found) + 1
        ahead = 0 if here else clock_ahead_ns(functools.partial(_clock, agent, what))
        found.append(Node(number, node["NodeID"], node["NodeManagerAddress"], host, host_name, agent, ahead))
    return Nodes(found)


def _clock(agent: Any, what: str) -> int:
    return int(ask(agent.clock.remote(), what))


def clock_ahead_ns(look: Callable[[], int]) -> int:
    """What another clock is ahead of ours, as the quickest of some looks at it tells; right to half as long as that."""
    best: tuple[int, int] | None = None
    for _ in range(CLOCK_LOOKS):
        before = time.monotonic_ns()
        there = look()
        after = time.monotonic_ns()
        one = (after - before, there - (before + after) // 2)
        best = one if best is None else min(best, one)
    assert best is not None
    return best[1]
