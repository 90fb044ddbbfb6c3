"""What lies on the nodes of the Ray cluster: asked by small tasks, one a node.

The functions that run there are pickled by value and import rayqueue themselves, if at all, so that a node without it
(or with another version) can say so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import msgspec
import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import rayqueue
from rayqueue.actors.metadata_copies import Copy, choose
from rayqueue.actors.ray_environment import runtime_env
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ConfigError, StorageError

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 60.0


class NodeReport(msgspec.Struct):
    """A live node.

    Attributes:
        node_id, address: Ray's. version: of rayqueue there, "" for none; found_in: the directory with it; detail: what
            is wrong with it.
        data_dir: as it is on that node (absolute). cpus: of the machine.
        coordinators: coordinator id → cluster id of the copies of the metadata log that lie there ("": not known).
        directories: coordinator id → directory id of the same.
        brokers: broker id → cluster id of the directories that lie there.
    """

    node_id: str
    address: str
    version: str = ""
    found_in: str = ""
    detail: str = ""
    data_dir: str = ""
    cpus: int = 1
    coordinators: dict[int, str] = {}
    directories: dict[int, str] = {}
    brokers: dict[int, str] = {}

    @property
    def clusters(self) -> set[str]:
        """Ids of the clusters that lie there."""
        return {*self.coordinators.values(), *self.brokers.values()} - {""}


def alive_nodes() -> dict[str, str]:
    """Node id → address of the nodes that Ray counts as alive."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def run_on(node_id: str, python_path: str, function: Callable[..., Any], *args: Any) -> Any:
    """A reference to the result of a function that runs on a node."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    options = {"scheduling_strategy": strategy, "runtime_env": runtime_env(python_path)}
    return remote.options(**options).remote(*args)  # type: ignore[attr-defined]


def _look() -> Callable[[str], dict[str, Any]]:
    """The function that looks at a node; nested, so that it is pickled by value."""

    def look(data_dir: str) -> dict[str, Any]:
        import json
        import os

        found: dict[str, Any] = {"data_dir": os.path.abspath(os.path.expanduser(data_dir)), "cpus": os.cpu_count() or 1}
        try:
            import rayqueue

            found["version"] = rayqueue.__version__
            found["found_in"] = os.path.dirname(os.path.dirname(os.path.abspath(rayqueue.__file__)))
            import rayqueue.actors.handles
        except Exception as error:
            found["detail"] = f"{type(error).__name__}: {error}"
            return found
        brokers: dict[int, str] = {}
        coordinators: dict[int, str] = {}
        directories: dict[int, str] = {}
        try:
            entries = os.listdir(found["data_dir"])
        except FileNotFoundError:
            entries = []
        for entry in entries:
            path = os.path.join(found["data_dir"], entry, "identity.json")
            kind, _, number = entry.rpartition("-")
            if kind in ("", "coordinator") and number.isdigit() and os.path.exists(path):
                with open(path) as file:
                    identity = json.load(file)
                (coordinators if kind else brokers)[int(number)] = identity["cluster_id"]
                if kind:
                    directories[int(number)] = identity["directory_id"]
        found["coordinators"] = coordinators
        found["directories"] = directories
        found["brokers"] = brokers
        return found

    return look


def probe(nodes: dict[str, str], data_dir: str, python_path: str) -> list[NodeReport]:
    """Looks at nodes, all at once.

    Args:
        nodes: node id → address. data_dir: may begin with `~`. python_path: where rayqueue is, or "".

    Raises:
        BrokerNotAvailable: a node does not answer. StorageError: a data directory cannot be read there.
    """
    look = _look()
    references = {run_on(node_id, python_path, look, data_dir): node_id for node_id in nodes}
    reports = []
    for reference, node_id in references.items():
        where = f"node {nodes[node_id]} ({node_id[:8]})"
        try:
            found = ray.get(reference, timeout=PROBE_TIMEOUT_S)
        except ray.exceptions.RayTaskError as error:
            raise StorageError(f"cannot read {data_dir} on {where}: {error.cause}; choose another data_dir") from error
        except ray.exceptions.RayError as error:
            raise BrokerNotAvailable(f"{where} does not answer: {str(error).splitlines()[0]}") from error
        reports.append(NodeReport(node_id, nodes[node_id], **found))
    return reports


def check_versions(reports: list[NodeReport]) -> None:
    """Raises ConfigError, one line that names the node, unless every node has this version of rayqueue."""
    for report in reports:
        mine = rayqueue.__version__
        if report.version != mine or report.detail:
            has = f"has rayqueue {report.version}" if report.version else "has no rayqueue"
            why = f" ({report.detail})" if report.detail else ""
            raise ConfigError(
                f"node {report.address} ({report.node_id[:8]}) {has}, this process {mine}{why}: "
                f"install rayqueue=={mine} there"
            )


def cluster_on_disk(reports: list[NodeReport], python_path: str = "") -> tuple[str, dict[int, NodeReport]]:
    """The cluster id that lies on the nodes' disks ("" for none), and by coordinator id the node with that copy of its
    metadata; of two with the same number, the one that the cluster counts on (`metadata_copies`).

    Raises:
        ClusterMismatch: several clusters. StorageError: brokers lie there, but no metadata; or it cannot be read.
    """
    ids = {cluster_id for report in reports for cluster_id in report.clusters}
    if len(ids) > 1:
        where = "; ".join(
            f"{report.address} {report.data_dir}: {', '.join(sorted(report.clusters))}"
            for report in reports
            if report.clusters
        )
        raise ClusterMismatch(f"the data directories hold several clusters ({where}): use another data_dir")
    copies: dict[int, NodeReport] = {}
    for report in reports:
        for coordinator_id, directory_id in report.directories.items():
            first = copies.setdefault(coordinator_id, report)
            if first.directories[coordinator_id] != directory_id or first.data_dir != report.data_dir:
                return next(iter(ids), ""), _counted_on(reports, python_path)
    if ids and not copies:
        places = ", ".join(f"{report.address} {report.data_dir}" for report in reports if report.brokers)
        raise StorageError(
            f"brokers of cluster {ids.pop()} lie in {places}, but none of the {len(reports)} nodes has its metadata "
            "(coordinator-*/): start the nodes that have, or use another data_dir"
        )
    return (ids.pop() if ids else ""), copies


def _read_copies() -> Callable[[str, list[int]], list[Any]]:
    """The function that looks into coordinators' directories; nested, so that it is pickled by value."""

    def read_copies(data_dir: str, coordinator_ids: list[int]) -> list[Any]:
        from rayqueue.actors.metadata_copies import read_copy

        return [read_copy(data_dir, one) for one in coordinator_ids]

    return read_copies


