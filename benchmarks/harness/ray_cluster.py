"""The benchmarks on a Ray cluster that runs already: `python -m benchmarks --address`.

rayqueue is started on all its nodes, and every load is a process there, spread over them. Nodes need rayqueue with its
extra `bench` installed. The package `benchmarks`, which no wheel has, goes to them from this checkout, by `py_modules`
of the connection's runtime environment: Ray takes local paths for a whole connection only, not for one actor, and
`working_dir` would change the directory in which rayqueue's own actors run.

Ray's workers run at nice 15 unless the cluster was started with RAY_worker_niceness=0, as it should be: servers of
peers do not, and on a busy machine that is what would be measured.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.loads import Anew, Load, resolve
from benchmarks.harness.ray_loads import Placement, RayLoad
from benchmarks.harness.ray_nodes import ClusterFailed, Nodes, start_agents
from benchmarks.harness.rayqueue_system import NAME, RayqueueSystem
from benchmarks.harness.system import Peer, PeerFailed, Say, System
from benchmarks.peers import ray_queue

CONNECT_WAIT_S = 5.0
PACKAGE = Path(__file__).parents[1]
NOT_SENT = ["results", "__pycache__"]
ROLE_OF_ACTOR = {"Broker": "broker", "PartitionReplicaProcess": "replica", "Coordinator": "coordinator"}


@dataclass
class ClusterSystem(RayqueueSystem):
    """rayqueue on the nodes of a Ray cluster.

    Attributes:
        nodes: where its processes are looked for; their ids are those of `Nodes`.
        cluster: its name.
    """

    nodes: Nodes = field(default_factory=lambda: Nodes([]))
    cluster: str = NAME

    def processes(self) -> dict[str, list[int]]:
        """Process ids: "actors" (rayqueue's) and "ray" (Ray's own), on all nodes."""
        return {"actors": self._actors(), "ray": self.nodes.ray_processes()}

    def actors(self, kind: str) -> list[int]:
        """Process ids of one class of actor."""
        return self._actors(ROLE_OF_ACTOR[kind])

    def _actors(self, role: str | None = None) -> list[int]:
        found = []
        for process in rayqueue.status(self.cluster).processes:
            node = self.nodes.by_id(process.node_id)
            if node is not None and process.pid and role in (None, process.role):
                found.append(node.global_pid(process.pid))
        return found

    def bytes_on_disk(self) -> int:
        """Bytes that its data directories take, on all machines."""
        return self.nodes.bytes_on_disk(self.data_dir)

    def leader_node(self, topic: str) -> str:
        """Id of the node with the leader of a topic's partition 0; "" when there is none at present."""
        seen = rayqueue.status(self.cluster)
        leaders = [one.partitions[0].leader for one in seen.topics if one.name == topic]
        return next((broker.node_id for broker in seen.brokers if broker.broker_id in leaders), "")


