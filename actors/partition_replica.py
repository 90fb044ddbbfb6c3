"""The replica actor: hosts partition replicas, serves producers and consumers, follows the metadata log.

A process start is a new incarnation. It registers with the coordinator, which commits new leader epochs for what this
actor leads; only when the actor reads of its own incarnation in the metadata log does it lead, under those epochs.
The constructor never fails for what may pass (a lock still held, a coordinator that is away): it waits in a thread.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayqueue.actors.calls import typed
from rayqueue.actors.coordinator_addresses import CoordinatorAddresses, kept_addresses
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.driver import Driver, boot_ms, die, wall_ms
from rayqueue.actors.exchange import Exchange
from rayqueue.actors.feed_throttle import FeedThrottle
from rayqueue.actors.fetch_stream import FetchStream
from rayqueue.actors.follow_stream import Followed, FollowStream
from rayqueue.actors.hosted_partition import HostedPartition, Listener
from rayqueue.actors.identity import DirectoryLock, bind_server, replica_lock
from rayqueue.actors.leader_link import FollowerEvent
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.actors.options import BrokerOptions, ProcessReport
from rayqueue.actors.partition_queries import delete_records, describe_log, list_offsets
from rayqueue.actors.partition_table import PartitionTable
from rayqueue.actors.produce_stream import ByteBudget, ProduceStream, Request
from rayqueue.actors.progress import Progress
from rayqueue.actors.replica_hands import CompactionDone, CutDone, Later, ReplicaHands
from rayqueue.actors.start_mark import StartMark
from rayqueue.coordination.records import Record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import ProcessReplaced, RayQueueError
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    DeleteRecordsRequest,
    DescribeLogsResponse,
    Empty,
    FollowHello,
    Identity,
    ListOffsetsRequest,
    ProduceResult,
    Registered,
    RegisterReplicaActor,
    Welcome,
)
from rayqueue.replication import events as ev
from rayqueue.replication.limits import Limits
from rayqueue.storage.files import OsFiles

log = logging.getLogger(__name__)

REGISTER_TIMEOUT_S = 5.0
START_RETRY_S = 1.0
STOP_TIMEOUT_S = 30.0
RETAINED_A_TURN = 8


class PartitionReplica:
    """The replica actor of a slot. Ray runs it inside of a `replica_process.PartitionReplicaProcess`.

    Args:
        options: its broker's.
        slot: which of the broker's replica actors, 0 to pool_size - 1.
        on_failure: called when this process must not go on.
        lock: the slot's (`identity.replica_lock`), held or not; None: its own.
    """

    def __init__(
        self,
        options: BrokerOptions,
        slot: int,
        on_failure: Callable[[BaseException], None] = die,
        lock: DirectoryLock | None = None,
    ) -> None:
        self.options = options
        self.slot = slot
        self.progress = Progress()
        self._on_failure = on_failure
        self.incarnation = uuid.uuid4().hex
        self._root = Path(options.directory)
        self._files = OsFiles()
        self._budget = ByteBudget(options.config.queued_max_bytes)
        self._driver = Driver("replica", self._handle, self._next_deadline_ms, on_failure=on_failure)
        self._addresses = CoordinatorAddresses([*options.coordinators, *kept_addresses(self._root)])
        self._coordinator = CoordinatorChannel(self._addresses, options.cluster_id, options.token)
        self._hands = ReplicaHands(
            FollowHello(options.broker_id, slot, self.incarnation),
            options.token,
            self._coordinator,
            self._driver.post,
            self._driver.submit,
            options.config.log_cleaner_dedupe_buffer_size,
            options.config.log_cleaner_io_max_bytes_per_second,
        )
        self._table = PartitionTable(
            self._files,
            self._root,
            options.broker_id,
            slot,
            self.incarnation,
            options.config.socket_request_max_bytes,
            hands=self._hands,
            limits=Limits(options.config.replica_lag_time_max_ms, options.config.replica_fetch_backoff_ms),
        )
        self._throttle = FeedThrottle()
        self._next_retention_ms = 0
        self._to_retain: list[HostedPartition] = []  # of this round; a few a turn, so that records do not wait for it
        self._server: DataServer | None = None
        self._follower: MetadataFollower | None = None
        self._lock = DirectoryLock(replica_lock(self._root, slot)) if lock is None else lock
        self._mark = StartMark(self._root, slot)
        self._unclean = False
        self._registered_at = 0  # index of the metadata log just after our registration
        self._stopping = threading.Event()
        self._starter = threading.Thread(target=self._start, name="replica-start", daemon=True)
        self._starter.start()

    def __repr__(self) -> str:
        return f"PartitionReplica(broker {self.options.broker_id}, slot {self.slot}, {len(self._table)} partitions)"

    # --- start and stop ---------------------------------------------------------------------------------------------

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
        """Lock, nonce, port."""
        options, slot = self.options, self.slot
        if not self._lock.acquire(self._stopping, self.progress.waiting):
            return
        self._unclean = self._mark.begin()
        nonce_path = self._root / f"nonce-{slot}"
        nonce = secrets.token_hex(32)
        nonce_path.write_text(nonce)
        welcome = Welcome(
            PROTOCOL_VERSION,
            options.cluster_id,
            options.broker_id,
            self.incarnation,
            options.config.max_in_flight_requests,
            str(nonce_path),
            nonce,
        )
        self._server = bind_server(
            self._root,
            f"replica-{slot}",
            options.listen_host,
            lambda port: self._listen(port, welcome),
            self._stopping,
            options.replica_port(slot),
            self.progress.waiting,
        )

    def _listen(self, port: int, welcome: Welcome) -> DataServer:
        options = self.options
        identity = Identity(
            PROTOCOL_VERSION, options.cluster_id, "replica", options.broker_id, self.incarnation, os.getpid()
        )
        return DataServer(
            options.listen_host,
            port,
            token=options.token,
            identity=identity,
            welcome=welcome,
            max_message_bytes=options.config.socket_request_max_bytes,
            actions={
                "list_offsets": typed(ListOffsetsRequest, lambda request: list_offsets(self._table.find, request)),
                "delete_records": typed(DeleteRecordsRequest, self._delete_records),
                "describe_logs": typed(Empty, lambda _: self._describe()),
            },
            exchanges={"produce": self._produce, "fetch": self._fetch, "follow": self._follow},
        )

    def _register(self, port: int) -> None:
        """Tells the coordinator that this process is here, until it hears; then follows the metadata log."""
        options = self.options
        host, unclean = options.advertised_host, self._unclean
        request = RegisterReplicaActor(options.broker_id, self.slot, self.incarnation, host, port, unclean)
        attempt = 0
        while not self._stopping.is_set():
            try:
                answer = self._coordinator.call("register_replica_actor", request, Registered, REGISTER_TIMEOUT_S)
                self._registered_at = answer.index
                break
            except ProcessReplaced:
                raise  # an earlier one of our requests was taken, then a late one of a process that is over
            except RayQueueError as error:
                self.progress.waiting(f"the coordinator does not take the registration yet: {error}")
                attempt += 1
                self._stopping.wait(min(0.5, 0.02 * 2**attempt))
        else:
            return
        self._mark.told()
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
        """Stops serving, closes every log cleanly, and lets go of the directory."""
        self._stopping.set()
        self._coordinator.close()
        self._starter.join(10)
        self._driver.call(self._close)
        # A recovery that is still running on the follower's thread writes to its log; it is waited for, and if it takes
        # too long the directory stays locked until the process ends, so that nobody else writes there meanwhile.
        ended = self._follower is None or self._follower.stop(STOP_TIMEOUT_S)
        self._driver.stop()
        self._hands.stop()
        self._throttle.close()
        if ended:
            self._table.unlock()
            if self._table.closed_cleanly:
                self._mark.end()
            self._lock.release()
        if self._server is not None:
            threading.Thread(target=self._server.shutdown, name="data-shutdown", daemon=True).start()

    @property
    def ready(self) -> threading.Event:
        """Set while it serves what it leads."""
        return self.progress.ready

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port if self._server else 0

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        return self.progress.report(
            "replica",
            self.incarnation,
            (self.options.advertised_host, self.port),
            node_id=self.options.node_id,
            directory=str(self._root),
            log_file=self.options.logging.file,
            slot=self.slot,
        )

    # --- the metadata log -------------------------------------------------------------------------------------------

    def _on_metadata(self, state: ClusterState, records: list[Record], end: int, coordinator_epoch: int) -> None:
        """On the follower's thread, so the state does not move meanwhile."""
        if records:
            self._throttle.follow(state)
            self._table.apply(state, records, wall_ms(), self._inside)
        mine = state.replica_actors.get((self.options.broker_id, self.slot))
        if mine is not None and mine.incarnation == self.incarnation:
            self.progress.running()
        elif mine is not None and end >= self._registered_at and not self._stopping.is_set():
            # We hold the slot's lock, so that one is over, and was heard late; or we are, and have not noticed. Nothing
            # of ours is taken any more: the next process of this actor registers anew.
            self._on_failure(ProcessReplaced(f"process {mine.incarnation} is registered in our place"))

    def _inside(self, function: Callable[[], None]) -> None:
        self._driver.call(function, timeout_s=None)

    # --- exchanges and actions (their connections' threads) ----------------------------------------------------------

    def _produce(self, exchange: Exchange) -> None:
        limit = self.options.config.max_in_flight_requests
        ProduceStream(exchange, self._table.find, self._driver.post, self._driver.submit, self._budget, limit).run()

    def _fetch(self, exchange: Exchange) -> None:
        FetchStream(
            exchange, self._table.find, self._listen_to, self._unlisten_to, self.options.config.fetch_max_bytes
        ).run()

    def _follow(self, exchange: Exchange) -> None:
        limit = self.options.config.fetch_max_bytes
        FollowStream(exchange, self._table.find, self._driver.submit, limit, self._throttle).run()

    def _close(self) -> None:
        self._table.close()
        self._hands.close()

    def _listen_to(self, partition: HostedPartition, listener: Listener) -> None:
        def add() -> None:
            partition.listeners = (*partition.listeners, listener)

        self._driver.call(add)

    def _unlisten_to(self, partition: HostedPartition, listener: Listener) -> None:
        def remove() -> None:
            partition.listeners = tuple(one for one in partition.listeners if one != listener)

        self._driver.call(remove)

    def _delete_records(self, request: DeleteRecordsRequest) -> Any:
        return self._driver.call(lambda: delete_records(self._table.find, request, boot_ms(), wall_ms()))

    def _describe(self) -> DescribeLogsResponse:
        return self._driver.call(lambda: DescribeLogsResponse([describe_log(hosted) for hosted in self._table]))

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _handle(self, taken: list[Any], now_ms: int, wall_ms: int) -> None:
        dirty: dict[HostedPartition, None] = {}
        for event in taken:
            match event:
                case Request():
                    self._append(event, dirty, now_ms, wall_ms)
                case list():
                    self._take_fed(event, dirty, now_ms, wall_ms)
                case Followed():
                    event.partition.followed(event, now_ms, wall_ms)
                case Later(partition=partition, event=news):
                    partition.step(news, now_ms, wall_ms)
                case CutDone(partition=partition, event=news):
                    partition.cut_done(news, now_ms, wall_ms)
                case CompactionDone(partition=partition, outcome=outcome):
                    partition.compaction.done(partition, outcome, now_ms, wall_ms)
                case _:
                    raise TypeError(f"no such event: {event!r}")
        for partition in dirty:
            partition.write(now_ms, wall_ms)
        for fed in taken:
            if isinstance(fed, list):
                self._hands.fed(fed)
        self._tick(now_ms, wall_ms)
        self._hands.end_turn()

    @staticmethod
    def _take_fed(events: list[FollowerEvent], dirty: dict[HostedPartition, None], now_ms: int, wall_ms: int) -> None:
        for news in events:
            news.partition.step(news.event, now_ms, wall_ms)
            if news.partition.dirty:
                dirty[news.partition] = None

    def _append(self, request: Request, dirty: dict[HostedPartition, None], now_ms: int, wall_ms: int) -> None:
        for item in request.items:
            partition = item.partition
            if partition.closed:
                request.complete(
                    item.index, ProduceResult(-1, -1, partition.closed, "the partition is not led here any more")
                )
                continue
            partition.step(ev.Produce(item, request.acks, item.batch), now_ms, wall_ms)
            if partition.dirty:
                dirty[partition] = None
        if not request.items:
            request.stream.answer()

    def _tick(self, now_ms: int, wall_ms: int) -> None:
        deadlines = self._hands.deadlines
        for partition in list(deadlines):
            deadline = partition.replica.next_deadline_ms()
            if deadline is not None and deadline <= now_ms:
                partition.step(ev.Tick(), now_ms, wall_ms)
                deadline = partition.replica.next_deadline_ms()
            if deadline is None:
                deadlines.discard(partition)
        self._hands.tick(now_ms)
        if now_ms >= self._next_retention_ms:
            self._next_retention_ms = now_ms + self.options.config.log_retention_check_interval_ms
            self._to_retain = list(self._table)
        for _ in range(min(RETAINED_A_TURN, len(self._to_retain))):
            partition = self._to_retain.pop()
            if not partition.closed:
                partition.retain(now_ms, wall_ms, self.options.config.producer_id_expiration_ms)

    def _next_deadline_ms(self) -> int | None:
        if self._to_retain:
            return 0
        deadline = self._hands.next_deadline_ms()
        return self._next_retention_ms if deadline is None else min(self._next_retention_ms, deadline)
