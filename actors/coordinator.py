"""The coordinator: the shell around `coordination.machine`. One thread runs the machine and writes its log.

Every change follows one way: a connection's thread posts a Call and waits; the loop steps the machine for all that has
come, writes all batches of records, makes them durable with one fsync, tells the machine, and performs the answers.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the builtin one only from Python 3.11 on
from itertools import count
from pathlib import Path
from typing import Any

from rayqueue.actors.calls import typed
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.driver import Driver
from rayqueue.actors.identity import (
    CoordinatorIdentity,
    DirectoryLock,
    bind_server,
    kept_token,
    read_json,
    write_json,
)
from rayqueue.actors.logs import write_logs
from rayqueue.actors.metadata_log import MetadataLog
from rayqueue.actors.metadata_service import answer_metadata
from rayqueue.actors.options import ClusterOverview, CoordinatorOptions, ProcessReport
from rayqueue.actors.overview import BrokerPlacer, describe
from rayqueue.actors.process import prepare_process
from rayqueue.actors.progress import Progress
from rayqueue.actors.topic_schemas import ArrowSchemas
from rayqueue.actors.watch_hub import WatchHub
from rayqueue.coordination.commands import COMMANDS, Surroundings
from rayqueue.coordination.events import (
    Append,
    Applied,
    Call,
    Committed,
    Effect,
    Publish,
    Refuse,
    Reply,
    Tick,
    WatchEnded,
    WatchStarted,
)
from rayqueue.coordination.machine import MAX_WAIT_MS, CoordinatorMachine, FormatCluster
from rayqueue.coordination.records import decode_record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import BrokerNotAvailable, CorruptRecord, RayQueueError, RequestTimeout, StorageError
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, MetadataRequest
from rayqueue.storage.files import FileSystem, OsFiles

log = logging.getLogger(__name__)

RECOVERY_RETRY_MS = 1_000
STOP_TIMEOUT_S = 10.0


class Coordinator:
    """The coordinator's process. A plain class: Ray is applied in `actors.handles`.

    The constructor returns at once and raises nothing that may pass; `report` says how far it has come. A directory
    that holds no cluster yet waits for `format`.
    """

    def __init__(
        self,
        options: CoordinatorOptions,
        make_placer: Callable[[Coordinator], BrokerPlacer] | None = None,
        files: FileSystem | None = None,
    ) -> None:
        """make_placer: makes what starts the brokers; None: somebody else does."""
        if options.logging.file:  # the process is all ours
            write_logs(options.logging)
            prepare_process()
        self.options = options
        self.incarnation = uuid.uuid4().hex
        self.progress = Progress()
        self.token: str | None = None
        self._files = files or OsFiles()
        self._directory = Path(options.data_dir) / "coordinator"
        self._lock = DirectoryLock(self._directory / "lock")
        self._placer = make_placer(self) if make_placer else None
        self._stopping = threading.Event()
        self._machine: CoordinatorMachine | None = None
        self._log: MetadataLog | None = None
        self._retry_ms = 0
        self._server: DataServer | None = None
        self._calls = count(1)
        self._open: dict[int, Future[Any]] = {}
        self._driver = Driver("coordinator", self._handle, self._next_deadline_ms)
        self._hub = WatchHub(
            lambda watcher, epoch: self._driver.post((epoch, WatchStarted(watcher))),
            lambda watcher, epoch: self._driver.post((epoch, WatchEnded(watcher))),
            lambda watcher, index, epoch: self._driver.post((epoch, Applied(watcher, index))),
        )
        self._starter = threading.Thread(target=self._start, name="coordinator-start", daemon=True)
        self._starter.start()

    def __repr__(self) -> str:
        return f"Coordinator({self.options.name!r}, {self.progress.state})"

    # --- start and stop ----------------------------------------------------------------------------------------------

    @property
    def ready(self) -> threading.Event:
        """Set while it serves."""
        return self.progress.ready

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port if self._server else 0

    def _start(self) -> None:
        options = self.options
        while not self._stopping.is_set():
            try:
                if not self._lock.acquire(self._stopping, self.progress.waiting):
                    return
                if options.needs_token:
                    self.token = options.config.token or kept_token(Path(options.data_dir) / "token")
                self._server = bind_server(
                    self._directory,
                    "coordinator",
                    options.listen_host,
                    self._listen,
                    self._stopping,
                    options.port,
                    self.progress.waiting,
                )
                break
            except Exception as error:  # of any kind: a thread that ended here would never try again
                self.progress.failed(error)
                self._stopping.wait(RECOVERY_RETRY_MS / 1000)
        else:
            return
        self._driver.start()
        if self._placer is not None:
            self._placer.start()

    def _listen(self, port: int) -> DataServer:
        options = self.options
        return DataServer(
            options.listen_host,
            port,
            token=self.token,
            identity=Identity(PROTOCOL_VERSION, "", "coordinator", -1, self.incarnation, os.getpid()),
            actions={
                "metadata": typed(MetadataRequest, self._metadata),
                **{name: typed(kind, self.ask) for name, kind in COMMANDS.items()},
            },
            exchanges={"watch": self._hub.serve},
            max_message_bytes=options.config.socket_request_max_bytes,
        )

    def format(self, cluster_id: str = "") -> str:
        """Makes an empty directory the metadata of a cluster ("": a new id); gives the id of the one that it holds.

        Raises:
            ClusterMismatch: it holds another cluster than the one that was named. StorageError, RequestTimeout.
        """
        self.ask(FormatCluster(cluster_id or uuid.uuid4().hex, must_match=bool(cluster_id)))
        return self._driver.call(self._write_identity)

    def stop(self) -> None:
        """Ends all streams and calls, closes the log, and lets go of the directory and the port."""
        self._stopping.set()
        if self._placer is not None:
            self._placer.stop()
        self._starter.join(STOP_TIMEOUT_S)
        self._hub.close()
        self._driver.stop()
        self._fail_calls(BrokerNotAvailable("the coordinator stops"))
        if self._server is not None:
            self._server.shutdown()
        if self._log is not None:
            self._log.close()
        self._lock.release()

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        return self.progress.report(
            "coordinator",
            self.incarnation,
            (self.options.advertised_host, self.port),
            self.options.node_id,
            directory=str(self._directory),
            log_file=self.options.logging.file,
        )

    # --- calls (connections' and Ray's threads) ----------------------------------------------------------------------

    def ask(self, request: Any) -> Any:
        """Puts a request to the machine and waits for its answer.

        Raises:
            RayQueueError: what the machine refused it with.
        """
        if self._stopping.is_set():
            raise BrokerNotAvailable("the coordinator stops")
        call, future = next(self._calls), Future[Any]()
        self._open[call] = future
        self._driver.post(Call(call, request))
        try:
            return future.result(MAX_WAIT_MS / 1000 + STOP_TIMEOUT_S)
        except FutureTimeoutError:
            raise RequestTimeout("the coordinator did not come to this request") from None
        finally:
            self._open.pop(call, None)

    def look(self, at: Callable[[ClusterState, CoordinatorMachine], Any]) -> Any:
        """Runs `at(state, machine)` between two events.

        Raises:
            BrokerNotAvailable: there is no machine at present.
        """

        def run() -> Any:
            if self._machine is None:
                raise BrokerNotAvailable(f"the coordinator does not serve: {self.progress.problem}")
            return at(self._machine.state, self._machine)

        if not self.ready.is_set():
            raise BrokerNotAvailable(self.progress.problem or "the coordinator is starting: try again")
        return self._driver.call(run, STOP_TIMEOUT_S)

    def overview(self) -> ClusterOverview:
        """All that is known of the cluster.

        Raises:
            BrokerNotAvailable: the coordinator does not serve at present.
        """
        options, token, placer = self.options, self.token, self._placer
        seen: ClusterOverview = self.look(lambda _, machine: describe(machine, options, token, placer))
        return seen

    def want_brokers(self, brokers: int | None) -> None:
        """At least so many brokers are wanted; None: one on every node."""
        if self._placer is not None:
            self._placer.want(brokers)

    def stop_placing(self) -> None:
        """Brokers that end from now on are not started again: the cluster is being shut down."""
        if self._placer is not None:
            self._placer.stop()

    def _metadata(self, request: MetadataRequest) -> Any:
        return answer_metadata(request, self.options.config, self.ask, self.ask)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _handle(self, taken: list[Any], now_ms: int, wall_ms: int) -> None:
        if self._machine is None and now_ms >= self._retry_ms:
            self._recover(now_ms)
        machine = self._machine
        if machine is None:
            problem = StorageError(f"the coordinator cannot use its log: {self.progress.problem}")
            self._fail_calls(problem)
            return
        try:
            effects: list[Effect] = []
            for event in taken:
                if isinstance(event, tuple):  # from a stream, maybe one of the log before a recovery
                    if event[0] != machine.epoch:
                        continue
                    event = event[1]
                effects += machine.step(event, now_ms, wall_ms)
            deadline = machine.next_deadline_ms()
            if deadline is not None and deadline <= now_ms:
                effects += machine.step(Tick(), now_ms, wall_ms)
            self._perform(machine, effects, now_ms, wall_ms)
        except StorageError as error:
            # What the machine holds may not be on the disk. Nobody was told of it, so it is forgotten: the log is
            # read again. Whoever waits gets the error; a change may have been made all the same.
            self.progress.failed(error)
            self._fail_calls(error)
            self._machine = None
            self._retry_ms = now_ms + RECOVERY_RETRY_MS
            self._hub.open([], [], 0, -1)

    def _perform(self, machine: CoordinatorMachine, effects: list[Effect], now_ms: int, wall_ms: int) -> None:
        """Performs effects in order; all batches of records share one fsync, which gives further effects."""
        assert self._log is not None
        while effects:
            appended = False
            for effect in effects:
                match effect:
                    case Append():
                        self._log.append([encode_record(r) for r in effect.records], machine.epoch, wall_ms)
                        appended = True
                    case Publish():
                        self._hub.publish(effect.end)
                    case Reply():
                        self._answer(effect.call, effect.response)
                    case Refuse():
                        self._answer(effect.call, effect.error)
            effects = machine.step(Committed(self._log.flush()), now_ms, wall_ms) if appended else []

    def _answer(self, call: int, answer: Any) -> None:
        future = self._open.pop(call, None)
        if future is None or future.done():
            return  # whoever asked has given up
        if isinstance(answer, RayQueueError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _fail_calls(self, error: RayQueueError) -> None:
        for call in list(self._open):
            self._answer(call, error)

    def _next_deadline_ms(self) -> int | None:
        if self._machine is None:
            return self._retry_ms
        return self._machine.next_deadline_ms()

    # --- the disk ----------------------------------------------------------------------------------------------------

    def _recover(self, now_ms: int) -> None:
        """Opens the log under a new coordinator epoch and replays it."""
        try:
            if self._log is not None:
                self._log.close()
                self._log = None
            path = self._directory / "identity.json"
            identity = read_json(path, CoordinatorIdentity) or CoordinatorIdentity("", 0)
            opened = MetadataLog(self._files, self._directory / "metadata")
            if identity.cluster_id and not opened.records:
                raise StorageError(
                    f"{self._directory} belonged to cluster {identity.cluster_id}, but its metadata log is empty or "
                    "lost: restore the directory from a copy"
                )
            identity.epoch += 1
            write_json(path, identity)
            self._log = opened
            machine = self._new_machine(opened, identity.epoch, now_ms)
        except (StorageError, CorruptRecord) as error:
            self.progress.failed(error)
            self._retry_ms = now_ms + RECOVERY_RETRY_MS
            return
        self._machine = machine
        if machine.state.cluster_id:
            self._write_identity()
        self._hub.open(opened.records, opened.command_ends, machine.committed, machine.epoch)
        log.info("coordinator epoch %d serves %d records on port %d", machine.epoch, machine.end, self.port)
        self.progress.running()

    def _new_machine(self, opened: MetadataLog, epoch: int, now_ms: int) -> CoordinatorMachine:
        around = Surroundings(self.options.config, ArrowSchemas(), lambda: uuid.uuid4().bytes)
        records = [decode_record(data) for data in opened.records]
        address = (self.options.advertised_host, self.port)
        return CoordinatorMachine(around, records, epoch, address, now_ms)

    def _write_identity(self) -> str:
        """Notes whose metadata lies here: after the log says it, so that a log that is lost is noticed."""
        machine = self._machine
        if machine is None:
            raise BrokerNotAvailable(self.progress.problem)
        cluster_id = machine.state.cluster_id
        path = self._directory / "identity.json"
        noted = CoordinatorIdentity(cluster_id, machine.epoch)
        if read_json(path, CoordinatorIdentity) != noted:
            write_json(path, noted)
        if self._server is not None:
            self._server.identity.cluster_id = cluster_id
        return cluster_id
