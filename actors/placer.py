"""Keeps the brokers and coordinators that are wanted running on the nodes of the Ray cluster: looks each second, starts
what is missing.

A part of every coordinator's process; only that of the active one does anything. It decides by
`coordination.reconcile.plan`; Ray starts and restarts processes.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.nodes import NodeReport, alive_nodes, check_versions, probe
from rayqueue.actors.options import ANY_ADDRESS, LOOPBACK, BrokerOptions, CoordinatorOptions, Logging
from rayqueue.actors.quorum_tending import SILENT_MS, VOTERS_MAX
from rayqueue.coordination.machine import CoordinatorMachine
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.coordination.quorum.status import QuorumStatus
from rayqueue.coordination.quorum.voters import voters_wanted
from rayqueue.coordination.reconcile import NodeView, Wanted, plan
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import BrokerNotAvailable, ConfigError, NotController, RayQueueError

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
# A coordinator that has not been heard so long, and whose node is gone, is given up: another one takes its number.
REPLACE_COORDINATOR_MS = 30_000
POOL_SIZE_MAX = 16


class RayPlacer:
    """The reconciliation's thread.

    Args:
        start_broker, start_coordinator: starts an actor unless one of its name is there.
        nodes: what is known of nodes from the start, to one that founds a cluster; others are looked at when they turn
            up.

    Attributes:
        problems: what keeps nodes from being used, by node id.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        start_broker: Callable[[BrokerOptions], None],
        start_coordinator: Callable[[CoordinatorOptions, list[NodeReport]], Any],
        nodes: Sequence[NodeReport] = (),
    ) -> None:
        self._coordinator = coordinator
        self._start_broker = start_broker
        self._start_coordinator = start_coordinator
        self._wanted = Wanted.of(coordinator.options.brokers)
        self._nodes = {node.node_id: node for node in nodes}
        self._epoch = -1
        self._assigned: dict[int, str] = {}
        self._coordinators: dict[int, str] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker-placer", daemon=True)
        self._looked = False
        self.problems: dict[str, str] = {}

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Starts nothing more; returns when nothing is being started."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2 * INTERVAL_S)

    def want(self, brokers: int | None) -> None:
        """Wanted besides: at least so many brokers, or (None) one on every node. There are never fewer."""
        self._wanted = self._wanted.more(brokers)
        self._looked = False
        self._wake.set()

    def missing_coordinators(self, voters: set[int]) -> dict[int, str]:
        """Coordinators that should vote and do not, and where."""
        return {
            one: f"on node {node_id[:8]} does not vote yet"
            for one, node_id in self._coordinators.items()
            if one not in voters
        }

    def missing(self, running: set[int]) -> dict[int, str]:
        """Brokers that should run and do not, and where; -1 while it has not looked since it was told their number."""
        if not self._looked:
            return {-1: "the nodes have not been looked at yet"}
        nodes, assigned = dict(self._nodes), dict(self._assigned)
        return {
            broker_id: f"on node {nodes[node_id].address if node_id in nodes else node_id} has not registered"
            for broker_id, node_id in assigned.items()
            if broker_id not in running
        }

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._reconcile()
            except BrokerNotAvailable as error:
                log.debug("nothing to reconcile yet: %s", error)
            except Exception as error:
                # Ray may be away for a while, a node may go while it is asked: the next round begins anew.
                log.warning("brokers are not looked after: %s: %s", type(error).__name__, error)
            self._wake.wait(INTERVAL_S)
            self._wake.clear()

    def _reconcile(self) -> None:
        try:
            there: _There = self._coordinator.look(
                lambda state, machine: _there(state, machine, self._coordinator.quorum)
            )
        except NotController:
            self._bring_back_voters()
            return
        if not there.cluster_id:
            return
        if there.epoch != self._epoch:
            # What this process knows of the disks may be old: another coordinator was active meanwhile, this one was
            # started as a standby, or Ray has restarted it with the arguments of its first start. A broker that is
            # restarting just now would get a second one beside it. Where there are no brokers yet nothing is missed.
            if self._epoch >= 0 or there.brokers:
                self._nodes, self._assigned, self._coordinators = {}, {}, {}
            self._epoch = there.epoch
        addresses = alive_nodes()
        self._look_at_new_nodes(addresses, there.cluster_id)
        usable = {node_id: self._nodes[node_id] for node_id in addresses if node_id not in self.problems}
        views = [NodeView(node_id, frozenset(report.brokers)) for node_id, report in usable.items()]
        wanted, running = self._wanted, there.brokers_running
        self._assigned = plan(views, {**self._assigned, **running}, running, there.brokers, wanted)
        self._reconcile_coordinators(there, usable, addresses)
        self._looked = self._wanted == wanted
        load = Counter(self._assigned.values())
        for broker_id, node_id in sorted(self._assigned.items()):
            if broker_id in running or self._stopping.is_set():
                continue
            self._start_broker(self._options(there, broker_id, usable[node_id], load[node_id]))

    def _bring_back_voters(self) -> None:
        """While no coordinator is active a majority is missing, and what is waited for may just have come back with its
        node: then whoever is left starts it."""
        quorum = self._coordinator.quorum
        if quorum.leader is not None:
            return
        addresses = alive_nodes()
        self._look_at_new_nodes(addresses, self._coordinator.cluster_id)
        missing = set(quorum.membership.voters) - {quorum.me}
        for node_id in addresses.keys() - self.problems.keys():
            node = self._nodes[node_id]
            for voter in missing.intersection(Voter(*one) for one in node.directories.items()):
                options = self._coordinator_options(self._coordinator.cluster_id, voter.broker_id, node)
                self._start_coordinator(options, [])

    def _reconcile_coordinators(self, there: _There, usable: dict[str, NodeReport], addresses: dict[str, str]) -> None:
        """As many coordinators as should vote. One whose node is gone is waited for, as its copy may come back with it;
        after a while another one gets its number, with a copy of its own."""
        views = [NodeView(node_id, _copies(report, there)) for node_id, report in usable.items()]
        known = [
            one
            for one, node_id in there.coordinators.items()
            if node_id in addresses or there.silent_ms.get(one, REPLACE_COORDINATOR_MS) < REPLACE_COORDINATOR_MS
        ]
        running = {one: there.coordinators[one] for one in there.coordinators_running}
        wanted = Wanted(voters_wanted(max(len(self._assigned), 1), VOTERS_MAX), False)
        self._coordinators = plan(views, {**self._coordinators, **running}, running, known, wanted)
        for coordinator_id, node_id in sorted(self._coordinators.items()):
            if coordinator_id not in running and not self._stopping.is_set():
                options = self._coordinator_options(there.cluster_id, coordinator_id, usable[node_id])
                self._start_coordinator(options, [])

    def _look_at_new_nodes(self, addresses: dict[str, str], cluster_id: str) -> None:
        for gone in [node_id for node_id in self._nodes if node_id not in addresses]:
            del self._nodes[gone]
            self.problems.pop(gone, None)
        new = {node_id: address for node_id, address in addresses.items() if node_id not in self._nodes}
        if not new:
            return
        options = self._coordinator.options
        for report in probe(new, options.asked_data_dir, options.python_path):
            self._nodes[report.node_id] = report
            try:
                self._check(report, cluster_id)
            except RayQueueError as error:
                self.problems[report.node_id] = str(error)
                log.error("%s", error)

    def _check(self, report: NodeReport, cluster_id: str) -> None:
        """Raises a RayQueueError when no broker of ours can run on the node."""
        check_versions([report])
        strangers = {other for other in report.brokers.values() if other != cluster_id}
        if strangers:
            raise ConfigError(
                f"{report.data_dir} on node {report.address} holds cluster {', '.join(strangers)}, not {cluster_id}"
            )
        mine = self._nodes.values()
        if self._coordinator.options.loopback and len({node.address for node in mine}) > 1:
            raise ConfigError(
                f"node {report.address} cannot join: the cluster listens on loopback only, as it was started on one "
                "machine; shut it down and start it again (or start it with listen.host)"
            )

    def _coordinator_options(self, cluster_id: str, coordinator_id: int, node: NodeReport) -> CoordinatorOptions:
        """What a standby is started with."""
        mine = self._coordinator.options
        config = mine.config
        listen, advertised = addresses(mine.loopback, config.listen_host, config.advertised_host, node.address)
        return msgspec.structs.replace(
            mine,
            coordinator_id=coordinator_id,
            cluster_id=cluster_id,
            data_dir=node.data_dir,
            listen_host=listen,
            advertised_host=advertised,
            node_id=node.node_id,
            logging=Logging.of(node.data_dir, f"coordinator-{coordinator_id}", mine.logging.level),
            peers=tuple(sorted(self._coordinator.known.items())),
            token=self._coordinator.token,
        )

    def _options(self, there: _There, broker_id: int, node: NodeReport, on_node: int) -> BrokerOptions:
        """What a broker is started with; on_node: brokers that share the node's cores."""
        cluster = self._coordinator.options
        config = cluster.config
        listen, advertised = addresses(cluster.loopback, config.listen_host, config.advertised_host, node.address)
        return BrokerOptions(
            name=cluster.name,
            cluster_id=there.cluster_id,
            broker_id=broker_id,
            data_dir=node.data_dir,
            listen_host=listen,
            advertised_host=advertised,
            coordinators=tuple(address for _, address in sorted(self._coordinator.known.items())),
            token=self._coordinator.token,
            config=config,
            node_id=node.node_id,
            pool_size=config.num_replica_actors or max(1, min(POOL_SIZE_MAX, node.cpus // on_node)),
            standbys=config.num_standby_replica_actors,
            logging=Logging.of(node.data_dir, f"broker-{broker_id}", cluster.logging.level),
            python_path=cluster.python_path,
        )


def _copies(node: NodeReport, there: _There) -> frozenset[int]:
    """Coordinators whose copies lie there; not one whose number another copy has by now."""
    return frozenset(
        one for one, directory in node.directories.items() if there.directories.get(one, directory) == directory
    )


def addresses(loopback: bool, listen_host: str | None, advertised_host: str | None, address: str) -> tuple[str, str]:
    """(host to listen on, host to tell others) of a process on a node with this address.

    Args:
        loopback: whether the cluster is this machine alone. listen_host, advertised_host: as set, or None.
    """
    listen = listen_host or ("127.0.0.1" if loopback else address)
    if advertised_host:
        return listen, advertised_host
    if listen in ANY_ADDRESS:
        return listen, "127.0.0.1" if loopback else address
    return listen, listen


def is_loopback(listen_host: str | None, node_addresses: set[str]) -> bool:
    """Whether nobody outside this machine can reach the cluster: one machine, and no other host was set."""
    if listen_host is not None:
        return listen_host in LOOPBACK
    return len(node_addresses) <= 1


class _There(NamedTuple):
    """What the cluster has, and what of it is there.

    Attributes:
        brokers: all ids. brokers_running: id → node of those whose process is there.
        coordinators: id → node of all that have registered, directories: id → directory id. coordinators_running:
            those heard of now.
        silent_ms: by coordinator id, since when one has not been heard of.
    """

    epoch: int
    cluster_id: str
    brokers: list[int]
    brokers_running: dict[int, str]
    coordinators: dict[int, str]
    directories: dict[int, str]
    coordinators_running: list[int]
    silent_ms: dict[int, int]


def _there(state: ClusterState, machine: CoordinatorMachine, quorum: QuorumStatus) -> _There:
    brokers = {i: b.node_id for i, b in state.brokers.items() if machine.is_watching(b.incarnation)}
    coordinators = {one: record.node_id for one, record in state.coordinators.items()}
    directories = {one: record.directory_id for one, record in state.coordinators.items()}
    silent = {quorum.me.broker_id: 0, **{peer.voter.broker_id: peer.silent_ms for peer in quorum.peers}}
    running = [one for one in coordinators if silent.get(one, SILENT_MS) < SILENT_MS]
    return _There(
        machine.epoch, state.cluster_id, list(state.brokers), brokers, coordinators, directories, running, silent
    )
