"""The broker: owns a directory, sees that the processes beside it run (its replica actors, and, once there are consumer
groups, its group coordinator), answers metadata requests, hands out producer ids.

It knows the cluster by following the metadata log, so it answers clients also while the coordinator is away.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rayqueue.actors.alive import AliveServer
from rayqueue.actors.calls import typed
from rayqueue.actors.coordinator_addresses import CoordinatorAddresses, kept_addresses
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.driver import die
from rayqueue.actors.flight import FlightServer
from rayqueue.actors.group_finding import find_group_coordinator
from rayqueue.actors.hang_watch import COORDINATOR_STOPPED_AFTER, HangWatch
from rayqueue.actors.identity import (
    BrokerIdentity,
    DirectoryLock,
    bind_server,
    groups_lock,
    read_json,
    replica_lock,
    write_json,
)
from rayqueue.actors.logs import write_logs
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.actors.metadata_service import answer_metadata
from rayqueue.actors.options import BrokerOptions, ProcessReport
from rayqueue.actors.process import prepare_process
from rayqueue.actors.process_watch import ProcessWatch
from rayqueue.actors.producer_ids import ProducerIds
from rayqueue.actors.progress import Progress
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination.records import GroupActorRecord, Record, ReplicaActorRecord, TopicRecord
from rayqueue.coordination.state import ClusterState
from rayqueue.coordination.views import describe_cluster
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ProcessReplaced, RayQueueError
from rayqueue.protocol.group_messages import FindGroupCoordinator, GroupCoordinatorAddress
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    ControlledShutdownRequest,
    ControlledShutdownResponse,
    CreateTopicsRequest,
    Empty,
    Identity,
    MetadataRequest,
    MetadataResponse,
    RegisterBroker,
    Registered,
    TopicsResponse,
)

log = logging.getLogger(__name__)

COORDINATOR_TIMEOUT_S = 10.0
RETRY_S = 0.1
RETRY_MAX_S = 1.0
# Longest wait of a metadata request for an index that has not come yet.
METADATA_WAIT_S = 2.0
# How often it looks whether its replica actors could be started.
LOOK_S = 0.5
# A broker that leaves waits so long for others to be in sync with what nobody else could lead.
LEAVE_TIMEOUT_S = 30.0
LEAVE_RETRY_S = 0.25


class Broker:
    """A broker's process. A plain class: Ray is applied in `actors.handles`.

    The constructor returns at once and raises nothing that may pass; `report` says how far it has come.

    Args:
        options: see there.
        start_replica: starts the replica actor of a slot unless it runs already; must not wait for it to be up. It is
            called again when the actor does not answer. From `pool_size` on: one that stands by.
        start_groups: the same for its group coordinator.
        on_failure: called when this process must not go on.
    """

    def __init__(
        self,
        options: BrokerOptions,
        start_replica: Callable[[int], None],
        start_groups: Callable[[], None],
        on_failure: Callable[[BaseException], None] = die,
    ) -> None:
        if options.logging.file:  # the process is all ours
            write_logs(options.logging)
            prepare_process()
        self.options = options
        self._on_failure = on_failure
        self.incarnation = uuid.uuid4().hex
        self.progress = Progress()
        self._directory = Path(options.directory)
        self._lock = DirectoryLock(self._directory / "lock")
        self._stopping = threading.Event()
        self._addresses = CoordinatorAddresses(
            [*options.coordinators, *kept_addresses(self._directory)], keep_in=self._directory
        )
        self._coordinator = CoordinatorChannel(self._addresses, options.cluster_id, options.token)
        self._follower = MetadataFollower(
            self._addresses,
            options.cluster_id,
            options.token,
            self.incarnation,
            self._on_metadata,
            topic_defaults=options.config.topic_defaults,
            on_failure=on_failure,
        )
        self._following = False
        self._registered_at = 0  # index of the metadata log just after our registration
        self._start_replica = start_replica
        self._start_groups = start_groups
        self._watches = [
            ProcessWatch(
                f"replica actor {slot}",
                partial(self._registered, slot),
                partial(start_replica, slot),
                replica_lock(self._directory, slot),
                options.token,
            )
            for slot in range(options.pool_size)
        ]
        self._groups_watch = ProcessWatch(
            "group coordinator",
            self._groups_registered,
            self._start_wanted_groups,
            groups_lock(self._directory),
            options.token,
        )
        self._watches.append(self._groups_watch)
        data_dir = Path(options.data_dir)
        self._coordinator_watch = HangWatch(lambda: data_dir.glob("coordinator-*/lock"), COORDINATOR_STOPPED_AFTER)
        self._alive: AliveServer | None = None
        self._current = threading.Event()  # our image of the cluster is at least as new as our registration
        self._server: FlightServer | None = None
        self._producer_ids = ProducerIds(self._coordinator, options.broker_id)
        self._starter = threading.Thread(target=self._run, name="broker", daemon=True)
        self._starter.start()

    def __repr__(self) -> str:
        return f"Broker({self.options.broker_id}, {self.progress.state})"

    # --- start and stop ----------------------------------------------------------------------------------------------

    @property
    def ready(self) -> threading.Event:
        """Set while it serves: registered, and its image holds the registration."""
        return self.progress.ready

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port if self._server else 0

    def _run(self) -> None:
        """The start, then what the watches over the processes say, until `stop`."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                self._serve()
                break
            except ProcessReplaced as error:  # an earlier request of ours was taken, then a late one of who is over
                self._on_failure(error)
                return
            except Exception as error:  # of any kind: a thread that ended here would say nothing, and never try again
                if self._stopping.is_set():
                    return
                if isinstance(error, RayQueueError) and error.retriable:
                    self.progress.waiting(str(error), type(error).__name__)
                else:
                    self.progress.failed(error)
            attempt += 1
            self._stopping.wait(min(RETRY_MAX_S, RETRY_S * 2**attempt))
        else:
            return
        for watch in self._watches:
            watch.start()
        self._coordinator_watch.start()
        standing_by = False
        while not self._stopping.wait(LOOK_S):
            problem = next((watch.problem for watch in self._watches if watch.problem is not None), None)
            if problem is not None:
                self.progress.failed(problem)
            elif not self.ready.is_set():
                self.progress.running()
            if not standing_by and all(self._registered(slot) for slot in range(self.options.pool_size)):
                standing_by = self._start_standbys()  # not before: the start of those would take longer

    def _serve(self) -> None:
        """Lock, identity, port, registration; each step is done once, so it can be called again after an error."""
        if not self._lock.acquire(self._stopping, self.progress.waiting):
            return
        if self._alive is None:
            # What requests for metadata take: one whose image is locked for ever does not pass for one that serves.
            self._alive = AliveServer(self._lock.path, lambda: self._follower.read(lambda *_: None))
        identity = self._identity()
        if self._server is None:
            self._server = bind_server(
                self._directory,
                "broker",
                self.options.listen_host,
                self._listen,
                self._stopping,
                self.options.port,
                self.progress.waiting,
            )
        self._registered_at = self._register(identity, self._server.port)
        if not self._following:
            self._following = True
            self._follower.start()
        # The registration is on the disk of the coordinator, so its log will come; only then do we know ourselves.
        while not self._follower.wait_for(self._registered_at, RETRY_MAX_S):
            if self._stopping.is_set():
                return
        self._producer_ids.have_some()  # now: new producers want one also while no coordinator is active
        self._current.set()
        log.info("broker %d serves on port %d", self.options.broker_id, self.port)
        self.progress.running()

    def _identity(self) -> BrokerIdentity:
        """Reads who this directory belongs to; an empty one becomes ours.

        Raises:
            ClusterMismatch: it belongs to another cluster or broker. StorageError.
        """
        options = self.options
        path = self._directory / "identity.json"
        identity = read_json(path, BrokerIdentity)
        if identity is None:
            identity = BrokerIdentity(options.cluster_id, options.broker_id, uuid.uuid4().hex)
            write_json(path, identity)
        if (identity.cluster_id, identity.broker_id) != (options.cluster_id, options.broker_id):
            raise ClusterMismatch(
                f"{self._directory} belongs to broker {identity.broker_id} of cluster {identity.cluster_id}, not to "
                f"broker {options.broker_id} of cluster {options.cluster_id}: use another data_dir"
            )
        return identity

    def _listen(self, port: int) -> FlightServer:
        options = self.options
        me = Identity(PROTOCOL_VERSION, options.cluster_id, "broker", options.broker_id, self.incarnation, os.getpid())
        return FlightServer(
            options.listen_host,
            port,
            token=options.token,
            identity=me,
            actions={
                "metadata": typed(MetadataRequest, self._metadata),
                "find_group_coordinator": typed(FindGroupCoordinator, self._find_group_coordinator),
                "init_producer_id": typed(Empty, lambda _: self._producer_ids.next()),
            },
            max_message_bytes=options.config.socket_request_max_bytes,
        )

    def _register(self, identity: BrokerIdentity, port: int) -> int:
        options = self.options
        request = RegisterBroker(
            identity.broker_id,
            identity.directory_id,
            self.incarnation,
            options.advertised_host,
            port,
            options.node_id,
            options.pool_size,
        )
        return self._coordinator.call("register_broker", request, Registered, COORDINATOR_TIMEOUT_S).index

    def leave(self, timeout_s: float = LEAVE_TIMEOUT_S) -> int:
        """Has others lead what the replica actors here lead, before all of them are stopped: then nobody notices.

        Returns:
            Partitions that are led here still, as others that could lead are not in sync: like those that nobody else
            holds, they have no leader until this broker is back.

        Raises:
            RayQueueError: the coordinator does not answer, or this process has a successor.
        """
        deadline = time.monotonic() + timeout_s
        request = ControlledShutdownRequest(self.options.broker_id, self.incarnation)
        while True:
            answer = self._coordinator.call(
                "controlled_shutdown", request, ControlledShutdownResponse, COORDINATOR_TIMEOUT_S + RETRY_MAX_S
            )
            if not answer.remaining or time.monotonic() + LEAVE_RETRY_S > deadline:
                return answer.remaining
            self._stopping.wait(LEAVE_RETRY_S)

    def stop(self) -> None:
        """Stops serving, and lets go of the directory and the port. The processes beside it go on."""
        self._stopping.set()
        self._coordinator.close()
        self._starter.join(COORDINATOR_TIMEOUT_S)
        self._coordinator_watch.stop()
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.join(COORDINATOR_TIMEOUT_S)
        self._coordinator_watch.join(COORDINATOR_TIMEOUT_S)
        self._follower.stop()
        if self._server is not None:
            self._server.shutdown()
        if self._alive is not None:
            self._alive.close()
        self._lock.release()

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        return self.progress.report(
            "broker",
            self.incarnation,
            (self.options.advertised_host, self.port),
            node_id=self.options.node_id,
            directory=str(self._directory),
            log_file=self.options.logging.file,
        )

    def _registered(self, slot: int) -> ReplicaActorRecord | None:
        """What the metadata log says of a replica actor of ours."""
        key = self.options.broker_id, slot
        return self._follower.read(lambda state, index, epoch: state.replica_actors.get(key))

    def _groups_registered(self) -> GroupActorRecord | None:
        """What the metadata log says of our group coordinator."""
        return self._follower.read(lambda state, index, epoch: state.group_actors.get(self.options.broker_id))

    def _start_wanted_groups(self) -> None:
        """Starts the group coordinator, if there is anything for it to do: a cluster without groups has none."""
        if self._follower.read(lambda state, index, epoch: self.options.broker_id in state.group_brokers()):
            self._start_groups()

    def _start_standbys(self) -> bool:
        """Starts the processes that stand by; once is enough, Ray restarts them. Whether that went well."""
        options = self.options
        try:
            for place in range(options.pool_size, options.pool_size + options.standbys):
                self._start_replica(place)
        except Exception:  # of any kind: nothing depends on it, and it is tried again
            log.exception("no process stands by")
            return False
        return True

    # --- actions (gRPC's threads) ------------------------------------------------------------------------------------

    def _on_metadata(self, state: ClusterState, records: list[Record], end: int, coordinator_epoch: int) -> None:
        """On the follower's thread. The image is all that a broker needs, unless it is not its own."""
        if any(isinstance(record, TopicRecord) and record.name == GROUPS_TOPIC for record in records):
            self._groups_watch.look()
        mine = state.brokers.get(self.options.broker_id)
        if mine is None or end < self._registered_at or self._stopping.is_set():
            return
        if mine.incarnation != self.incarnation:
            # As in a replica actor: we hold the directory's lock, so that one is over, and was heard late.
            self._on_failure(ProcessReplaced(f"process {mine.incarnation} is registered in our place"))

    def _metadata(self, request: MetadataRequest) -> MetadataResponse:
        return answer_metadata(request, self.options.config, self._read, self._create)

    def _read(self, request: MetadataRequest) -> MetadataResponse:
        if not self._current.is_set():
            # An image that is still being read would say of topics that they do not exist.
            raise BrokerNotAvailable(f"broker {self.options.broker_id} is starting: try again")
        self._follower.wait_for(request.min_index, METADATA_WAIT_S)
        address = self._addresses.active or self.options.coordinators[0]
        return self._follower.read(lambda state, index, epoch: describe_cluster(state, request, index, address, epoch))

    def _create(self, request: CreateTopicsRequest) -> TopicsResponse:
        timeout_s = request.timeout_ms / 1000 + COORDINATOR_TIMEOUT_S
        return self._coordinator.call("create_topics", request, TopicsResponse, timeout_s)

    def _find_group_coordinator(self, request: FindGroupCoordinator) -> GroupCoordinatorAddress:
        if not self._current.is_set():
            raise BrokerNotAvailable(f"broker {self.options.broker_id} is starting: try again")
        return find_group_coordinator(request, self._follower, self._coordinator)