def _counted_on(reports: list[NodeReport], python_path: str) -> dict[int, NodeReport]:
    """By coordinator id, the node with the copy that is the cluster's, where there are several."""
    function = _read_copies()
    references = [run_on(r.node_id, python_path, function, r.data_dir, sorted(r.directories)) for r in reports]
    homes: list[tuple[Copy, NodeReport]] = []
    for reference, report in zip(references, reports, strict=True):
        try:
            homes += [(copy, report) for copy in ray.get(reference, timeout=PROBE_TIMEOUT_S)]
        except ray.exceptions.RayError as error:
            where = f"{report.data_dir} on node {report.address} ({report.node_id[:8]})"
            raise StorageError(f"the metadata in {where} cannot be read: {str(error).splitlines()[0]}") from error
    chosen = choose(copy for copy, _ in homes)
    for copy, report in homes:
        if chosen[copy.me.broker_id] is not copy:
            log.warning(
                "coordinator-%d in %s on node %s is not the cluster's any more",
                copy.me.broker_id,
                report.data_dir,
                report.address,
            )
    return {copy.me.broker_id: report for copy, report in homes if chosen[copy.me.broker_id] is copy}


def _wait_gone() -> Callable[[list[int], float], list[int]]:
    """The function that waits for processes to end; nested, so that it is pickled by value."""

    def wait_gone(pids: list[int], patience_s: float) -> list[int]:
        import os
        import signal
        import time

        def running(pid: int) -> bool:
            try:
                os.kill(pid, 0)
                with open(f"/proc/{pid}/stat") as file:  # a zombie is gone, all but its entry
                    return file.read().rpartition(")")[2].split()[0] != "Z"
            except ProcessLookupError:
                return False
            except FileNotFoundError:
                return not os.path.isdir("/proc/self")

        deadline = time.monotonic() + patience_s
        left = [pid for pid in pids if running(pid)]
        killed = False
        while left and time.monotonic() < deadline + patience_s:
            if not killed and time.monotonic() >= deadline:
                killed = True
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            left = [pid for pid in left if running(pid)]
        return left

    return wait_gone


def wait_gone(pids: dict[str, list[int]], patience_s: float) -> list[int]:
    """Waits until processes (node id → pids) have ended; those that hang are killed. Gives those that are still there.

    Nodes that are gone have no processes of ours.
    """
    function = _wait_gone()
    alive = alive_nodes()
    references = [run_on(n, "", function, p, patience_s) for n, p in pids.items() if n in alive and p]
    left: list[int] = []
    for reference in references:
        try:
            left += ray.get(reference, timeout=2 * patience_s + PROBE_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            log.warning("cannot tell whether all processes have ended: %s", error)
    return left


def default_python_path() -> str:
    """The directory in which this process found rayqueue, for workers that do not find it by themselves."""
    return os.path.dirname(os.path.dirname(os.path.abspath(rayqueue.__file__)))
