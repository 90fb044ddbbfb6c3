"""What the processes are started with. They travel through Ray's pickle and stay the same across restarts."""

from __future__ import annotations

import msgspec

from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.cluster_rules import COORDINATOR_PORT_OFFSET, GROUPS_PORT_OFFSET, REPLICA_PORT_OFFSET
from rayqueue.coordination.quorum.status import QuorumStatus
from rayqueue.coordination.records import BrokerRecord, CoordinatorRecord, ReplicaActorRecord
from rayqueue.protocol.messages import MetadataResponse

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})


class Logging(msgspec.Struct, frozen=True):
    """Where a process writes its log. file: "" for none of its own (as in tests within one process)."""

    file: str = ""
    level: str = "INFO"

    @classmethod
    def of(cls, data_dir: str, process: str, level: str) -> Logging:
        """In `<data_dir>/logs/<process>.log`."""
        return cls(f"{data_dir}/logs/{process}.log", level)


class CoordinatorOptions(msgspec.Struct, frozen=True):
    """Of the coordinator.

    Attributes:
        name: the cluster's.
        coordinator_id: which of the cluster's it is.
        data_dir: the directory on its node; it uses `coordinator-<id>/` in it.
        asked_data_dir: as it was asked for: `~` is the home of whoever runs on a node, also on one that joins later.
        listen_host, advertised_host: where it listens, what others are told.
        brokers: wanted; None: one on every node, -1: somebody else starts them.
        needs_token: whether callers need a token: `config.token`, or one made and kept in data_dir.
        loopback: nobody outside this machine can reach the cluster.
        node_id: Ray's.
        python_path: the directory with rayqueue, for workers that do not find it by themselves; "": they do.
        cluster_id: the cluster whose metadata it is to keep a copy of; "": what its directory holds, or is told to.
        peers: where coordinators listen, by id, for one whose directory does not know.
        token: to be kept in data_dir, where it needs one and the configuration has none.
    """

    name: str
    data_dir: str
    listen_host: str
    advertised_host: str
    config: BrokerConfig
    asked_data_dir: str = ""
    brokers: int | None = -1
    needs_token: bool = False
    loopback: bool = True
    node_id: str = ""
    logging: Logging = Logging()
    python_path: str = ""
    coordinator_id: int = 0
    cluster_id: str = ""
    peers: tuple[tuple[int, tuple[str, int]], ...] = ()
    token: str | None = None

    @property
    def directory(self) -> str:
        """The coordinator's own directory."""
        return f"{self.data_dir}/coordinator-{self.coordinator_id}"

    @property
    def port(self) -> int:
        """The port that was set, or 0."""
        return self.config.port + COORDINATOR_PORT_OFFSET + self.coordinator_id if self.config.port else 0


class BrokerOptions(msgspec.Struct, frozen=True):
    """Of a broker.

    Attributes:
        data_dir: the directory on its node; it uses `<broker_id>/` in it.
        coordinators: hosts and ports; any of them may be the active one.
        node_id: Ray's. pool_size: replica actors. standbys: processes more than that, which stand by.
    """

    name: str
    cluster_id: str
    broker_id: int
    data_dir: str
    listen_host: str
    advertised_host: str
    coordinators: tuple[tuple[str, int], ...]
    token: str | None
    config: BrokerConfig
    node_id: str = ""
    pool_size: int = 1
    standbys: int = 0
    logging: Logging = Logging()
    python_path: str = ""

    @property
    def directory(self) -> str:
        """The broker's own directory."""
        return f"{self.data_dir}/{self.broker_id}"

    @property
    def port(self) -> int:
        """The port that was set, or 0."""
        return self.config.port + self.broker_id if self.config.port else 0

    def replica_port(self, slot: int) -> int:
        """The port that was set for a replica actor, or 0."""
        if not self.config.port:
            return 0
        return self.config.port + REPLICA_PORT_OFFSET + self.broker_id * self.pool_size + slot

    @property
    def groups_port(self) -> int:
        """The port that was set for the group coordinator, or 0."""
        return self.config.port + GROUPS_PORT_OFFSET + self.broker_id if self.config.port else 0

    @property
    def groups_logging(self) -> Logging:
        """Where the group coordinator writes its log."""
        if not self.logging.file:
            return Logging()
        return Logging.of(self.data_dir, f"broker-{self.broker_id}-groups", self.logging.level)

    def replica_logging(self, slot: int) -> Logging:
        """Where a replica actor writes its log."""
        if not self.logging.file:
            return Logging()
        return Logging.of(self.data_dir, f"broker-{self.broker_id}-replica-{slot}", self.logging.level)


class ProcessReport(msgspec.Struct):
    """What a process says of itself, through Ray.

    Attributes:
        role: "coordinator", "broker", "replica" or "groups".
        state: "starting", "running", "waiting" or "failed"; problem: why it is not running, "" when it is.
        error: class name of a problem that is an error.
        started_ms: when this incarnation began, ms since the epoch: Ray restarts a process that crashed without a word.
        standing: of a coordinator: "active", "standby", or "empty" (no cluster's yet).
        slot: the one that a replica actor serves; -1: none.
    """

    role: str
    pid: int
    incarnation: str
    state: str
    problem: str = ""
    error: str = ""
    host: str = ""
    port: int = 0
    node_id: str = ""
    directory: str = ""
    log_file: str = ""
    started_ms: int = 0
    standing: str = ""
    slot: int = -1


class ClusterOverview(msgspec.Struct):
    """What the coordinator says of the cluster, through Ray.

    Attributes:
        bootstrap_servers, token: what a client needs.
        options: what the coordinator runs with.
        metadata: brokers, topics, leaders. brokers, replica_actors: as registered.
        watching: incarnations of the processes that follow the metadata log at present.
        missing: what is not there yet that should be, in words, by the name of the actor; empty: all serve.
        problems: nodes that cannot be used, and why.
        coordinators: as registered. quorum: as the active one sees it.
    """

    bootstrap_servers: str
    token: str | None
    options: CoordinatorOptions
    metadata: MetadataResponse
    brokers: list[BrokerRecord]
    replica_actors: list[ReplicaActorRecord]
    watching: list[str]
    missing: dict[str, str]
    problems: list[str]
    coordinators: list[CoordinatorRecord]
    quorum: QuorumStatus
