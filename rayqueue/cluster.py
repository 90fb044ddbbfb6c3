"""The life of a cluster on Ray: `start`, `connect`, `status`, `shutdown`.

Importing this module imports Ray, which takes a while; `import rayqueue` does not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rayqueue.actors import handles, lifecycle, ray_session, rolling, survey
from rayqueue.actors.options import ClusterOverview
from rayqueue.admin import AdminClient
from rayqueue.cluster_groups import with_groups
from rayqueue.cluster_status import ClusterStatus, PartitionStatus, ProcessStatus, TopicStatus
from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.cluster_rules import check_cluster_config
from rayqueue.errors import ConfigError

__all__ = [
    "Cluster",
    "ClusterStatus",
    "PartitionStatus",
    "ProcessStatus",
    "TopicStatus",
    "connect",
    "resolve_bootstrap",
    "restart",
    "shutdown",
    "start",
    "status",
]

log = logging.getLogger(__name__)


DEFAULT_NAME = "default"


class Cluster:
    """A running cluster. As a context manager it is shut down at the end.

    Attributes:
        name: what `connect` and clients' `cluster=` call it.
        bootstrap_servers: "grpc://host:port,...": all a client needs, inside Ray or not.
        token: what clients outside Ray need besides (`token=`, RAYQUEUE_TOKEN); None when nobody needs one.
        data_dir: on the coordinator's node.
    """

    def __init__(self, overview: ClusterOverview) -> None:
        self.name = overview.options.name
        self.cluster_id = overview.metadata.cluster_id
        self.bootstrap_servers = overview.bootstrap_servers
        self.token = overview.token
        self.data_dir = overview.options.data_dir

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, bootstrap_servers={self.bootstrap_servers!r})"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def status(self) -> ClusterStatus:
        """See `rayqueue.status`."""
        return status(self.name)

    def shutdown(self) -> None:
        """See `rayqueue.shutdown`."""
        shutdown(self.name)


def start(
    name: str = DEFAULT_NAME,
    brokers: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    config: Any = None,
    *,
    stay: bool = False,
) -> Cluster:
    """Starts a cluster, or what of it does not run; returns when all of it serves. Started again, it changes nothing.

    The Ray is the one that this process is connected to, else that of RAY_ADDRESS, else one on this machine, else a
    new local one.

    Args:
        name: several clusters can live in one Ray cluster.
        brokers: None: one on every node, and on nodes that join later. n: at least n, spread over the nodes.
        data_dir: a directory on each node; default RAYQUEUE_DATA_DIR, else `~/.rayqueue/<name>`. Where one holds a
            cluster, that is started again, with all its data.
        config: dict or pydantic model of broker and default topic settings, Kafka's names.
        stay: a Ray that has to be begun outlives this process (until `shutdown`); else it ends with it.

    Raises:
        ConfigError: a setting, or a node without this version of rayqueue, or the cluster runs with other settings.
        StorageError: the directory is in use, cannot be written, or lacks its metadata.
        ClusterMismatch: the directories hold several clusters. ClusterNotRunning: no Ray at RAY_ADDRESS.
        RequestTimeout: something does not come up; the message says what.
    """
    handles.check_cluster_name(name)
    if brokers is not None and (isinstance(brokers, bool) or not isinstance(brokers, int) or brokers < 1):
        raise ConfigError(f"brokers is a number from 1, or None for one on every node, not {brokers!r}")
    parsed = None if config is None else BrokerConfig.parse(config)
    if parsed is not None:
        check_cluster_config(parsed)
    begun = ray_session.attach_or_begin(stay)
    level = os.environ.get("RAYQUEUE_LOG", "INFO")
    directory = None if data_dir is None else os.fspath(data_dir)
    try:
        return Cluster(lifecycle.bring_up(name, brokers, directory, parsed, level))
    except BaseException:
        if begun and not handles.any_cluster():  # others may have found this Ray meanwhile and use it
            ray_session.end_if_begun()
        raise


def connect(name: str = DEFAULT_NAME) -> Cluster:
    """The running cluster of that name, from any process of the Ray cluster.

    Raises:
        ClusterNotRunning: there is no Ray, or no such cluster in it.
    """
    handles.check_cluster_name(name)
    ray_session.attach()
    return Cluster(lifecycle.overview(name))


def status(name: str = DEFAULT_NAME) -> ClusterStatus:
    """The state of a cluster, printable: processes, endpoints, topics, leaders, in-sync replicas, what is wrong.

    Raises:
        ClusterNotRunning: there is no Ray, or no such cluster in it.
    """
    handles.check_cluster_name(name)
    with ray_session.attached():
        return with_groups(survey.survey(name), {"cluster": name})


def restart(name: str = DEFAULT_NAME, brokers: Iterable[int] | None = None, timeout_s: float = 600.0) -> list[int]:
    """Restarts brokers one after the other while producing and consuming go on (a rolling restart): each hands over
    what it leads, ends with its replica actors, starts again from what is installed on its node now, and is in sync
    before the next one's turn. Then the coordinators, when all brokers were asked for. In the end partitions are led
    again by those that were to lead them.

    A partition with a single replica cannot be handed over: it has no leader while its broker restarts.

    Args:
        brokers: their ids; None: all.
        timeout_s: how long the cluster may take to be complete and in sync, each time.

    Returns:
        The brokers that were restarted.

    Raises:
        ConfigError: there is no such broker. ClusterNotRunning.
        RequestTimeout: the cluster does not become complete; the brokers whose turn did not come are as they were.
    """
    handles.check_cluster_name(name)
    with ray_session.attached():
        done = rolling.restart_in_order(name, brokers, timeout_s)
        found = lifecycle.overview(name)
    with AdminClient(bootstrap_servers=found.bootstrap_servers, token=found.token) as admin:
        admin.elect_leaders()
    return done


def shutdown(name: str = DEFAULT_NAME) -> bool:
    """Stops the processes of a cluster and waits until they are gone; the data stays. Ends the Ray that `start` began.

    Without such a cluster it does nothing.

    Returns:
        Whether there was such a cluster.

    Raises:
        StorageError: a process does not end.
    """
    handles.check_cluster_name(name)
    if not ray_session.try_attach():
        return False
    ran = lifecycle.take_down(name)
    if not handles.any_cluster():
        ray_session.end_if_begun()
    return ran


def resolve_bootstrap(cluster: str) -> tuple[str, str | None]:
    """(bootstrap servers, token) of a cluster, for clients with `bootstrap_servers="auto"`.

    Raises:
        ClusterNotRunning: there is no Ray, or no such cluster in it; the message says what to do.
    """
    handles.check_cluster_name(cluster)
    with ray_session.attached():
        found = lifecycle.overview(cluster)
        return found.bootstrap_servers, found.token