class RayCluster:
    """A Ray cluster that runs already, as `--address` names it.

    `start` and `start_load` are what a run takes for `start_rayqueue` and `start_load`; `local` wraps its peers.

    Attributes:
        nodes: while rayqueue runs there; else None.
    """

    def __init__(self, address: str, config: dict[str, Any] | None = None) -> None:
        """
        Args:
            address: host:port of Ray's GCS, or "auto".
            config: settings of rayqueue's brokers and default topic settings.
        """
        self.nodes: Nodes | None = None
        self._address = address
        self._config = config or {}
        self._placement: Placement | None = None

    @contextlib.contextmanager
    def start(self, directory: Path) -> Iterator[ClusterSystem]:
        """rayqueue on all nodes, under a name of its own, with its data in this directory of every machine.

        At the end of the block it is shut down, the directory is removed everywhere, and this process leaves Ray.

        Raises:
            ClusterFailed: Ray cannot be reached, or a node cannot run the benchmarks.
            RayQueueError: rayqueue does not start there.
        """
        import ray

        connect(self._address)
        try:
            self.nodes = nodes = start_agents()
            try:
                with _started(directory, self._config) as found, accounted(nodes):
                    system = self._system(found, directory)
                    self._placement = Placement(nodes.all, _roles(system), system.leader_node)
                    yield system
            finally:
                nodes.remove(directory)
        finally:
            self.nodes = self._placement = None
            ray.shutdown()

    def _system(self, found: Any, directory: Path) -> ClusterSystem:
        assert self.nodes is not None
        nodes = [{"address": node.address, "host": node.host_name} for node in self.nodes.all]
        settings = {"address": self._address, "nodes": nodes, "config": self._config, "brokers": len(nodes)}
        return ClusterSystem(found.bootstrap_servers, found.token, directory, True, settings, nodes=self.nodes)

    def start_load(self, kind: type, label: str, **arguments: Any) -> Load:
        """A load on one of the nodes; to be called while `start` lasts."""
        assert self._placement is not None
        # One that is made anew for each topic goes where the role belongs that it is made for.
        plays = resolve(arguments["of"]) if kind is Anew else kind
        return RayLoad(self._placement.choose(plays, arguments.get("topic")), kind, label, **arguments)

    def local(self, peer: Peer) -> Peer:
        """The peer, but left out where not all nodes are this machine: it would run on this one only.

        Not so Ray's own queue, which is an actor of that cluster, as rayqueue is.
        """
        return peer if peer.name == ray_queue.NAME else LocalPeer(peer, self)


class LocalPeer:
    """A peer that runs on one machine."""

    def __init__(self, peer: Peer, cluster: RayCluster) -> None:
        self.name = peer.name
        self.missing = peer.missing
        self.prepare = peer.prepare
        self._peer = peer
        self._cluster = cluster

    def start(self, directory: Path, cache: Path, say: Say) -> contextlib.AbstractContextManager[System]:
        """See `Peer.start`.

        Raises:
            PeerFailed: the nodes are several machines.
        """
        nodes = self._cluster.nodes
        if nodes is not None and not nodes.one_machine:
            raise PeerFailed(
                f"skipped: the Ray cluster has {len(nodes.hosts)} machines, and it would run on this one alone; "
                "run without --address to compare"
            )
        return self._peer.start(directory, cache, say)


def connect(address: str) -> None:
    """Connects to a Ray that runs, and brings it the package `benchmarks`.

    Raises:
        ClusterFailed: there is none at this address, or it cannot be used from here.
    """
    import ray

    if "://" in address:
        raise ClusterFailed(f"{address}: give host:port of Ray's GCS, or auto, and run on a node of that cluster")
    _check_reachable(address)
    package = {"py_modules": [str(PACKAGE)], "excludes": NOT_SENT}
    try:
        ray.init(address=address, runtime_env=package, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        causes = f"{error} {error.__cause__ or ''}"
        hint = "; it asks for its token: set RAY_AUTH_MODE=token" if "InvalidAuthToken" in causes else ""
        raise ClusterFailed(f"no Ray to be used at {address}: {' '.join(str(error).split())}{hint}") from error


def _check_reachable(address: str) -> None:
    """A Ray that was killed leaves its address behind, and `ray.init` tries that for minutes."""
    from ray._private import services

    found = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
    if found is None:
        raise ClusterFailed("no Ray runs on this machine: start one with `ray start --head`, or give its address")
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_WAIT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterFailed(f"nobody answers at {found}: {error}") from error


@contextlib.contextmanager
def _started(directory: Path, config: dict[str, Any]) -> Iterator[Any]:
    # One of this name that runs already is somebody else's: then `start` raises, and it is left alone.
    found = rayqueue.start(name=NAME, data_dir=str(directory), config=config)
    try:
        yield found
    finally:
        rayqueue.shutdown(name=NAME)


def _roles(system: System) -> dict[type, str]:
    return {kind: role for role, kind in system.roles.items()}


@contextlib.contextmanager
def accounted(nodes: Nodes) -> Iterator[None]:
    """Has `accounting` ask these nodes about processes of other machines; for those of this one it needs nobody."""
    if nodes.one_machine:
        yield
    else:
        with accounting.asking(nodes):
            yield
