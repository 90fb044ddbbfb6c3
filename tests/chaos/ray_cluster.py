"""A Ray cluster of some nodes on this machine, each with a data directory of its own, and rayqueue on it.

The nodes have different HOMEs and the data directory begins with `~`, so that a node can be lost with its disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as RayCluster

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.interruption import running, send
from rayqueue.cluster_status import ClusterStatus, ProcessStatus
from rayqueue.errors import RayQueueError
from tests.chaos.waiting import until

NAME = "chaos"
DATA = "~/data"
STORE_BYTES = 80 << 20
GONE_WAIT_S = 30.0
COMMAND_WAIT_S = 20.0
# A follower that stands still leaves the ISR within a fault's length.
# No process stands by, unless a run asks for it: a fault lasts until Ray has started what it hit.
CONFIG = {"num.replica.actors": 1, "num.standby.replica.actors": 0, "replica.lag.time.max.ms": 3000}


@dataclass
class Node:
    """A Ray node. home: the directory that its processes take for HOME. ray_node: Ray's handle; None: it is gone."""

    number: int
    home: Path
    ray_node: Any = None
    node_id: str = ""

    @property
    def data(self) -> Path:
        """Where rayqueue keeps its data on this node."""
        return self.home / DATA.removeprefix("~/")

    def processes(self) -> list[int]:
        """Process ids of the raylet and of all that it started; workers are its children."""
        raylets = [one.process.pid for one in self.ray_node.all_processes.get("raylet", [])]
        return [pid for raylet in raylets for pid in accounting.descendants(raylet)]


@dataclass
class ChaosCluster:
    """Ray and rayqueue; the first node is Ray's head, and this process is connected to it.

    Attributes:
        started: called after every start of a node of Ray, which takes signals for itself.
        disk_bytes: the last node has a file system of this size of its own (needs root); 0: none has.
    """

    directory: Path
    size: int = 3
    config: dict[str, Any] = field(default_factory=lambda: dict(CONFIG))
    nodes: list[Node] = field(default_factory=list)
    servers: str = ""
    disk_bytes: int = 0
    started: Callable[[], None] = lambda: None
    _ray: RayCluster | None = None

    def start(self) -> None:
        """Ray's head, its other nodes, and rayqueue on all of them; on the directories that are there, if any."""
        if not self.nodes:
            self.nodes = [Node(i, self.directory / f"node-{i}") for i in range(self.size)]
            for node in self.nodes:
                node.home.mkdir(parents=True)
            if self.disk_bytes:
                _mount(self.nodes[-1].home, self.disk_bytes)
        self._ray = RayCluster()
        for node in self.nodes:
            self.start_node(node)
        ray.init(address=self._ray.address, log_to_driver=False, logging_level=logging.ERROR)
        self.started()
        self.servers = rayqueue.start(NAME, data_dir=DATA, config=self.config).bootstrap_servers

    def start_node(self, node: Node) -> None:
        """Starts a node of Ray; the coordinator starts a broker there."""
        assert self._ray is not None
        head = {} if self._ray.head_node else {"include_dashboard": False}
        node.ray_node = self._ray.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, env_vars={"HOME": str(node.home)}, **head
        )
        node.node_id = node.ray_node.node_id
        self.started()

    def lose_node(self, node: Node, with_disk: bool) -> list[int]:
        """kill -9 of all processes of a node at once, and its directory is deleted. Gives the process ids."""
        assert self._ray is not None
        pids = node.processes()
        send(pids, signal.SIGKILL)
        until(lambda: not any(map(running, pids)), GONE_WAIT_S, f"the end of the processes of node {node.number}")
        if with_disk:
            for entry in node.home.iterdir():  # not the directory itself: a file system may be mounted there
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._ray.remove_node(node.ray_node, allow_graceful=False)
        node.ray_node = None
        return pids

    def lose_ray(self) -> list[int]:
        """kill -9 of the head with the GCS, and of all other nodes, as Ray ends them without it. Gives process ids."""
        pids = [pid for node in self.nodes for pid in node.processes()]
        ray.shutdown()  # this process is none of theirs, and must not end with them
        send(pids, signal.SIGKILL)
        self._end_ray()
        until(lambda: not any(map(running, pids)), GONE_WAIT_S, "the end of Ray")
        return pids

    def _end_ray(self) -> None:
        ray.shutdown()
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def stop(self) -> None:
        """Ends all of it; the directories stay."""
        try:
            if ray.is_initialized():
                for process in self.status().processes:
                    if process.pid:
                        send([process.pid], signal.SIGCONT)
                rayqueue.shutdown(NAME)
        except RayQueueError as error:
            logging.getLogger(__name__).warning("the cluster is ended with its processes: %s", error)
        finally:
            self._end_ray()
            if self.disk_bytes and os.path.ismount(self.nodes[-1].home):
                subprocess.run(["umount", "--lazy", self.nodes[-1].home], check=True, timeout=COMMAND_WAIT_S)

    # --- what is there -----------------------------------------------------------------------------------------------

    def status(self) -> ClusterStatus:
        """See `rayqueue.status`."""
        return rayqueue.status(NAME)

    def processes(self, role: str = "") -> list[ProcessStatus]:
        """The processes that answer, of one role or all."""
        return [one for one in self.status().processes if one.pid and role in ("", one.role)]

    def node_of(self, process: ProcessStatus) -> Node:
        """The node on which a process runs."""
        return next(node for node in self.nodes if node.node_id == process.node_id)


def _mount(directory: Path, size: int) -> None:
    """
    Raises:
        OSError: this may only be done as root.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "rayqueue-chaos", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_WAIT_S, check=False)
    if done.returncode:
        raise OSError(f"cannot mount a file system on {directory}: {done.stderr.strip()}")


@contextlib.contextmanager
def running_cluster(
    directory: Path, config: dict[str, Any], disk_bytes: int, started: Callable[[], None]
) -> Iterator[ChaosCluster]:
    """A cluster for the length of the block; nothing of it is left behind but its directories.

    RAY_ADDRESS names it meanwhile: whatever looks for a Ray finds this one.
    """
    cluster = ChaosCluster(directory, config={**CONFIG, **config}, disk_bytes=disk_bytes, started=started)
    before = os.environ.pop("RAY_ADDRESS", None)
    try:
        cluster.start()
        yield cluster
    finally:
        try:
            cluster.stop()
        finally:
            if before is not None:
                os.environ["RAY_ADDRESS"] = before
