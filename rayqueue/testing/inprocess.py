"""A cluster without Ray, inside this process: the very classes that the actors are, on loopback ports and real disks.

For tests of clients and of the data plane: it is up in a fraction of a second, and its parts can be stopped and
started one by one. It is not a stand-in for anything: what differs from a cluster on Ray is who starts the parts, and
that they share a process.
"""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.group_coordinator import GroupCoordinator
from rayqueue.actors.identity import CoordinatorIdentity, read_json
from rayqueue.actors.options import BrokerOptions, CoordinatorOptions
from rayqueue.actors.partition_replica import PartitionReplica
from rayqueue.client.addresses import format_addresses
from rayqueue.config.broker import BrokerConfig
from rayqueue.errors import RequestTimeout

HOST = "127.0.0.1"
GROUPS = -1  # in place of a slot


class InProcessCluster:
    """A cluster of some brokers; a context manager.

    Args:
        data_dir: where the data lies; given again, everything is back.
        brokers: how many.
        config: broker and default topic settings.
        replicas: replica actors a broker.
        coordinators: copies of the metadata log; with three, one may go.

    Attributes:
        coordinators: by id. brokers: by id. replicas: by (broker id, slot).
        groups: the group coordinators, by broker id; there are some once there are consumer groups.
    """

    def __init__(
        self, data_dir: str | Path, brokers: int = 1, config: Any = None, replicas: int = 1, coordinators: int = 1
    ) -> None:
        self.data_dir = Path(data_dir)
        self.config = BrokerConfig.parse(config)
        self.pool_size = replicas
        self.count = brokers
        self.coordinators: dict[int, Coordinator] = {}
        self._coordinator_count = coordinators
        self.brokers: dict[int, Broker] = {}
        self.replicas: dict[tuple[int, int], PartitionReplica] = {}
        self.groups: dict[int, GroupCoordinator] = {}
        self._stopped: set[tuple[int, int]] = set()  # slots of brokers; GROUPS: the group coordinator
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"InProcessCluster({str(self.data_dir)!r}, brokers={self.count})"

    @property
    def bootstrap_servers(self) -> str:
        """What clients take."""
        return format_addresses([(HOST, broker.port) for broker in self.brokers.values()])

    @property
    def coordinator(self) -> Coordinator:
        """The active one; any, while none is."""
        return next((one for one in self.coordinators.values() if one.active), next(iter(self.coordinators.values())))

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> InProcessCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 20.0) -> None:
        """Starts all parts and waits until they serve."""
        self._stopped.clear()
        self.coordinators.clear()
        kept = read_json(self.data_dir / "coordinator-0" / "identity.json", CoordinatorIdentity)
        self._cluster_id = kept.cluster_id if kept else ""
        first = self.start_coordinator(wait=not self._cluster_id)
        self._cluster_id = cluster_id = self._cluster_id or first.format(uuid.uuid4().hex)
        for coordinator_id in range(1, self._coordinator_count):
            self.start_coordinator(coordinator_id, wait=False)  # one by itself is not made a voter
        for coordinator in self.coordinators.values():
            _wait(coordinator.ready, timeout_s, "a coordinator", coordinator)
        for broker_id in range(self.count):
            self.start_broker(broker_id, cluster_id)
        self.wait_ready(timeout_s)

    def start_coordinator(self, coordinator_id: int = 0, timeout_s: float = 20.0, wait: bool = True) -> Coordinator:
        """Starts a coordinator, on what its directory holds."""
        options = CoordinatorOptions(
            "inprocess",
            str(self.data_dir),
            HOST,
            HOST,
            self.config,
            node_id=f"node-{coordinator_id}",
            coordinator_id=coordinator_id,
            cluster_id=self._cluster_id,
            peers=self._peers(),
        )
        made = self.coordinators[coordinator_id] = Coordinator(options)
        if wait:
            _wait(made.ready, timeout_s, "a coordinator", made)
        return made

    def _peers(self) -> tuple[tuple[int, tuple[str, int]], ...]:
        return tuple((i, (HOST, one.port)) for i, one in self.coordinators.items() if one.port)

    def start_broker(self, broker_id: int, cluster_id: str) -> None:
        """Starts a broker, which starts its replica actors."""
        options = BrokerOptions(
            name="inprocess",
            cluster_id=cluster_id,
            broker_id=broker_id,
            data_dir=str(self.data_dir),
            listen_host=HOST,
            advertised_host=HOST,
            coordinators=tuple(address for _, address in self._peers()),
            token=None,
            config=self.config,
            node_id=f"node-{broker_id}",
            pool_size=self.pool_size,
        )
        self.brokers[broker_id] = Broker(
            options, lambda slot: self._start_replica(options, slot), lambda: self._start_groups(options)
        )

    def _start_replica(self, options: BrokerOptions, slot: int) -> None:
        key = (options.broker_id, slot)
        # The broker's own thread and `start_replica` may come at once: only one of them starts it.
        with self._starting:
            if key not in self._stopped and key not in self.replicas:
                self.replicas[key] = PartitionReplica(options, slot)

    def _start_groups(self, options: BrokerOptions) -> None:
        broker_id = options.broker_id
        with self._starting:
            if (broker_id, GROUPS) not in self._stopped and broker_id not in self.groups:
                self.groups[broker_id] = GroupCoordinator(options)

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Waits until all brokers and replica actors serve."""
        deadline = time.monotonic() + timeout_s
        for broker in self.brokers.values():
            _wait(broker.ready, deadline - time.monotonic(), "a broker", broker)
        wanted = {(b, slot) for b in self.brokers for slot in range(self.pool_size)} - self._stopped
        poll = _Poll(deadline)
        while not wanted <= set(self.replicas):
            poll.wait(f"replica actors {sorted(wanted - set(self.replicas))} are not started")
        for key in wanted:
            _wait(self.replicas[key].ready, deadline - time.monotonic(), "a replica actor", self.replicas[key])

    def stop(self) -> None:
        """Stops everything, cleanly; first the coordinators: they would elect other leaders meanwhile."""
        for coordinator in sorted(self.coordinators.values(), key=lambda one: one.active):
            coordinator.stop()
        for broker in self.brokers.values():
            broker.stop()
        for groups in self.groups.values():
            groups.stop()
        for replica in self.replicas.values():
            replica.stop()
        self.brokers.clear()
        self.groups.clear()
        self.replicas.clear()

    # --- one by one --------------------------------------------------------------------------------------------------

    def stop_replica(self, broker_id: int, slot: int = 0) -> None:
        """Stops a replica actor; its broker does not start it again until `start_replica`."""
        self._stopped.add((broker_id, slot))
        self.replicas.pop((broker_id, slot)).stop()

    def start_replica(self, broker_id: int, slot: int = 0, timeout_s: float = 20.0) -> PartitionReplica:
        """Starts a replica actor that was stopped: a new incarnation on the same directory and port."""
        self._stopped.discard((broker_id, slot))
        self._start_replica(self.brokers[broker_id].options, slot)
        replica = self.replicas[broker_id, slot]
        _wait(replica.ready, timeout_s, "a replica actor", replica)
        return replica

    def stop_groups(self, broker_id: int) -> None:
        """Stops a group coordinator; its broker does not start it again until `start_groups`."""
        self._stopped.add((broker_id, GROUPS))
        self.groups.pop(broker_id).stop()

    def start_groups(self, broker_id: int, timeout_s: float = 20.0) -> GroupCoordinator:
        """Starts a group coordinator that was stopped: a new incarnation on the same port."""
        self._stopped.discard((broker_id, GROUPS))
        self._start_groups(self.brokers[broker_id].options)
        made = self.groups[broker_id]
        _wait(made.ready, timeout_s, "a group coordinator", made)
        return made

    def stop_broker(self, broker_id: int) -> None:
        """Stops a broker with all beside it in order: first others lead what it leads."""
        self._stopped |= {(broker_id, slot) for slot in (GROUPS, *range(self.pool_size))}
        broker = self.brokers.pop(broker_id)
        broker.leave()
        broker.stop()
        groups = self.groups.pop(broker_id, None)
        if groups is not None:
            groups.stop()
        for slot in range(self.pool_size):
            self.replicas.pop((broker_id, slot)).stop()

    def restart_broker(self, broker_id: int, timeout_s: float = 20.0) -> None:
        """Starts a broker that was stopped, on the same directory, and waits until all of it serves."""
        self._stopped -= {(broker_id, slot) for slot in (GROUPS, *range(self.pool_size))}
        self.start_broker(broker_id, self._cluster_id)
        self.wait_ready(timeout_s)

    def stop_coordinator(self, coordinator_id: int | None = None) -> int:
        """Stops a coordinator, None: the active one; what runs goes on without it. Gives its id."""
        stopped = self.coordinator.options.coordinator_id if coordinator_id is None else coordinator_id
        self.coordinators[stopped].stop()
        return stopped


class _Poll:
    """Waits in small steps until a deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def wait(self, what: str) -> None:
        if time.monotonic() > self._deadline:
            raise RequestTimeout(what)
        time.sleep(0.01)


def _wait(event: Any, timeout_s: float, what: str, who: Any) -> None:
    if not event.wait(max(0.0, timeout_s)):
        raise RequestTimeout(f"{what} did not come up: {who.report()}")
