"""The group coordinator: the actor beside a broker that serves the consumer groups whose shards the broker leads.

The state of a shard lies in its partition of the topic of groups, nothing of it here: a group coordinator has no data,
only a lock, so that one process of a broker at a time serves, and a port. One loop takes what members, clients, the
metadata log and the leaders of the partitions say, and has the shards' machines step.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the builtin one only from Python 3.11 on
from pathlib import Path
from typing import Any

from rayqueue.actors.calls import Action, typed
from rayqueue.actors.coordinator_addresses import CoordinatorAddresses, kept_addresses
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.driver import Driver, die
from rayqueue.actors.exchange import Exchange
from rayqueue.actors.group_batches import Latest
from rayqueue.actors.group_finding import shard_of
from rayqueue.actors.group_log import Answered, ShardLog
from rayqueue.actors.group_places import Places, PlacesFollower
from rayqueue.actors.group_reading import Place
from rayqueue.actors.group_sessions import GroupSession, Heartbeat, SessionEnded
from rayqueue.actors.group_shards import NO_GROUPS, Ask, Shards, replay_all
from rayqueue.actors.identity import DirectoryLock, bind_server, groups_lock
from rayqueue.actors.logs import write_logs
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.actors.options import BrokerOptions, ProcessReport
from rayqueue.actors.process import prepare_process
from rayqueue.actors.progress import Progress
from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.records import Record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import NotGroupCoordinator, ProcessReplaced, RayQueueError, RequestTimeout
from rayqueue.groups.config import GroupConfig
from rayqueue.protocol.group_messages import (
    DeleteGroupRequest,
    DescribeGroupRequest,
    ListGroupsRequest,
    ListGroupsResponse,
    OffsetCommitRequest,
    OffsetFetchRequest,
)
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, Registered, RegisterGroupActor

log = logging.getLogger(__name__)

REGISTER_TIMEOUT_S = 5.0
REGISTER_RETRY_S = 0.02
REGISTER_RETRY_MAX_S = 0.5
START_RETRY_S = 1.0
STOP_TIMEOUT_S = 10.0
JOIN_TIMEOUT_S = 2.0
# A request waits so long for its records to be committed; what becomes of it then is not known.
REQUEST_TIMEOUT_S = 30.0


def group_config(config: BrokerConfig) -> GroupConfig:
    """What the cluster's settings say of groups."""
    return GroupConfig(
        disconnect_grace_ms=config.group_disconnect_grace_ms,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        metadata_bytes_max=config.offset_metadata_max_bytes,
    )


