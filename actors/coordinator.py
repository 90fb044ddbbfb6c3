"""The coordinator's process: one copy of the metadata log, active or standby.

Every change follows one way: a connection's thread posts a Call and waits; the loop (`coordinator_loop`) steps the
machine for all that has come, the quorum keeps what it appends, and once a majority has it the caller is answered.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayqueue.actors.attendance import Attendance
from rayqueue.actors.calls import typed
from rayqueue.actors.coordinator_directory import CoordinatorDirectory
from rayqueue.actors.coordinator_joining import CoordinatorJoining
from rayqueue.actors.coordinator_loop import CoordinatorLoop
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.driver import Driver
from rayqueue.actors.identity import bind_server, kept_token
from rayqueue.actors.logs import write_logs
from rayqueue.actors.metadata_service import answer_metadata
from rayqueue.actors.open_calls import OpenCalls
from rayqueue.actors.options import ClusterOverview, CoordinatorOptions, ProcessReport
from rayqueue.actors.overview import BrokerPlacer, describe
from rayqueue.actors.process import prepare_process
from rayqueue.actors.progress import Progress
from rayqueue.actors.quorum_links import KIND, QuorumLinks, serve_quorum
from rayqueue.actors.quorum_node import QuorumNode, Told
from rayqueue.actors.watch_hub import WatchHub
from rayqueue.coordination.commands import COMMANDS
from rayqueue.coordination.events import Applied, Stalled, WatchEnded, WatchStarted
from rayqueue.coordination.machine import COMMAND_BYTES_MAX, MAX_WAIT_MS, CoordinatorMachine, FormatCluster
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.coordination.quorum.status import QuorumStatus
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import BrokerNotAvailable, RayQueueError, RequestTimeout, StorageError
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, MetadataRequest, RegisterCoordinator
from rayqueue.storage.files import FileSystem, OsFiles

log = logging.getLogger(__name__)

START_RETRY_S = 1.0
STOP_TIMEOUT_S = 10.0
ACTIVE_TIMEOUT_S = 30.0
ACTIVE_RETRY_S = 0.01
# An entry is never split, and with what is around it must fit into a message (framed_socket.MESSAGE_BYTES_MAX).
QUORUM = QuorumConfig(entry_bytes_max=COMMAND_BYTES_MAX + (1 << 20))


class Coordinator:
    """A coordinator's process. A plain class: Ray is applied in `actors.handles`.

    The constructor returns at once and raises nothing that may pass; `report` says how far it has come. A directory
    that holds no cluster yet waits for `format`, or, where the options name a cluster, joins it as a standby.

    Attributes:
        standing: "active", "standby", or "empty": it waits for `format`; "" before it knows.
    """

    def __init__(
        self,
        options: CoordinatorOptions,
        make_placer: Callable[[Coordinator], BrokerPlacer] | None = None,
        files: FileSystem | None = None,
    ) -> None:
        """make_placer: makes what starts brokers and standbys; None: somebody else does."""
        if options.logging.file:  # the process is all ours
            write_logs(options.logging)
            prepare_process()
        self.options = options
        self.incarnation = uuid.uuid4().hex
        self.progress = Progress()
        self.token: str | None = None
        self.standing = ""
        self._directory = CoordinatorDirectory(files or OsFiles(), options)
        self._placer = make_placer(self) if make_placer else None
        self._stopping = threading.Event()
        self._server: DataServer | None = None
        self._calls = OpenCalls()
        self._driver = Driver("coordinator", self._handle, lambda: self._loop.next_deadline_ms())
        self._hub = WatchHub(
            lambda watcher, epoch: self._driver.post((epoch, WatchStarted(watcher))),
            lambda watcher, epoch: self._driver.post((epoch, WatchEnded(watcher))),
            lambda watcher, index, epoch: self._driver.post((epoch, Applied(watcher, index))),
            lambda epoch: self._driver.post((epoch, Stalled())),
        )
        self._attendance = Attendance()
        self._loop = CoordinatorLoop(
            options.config,
            lambda: (options.advertised_host, self.port),
            self._hub,
            self._attendance,
            self._open_node,
            self._calls.answer,
            self._calls.fail,
            self._on_applied,
            self._on_standing,
        )
        self._joining = CoordinatorJoining(self)
        self._starter = threading.Thread(target=self._start, name="coordinator-start", daemon=True)
        self._starter.start()

    def __repr__(self) -> str:
        return f"Coordinator({self.options.name!r}, {self.options.coordinator_id}, {self.progress.state})"

    # --- start and stop ----------------------------------------------------------------------------------------------

    @property
    def ready(self) -> threading.Event:
        """Set while it serves, as the active one or as a standby."""
        return self.progress.ready

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        return self._server.port if self._server else 0

    @property
    def active(self) -> bool:
        """Whether it is the active one, as far as it knows."""
        return self._loop.machine is not None

    @property
    def cluster_id(self) -> str:
        """Of the cluster whose metadata it keeps; "" before that is known."""
        return self._directory.cluster_id

    @property
    def known(self) -> dict[int, tuple[str, int]]:
        """Where coordinators listen, by their ids, as far as this one knows."""
        mine = {self.options.coordinator_id: (self.options.advertised_host, self.port)}
        return {**self._directory.addresses, **mine}

    @property
    def quorum(self) -> QuorumStatus:
        """How this one sees the quorum.

        Raises:
            BrokerNotAvailable: it holds no copy of the log.
        """
        if self._loop.node is None:
            raise self._loop.refusal()
        return self._loop.node.status

    def _start(self) -> None:
        options, directory = self.options, self._directory
        while not self._stopping.is_set():
            try:
                if not directory.acquire(self._stopping, self.progress.waiting):
                    return
                if options.needs_token:
                    self.token = options.config.token or kept_token(Path(options.data_dir) / "token", options.token)
                self._server = bind_server(
                    directory.path,
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
                self._stopping.wait(START_RETRY_S)
        else:
            return
        self._driver.start()
        directory.answer_for(lambda: self._driver.call(lambda: None, STOP_TIMEOUT_S))
        self._joining.start()
        if self._placer is not None:
            self._placer.start()

    def _listen(self, port: int) -> DataServer:
        options = self.options
        cluster_id, number = self._directory.cluster_id, options.coordinator_id
        who = Identity(PROTOCOL_VERSION, cluster_id, "coordinator", number, self.incarnation, os.getpid())
        return DataServer(
            options.listen_host,
            port,
            token=self.token,
            identity=who,
            actions={
                "metadata": typed(MetadataRequest, self._metadata),
                **{name: typed(kind, self.ask) for name, kind in COMMANDS.items()},
            },
            exchanges={
                "watch": self._hub.serve,
                "attend": self._attendance.serve,
                KIND: lambda exchange: serve_quorum(exchange, self._driver.post),
            },
            max_message_bytes=max(options.config.socket_request_max_bytes, 2 * COMMAND_BYTES_MAX),
        )

    def format(self, cluster_id: str = "") -> str:
        """Makes an empty directory the first copy of a cluster's metadata ("": a new id); gives the id of the cluster
        that it holds.

        Raises:
            ClusterMismatch: it holds another cluster than the one that was named. StorageError, RequestTimeout.
        """
        wanted = cluster_id or uuid.uuid4().hex
        self._driver.call(lambda: self._form(wanted))
        self._ask_soon(FormatCluster(wanted, must_match=bool(cluster_id)))
        found: str = self._driver.call(lambda: self._loop.image.state.cluster_id)
        return found

    def meet(self, addresses: dict[int, tuple[str, int]]) -> None:
        """Tells where other coordinators listen, in case all of them have moved and none can tell the others."""
        self._driver.call(lambda: self._directory.meet(addresses))

    def join(self, cluster_id: str, addresses: dict[int, tuple[str, int]]) -> None:
        """Tells one that is empty which cluster it belongs to: its directory was lost, and it was restarted as it had
        been started at first, to found one."""

        def join() -> None:
            if self._loop.node is None:
                self._directory.meet(addresses)
                self._directory.join(cluster_id)
                self._know(self.cluster_id)  # else it refused the connections that bring the log
                self._loop.reopen()

        self._driver.call(join)

    def _form(self, cluster_id: str) -> None:
        """In the loop: the first entries of a log, where there are none."""
        if self._loop.node is None:
            self._directory.form(cluster_id)
            self._loop.reopen()

    def _ask_soon(self, request: Any) -> Any:
        """As `ask`, waiting until this coordinator is active."""
        for _ in range(int(ACTIVE_TIMEOUT_S / ACTIVE_RETRY_S)):
            try:
                return self.ask(request)
            except BrokerNotAvailable:
                state, problem, _ = self.progress.snapshot()
                if state == "failed":
                    raise StorageError(problem) from None
                if self._stopping.wait(ACTIVE_RETRY_S):
                    raise
        raise RequestTimeout(f"no coordinator has become active in {ACTIVE_TIMEOUT_S:g} s: `rayqueue status` says more")

    def stop(self) -> None:
        """Ends all streams and calls, closes the log, and lets go of the directory and the port."""
        self._stopping.set()
        if self._placer is not None:
            self._placer.stop()
        self._starter.join(STOP_TIMEOUT_S)
        self._joining.stop(STOP_TIMEOUT_S)
        self._hub.close()
        end = BrokerNotAvailable("the coordinator stops")
        self._driver.post(end)
        self._driver.stop()
        self._loop.close(end)
        if self._server is not None:
            self._server.shutdown()
        self._directory.release()

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        return self.progress.report(
            "coordinator",
            self.incarnation,
            (self.options.advertised_host, self.port),
            self.options.node_id,
            directory=str(self._directory.path),
            log_file=self.options.logging.file,
            standing=self.standing,
        )

    # --- calls (connections' and Ray's threads) ----------------------------------------------------------------------

    def ask(self, request: Any) -> Any:
        """Puts a request to the machine and waits for its answer.

        Raises:
            NotController: this coordinator is not active. RayQueueError: what the machine refused it with.
        """
        if self._stopping.is_set():
            raise BrokerNotAvailable("the coordinator stops")
        call = self._calls.begin(request)
        self._driver.post(call)
        return self._calls.wait(call, MAX_WAIT_MS / 1000 + STOP_TIMEOUT_S)

    def look(self, at: Callable[[ClusterState, CoordinatorMachine], Any]) -> Any:
        """Runs `at(state, machine)` between two events.

        Raises:
            NotController: this coordinator is not active. BrokerNotAvailable: it does not serve at present.
        """

        def run() -> Any:
            if self._loop.machine is None:
                raise self._loop.refusal()
            return at(self._loop.machine.state, self._loop.machine)

        if not self.ready.is_set() and self._loop.node is None:
            raise BrokerNotAvailable(self.progress.problem or "the coordinator is starting: try again")
        return self._driver.call(run, STOP_TIMEOUT_S)

    def look_committed(self, at: Callable[[ClusterState], Any]) -> Any:
        """Runs `at(state)` on what is committed, as far as this copy has heard, active or not."""
        return self._driver.call(lambda: at(self._loop.image.state), STOP_TIMEOUT_S)

    def overview(self) -> ClusterOverview:
        """All that is known of the cluster.

        Raises:
            NotController: this coordinator is not active. BrokerNotAvailable: it does not serve at present.
        """

        def tell(_: ClusterState, machine: CoordinatorMachine) -> ClusterOverview:
            assert self._loop.node is not None
            return describe(machine, self._loop.node.status, self.options, self.token, self._placer)

        return self.look(tell)  # type: ignore[no-any-return]  # as `tell` gave it

    def overview_if_active(self) -> ClusterOverview | str:
        """The same; or why there is none, in words. For callers that ask all coordinators at once."""
        try:
            return self.overview()
        except BrokerNotAvailable as error:
            return str(error)

    def want_brokers(self, brokers: int | None) -> None:
        """At least so many brokers are wanted; None: one on every node."""
        if self._placer is not None:
            self._placer.want(brokers)

    def stop_placing(self) -> None:
        """Brokers that end from now on are not started again: the cluster is being shut down."""
        if self._placer is not None:
            self._placer.stop()

    def registration(self) -> RegisterCoordinator | None:
        """How this process registers; None while there is nothing to register with."""
        options, directory = self.options, self._directory
        if not directory.cluster_id:
            return None
        return RegisterCoordinator(
            options.coordinator_id,
            directory.identity.directory_id,
            self.incarnation,
            options.advertised_host,
            self.port,
            options.node_id,
        )

    def _metadata(self, request: MetadataRequest) -> Any:
        return answer_metadata(request, self.options.config, self.ask, self.ask)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _handle(self, taken: list[Any], now_ms: int, wall_ms: int) -> None:
        self._loop.handle([one for one in taken if not isinstance(one, RayQueueError)], now_ms, wall_ms)
        for end in taken:
            if isinstance(end, RayQueueError):
                self._calls.fail(end)

    def _open_node(self, now_ms: int, tell: Callable[[Told], None]) -> QuorumNode | None:
        directory = self._directory
        opened = directory.open()
        if opened is None:
            return None
        me, store = opened
        links = QuorumLinks(me, directory.cluster_id, self.token, self._address_of, self._driver.post)
        return QuorumNode(me, store, links, QUORUM, tell, now_ms)

    def _address_of(self, voter: Voter) -> tuple[str, int] | None:
        return self.known.get(voter.broker_id)

    def _on_applied(self, state: ClusterState) -> None:
        self._directory.note(state)
        self._know(state.cluster_id)
        self._joining.look(state)

    def _know(self, cluster_id: str) -> None:
        if self._server is not None and cluster_id:
            self._server.identity.cluster_id = cluster_id

    def _on_standing(self, standing: BaseException | str) -> None:
        if isinstance(standing, BrokerNotAvailable):
            self.progress.waiting(str(standing), "BrokerNotAvailable")
        elif isinstance(standing, BaseException):
            self.progress.failed(standing)
        else:
            self.standing = standing
            self.progress.running()