class GroupCoordinator:
    """A broker's group coordinator. A plain class: Ray is applied in `actors.handles`.

    The constructor returns at once and raises nothing that may pass; `report` says how far it has come.

    Args:
        options: its broker's.
        on_failure: called when this process must not go on.
    """

    def __init__(self, options: BrokerOptions, on_failure: Callable[[BaseException], None] = die) -> None:
        if options.logging.file:  # the process is all ours
            write_logs(options.logging)
            prepare_process()
        self.options = options
        self.incarnation = uuid.uuid4().hex
        self.progress = Progress()
        self._on_failure = on_failure
        self._root = Path(options.directory)
        self._lock = DirectoryLock(groups_lock(self._root))
        self._addresses = CoordinatorAddresses([*options.coordinators, *kept_addresses(self._root)])
        self._coordinator = CoordinatorChannel(self._addresses, options.cluster_id, options.token)
        self._driver = Driver("groups", self._handle, self._next_deadline_ms, on_failure=on_failure)
        self._shards = Shards(options.broker_id, group_config(options.config), self._open_log)
        self._places = PlacesFollower(options.broker_id)
        self._told: Places | None = None
        self._registered_at = 0  # index of the metadata log just after our registration
        self._server: DataServer | None = None
        self._follower: MetadataFollower | None = None
        self._stopping = threading.Event()
        self._starter = threading.Thread(target=self._start, name="groups-start", daemon=True)
        self._starter.start()

    def __repr__(self) -> str:
        return f"GroupCoordinator(broker {self.options.broker_id}, {self._shards})"

    # --- start and stop ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> threading.Event:
        """Set while it serves what it leads."""
        return self.progress.ready

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port if self._server else 0

    def _start(self) -> None:
        try:
            self._driver.start()
            while not self._stopping.is_set():
                try:
                    self._listen_somewhere()
                    break
                except (RayQueueError, OSError) as error:  # a full disk, a lost mount: `status` says so until it passes
                    self.progress.failed(error)
                    self._stopping.wait(START_RETRY_S)
            if self._server is not None:
                self._register(self._server.port)
        except BaseException as error:
            if not self._stopping.is_set():
                self._on_failure(error)

    def _listen_somewhere(self) -> None:
        """Lock and port: who has the lock is the only one that serves."""
        options = self.options
        if not self._lock.acquire(self._stopping, self.progress.waiting):
            return
        self._server = bind_server(
            self._root,
            "groups",
            options.listen_host,
            self._listen,
            self._stopping,
            options.groups_port,
            self.progress.waiting,
        )

    def _listen(self, port: int) -> DataServer:
        options = self.options
        identity = Identity(
            PROTOCOL_VERSION, options.cluster_id, "group coordinator", options.broker_id, self.incarnation, os.getpid()
        )
        return DataServer(
            options.listen_host,
            port,
            token=options.token,
            identity=identity,
            max_message_bytes=options.config.socket_request_max_bytes,
            actions={
                "offset_commit": self._of_group(OffsetCommitRequest),
                "offset_fetch": self._of_group(OffsetFetchRequest),
                "describe_group": self._of_group(DescribeGroupRequest),
                "delete_group": self._of_group(DeleteGroupRequest),
                "list_groups": typed(ListGroupsRequest, self._list_groups),
            },
            exchanges={"group": self._session},
        )

    def _register(self, port: int) -> None:
        """Tells the coordinator that this process is here, until it hears; then follows the metadata log."""
        options = self.options
        request = RegisterGroupActor(options.broker_id, self.incarnation, options.advertised_host, port)
        attempt = 0
        while not self._stopping.is_set():
            try:
                answer = self._coordinator.call("register_group_actor", request, Registered, REGISTER_TIMEOUT_S)
                self._registered_at = answer.index
                break
            except ProcessReplaced:
                raise  # an earlier one of our requests was taken, then a late one of a process that is over
            except RayQueueError as error:
                self.progress.waiting(f"the coordinator does not take the registration yet: {error}")
                attempt += 1
                self._stopping.wait(min(REGISTER_RETRY_MAX_S, REGISTER_RETRY_S * 2**attempt))
        else:
            return
        self._follower = MetadataFollower(
            self._addresses,
            options.cluster_id,
            options.token,
            self.incarnation,
            self._on_metadata,
            topic_defaults=options.config.topic_defaults,
            on_failure=self._on_failure,
        )
        self._follower.start()

    def stop(self) -> None:
        """Stops serving: whoever waits is refused; another one takes over what is led elsewhere by then."""
        self._stopping.set()
        self._coordinator.close()
        self._starter.join(STOP_TIMEOUT_S)
        if self._follower is not None:
            self._follower.stop()
        logs = self._driver.call(self._shards.close)
        self._driver.stop()
        for one in logs:
            one.join(JOIN_TIMEOUT_S)
        if self._server is not None:
            self._server.shutdown()
        self._lock.release()

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        return self.progress.report(
            "groups",
            self.incarnation,
            (self.options.advertised_host, self.port),
            node_id=self.options.node_id,
            directory=str(self._root),
            log_file=self.options.logging.file,
        )

    # --- the metadata log -------------------------------------------------------------------------------------------

    def _on_metadata(self, state: ClusterState, records: list[Record], end: int, coordinator_epoch: int) -> None:
        """On the follower's thread, so the state does not move meanwhile."""
        places = self._places.follow(state, records)
        if places != self._told:
            self._told = places
            self._driver.post(places)
        mine = state.group_actors.get(self.options.broker_id)
        if mine is not None and mine.incarnation == self.incarnation:
            self.progress.running()
        elif mine is not None and end >= self._registered_at and not self._stopping.is_set():
            # As in a replica actor: we hold the lock, so that one is over, and was heard late.
            self._on_failure(ProcessReplaced(f"process {mine.incarnation} is registered in our place"))

    # --- exchanges and actions (their connections' threads) ----------------------------------------------------------

    def _session(self, exchange: Exchange) -> None:
        GroupSession(exchange, self._driver.submit).run()

    def _of_group(self, kind: type[Any]) -> Action:
        """The action of a request that is about one group."""
        return typed(kind, lambda request: self._ask(self._shard_of(request.group_id), request))

    def _shard_of(self, group_id: str) -> int:
        count = self._shards.count
        if not count:
            raise NotGroupCoordinator(NO_GROUPS)
        return shard_of(group_id, count)

    def _list_groups(self, request: ListGroupsRequest) -> ListGroupsResponse:
        asked = self._shards.served if request.shard < 0 else [request.shard]
        answers = [self._ask(shard, ListGroupsRequest(shard)) for shard in asked]
        return ListGroupsResponse([group for answer in answers for group in answer.groups])

    def _ask(self, shard: int, message: Any) -> Any:
        """Asks a shard's machine.

        Raises:
            RequestTimeout: what was asked for may have been done or not. RayQueueError: what it answers.
        """
        answer: Future[Any] = Future()
        self._driver.submit(Ask(shard, message, answer.set_result))
        try:
            result = answer.result(REQUEST_TIMEOUT_S)
        except FutureTimeoutError:
            raise RequestTimeout("the group coordinator did not come to this request in time") from None
        if isinstance(result, RayQueueError):
            raise result
        return result

    # --- the logs of the shards (their threads) ----------------------------------------------------------------------

    def _open_log(self, place: Place) -> ShardLog:
        made = ShardLog(
            place,
            incarnation=self.incarnation,
            cluster_id=self.options.cluster_id,
            token=self.options.token,
            took_over=self._took_over,
            post=self._driver.submit,
            lost=self._lost,
        )
        made.start()
        return made

    def _took_over(self, log_: ShardLog, latest: Latest) -> None:
        replay_all(log_, latest, self._driver.call, self._shards)

    def _lost(self, log_: ShardLog, reason: str) -> None:
        self._driver.call(lambda: self._shards.lost(log_, reason))

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _handle(self, taken: list[Any], now_ms: int, wall_ms: int) -> None:
        for event in taken:
            match event:
                case Heartbeat():
                    self._shards.heartbeat(event)
                case Ask():
                    self._shards.ask(event)
                case Answered():
                    self._shards.answered(event, now_ms)
                case Places():
                    self._shards.placed(event)
                case SessionEnded():
                    self._shards.ended(event.session)
                case _:
                    raise TypeError(f"no such event: {event!r}")
        self._shards.tick(now_ms, wall_ms)

    def _next_deadline_ms(self) -> int | None:
        return self._shards.next_deadline_ms()
