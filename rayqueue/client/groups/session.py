"""The thread of a member: performs what its machine asks for, so that heartbeats do not wait for `poll`."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import NoReturn

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import Exchange
from rayqueue.client.fetching.nearness import may_be_here
from rayqueue.client.groups.calls import find_coordinator, hello_to
from rayqueue.client.groups.member import MemberMachine
from rayqueue.client.groups.member_effects import (
    Changes,
    Connect,
    Effect,
    Find,
    HangUp,
    Member,
    Phase,
    Say,
    Tell,
    Warn,
)
from rayqueue.errors import BrokerNotAvailable, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.group_messages import GroupCoordinatorAddress, GroupHeartbeatResponse, GroupPartition

log = logging.getLogger("rayqueue.consumer")

FIND_S = 3.0
OPEN_S = 3.0
FORGOTTEN_S = 0.5


def assert_never(value: NoReturn) -> NoReturn:
    """Closes a match (see `fetching.engine`)."""
    raise AssertionError(f"not handled: {value!r}")


class GroupSession:
    """A member's machine, its exchange, and the thread that serves both. Safe for many threads.

    Args:
        wake: called, on the thread, when there are `changes` for the reader, or an error.
        chores: called, on the thread, again and again; each gives the time (monotonic ms) at which it wants to be
            called next. What they do may take a fraction of the session timeout.
    """

    def __init__(
        self,
        client: ClusterClient,
        member: Member,
        wake: Callable[[], None],
        chores: Iterable[Callable[[int], int]] = (),
    ) -> None:
        self.machine = MemberMachine(member)
        self.lock = threading.Lock()  # of the machine
        self.news = False  # there may be changes: the reader may look without the lock
        self._client = client
        self._wake_reader = wake
        self._chores = list(chores)
        self._closed = False
        self._out = threading.Event()
        self._exchange: Exchange | None = None
        self._local_brokers: list[int] | None = None
        self._decode = codec.decoder(GroupHeartbeatResponse).decode
        self._bell = threading.Lock()
        self._bell_read, self._bell_write = os.pipe()
        os.set_blocking(self._bell_read, False)
        os.set_blocking(self._bell_write, False)
        self._give_back = weakref.finalize(self, _close_all, (self._bell_read, self._bell_write))
        self._thread = threading.Thread(target=self._run, name=f"rayqueue-group-{member.group_id}", daemon=True)

    # --- the reader's thread -----------------------------------------------------------------------------------------

    @property
    def reading_epoch(self) -> int:
        """As the machine's."""
        with self.lock:
            return self.machine.reading_epoch

    @property
    def coordinator_epoch(self) -> int:
        """The highest coordinator epoch heard of."""
        return self.machine.coordinator_epoch

    @property
    def error(self) -> RayQueueError | None:
        """Why the group refuses this member for good, or None."""
        return self.machine.error

    def start(self) -> None:
        """Starts the thread; once it runs, nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def subscribe(self, topics: Iterable[str]) -> None:
        """As the machine's."""
        with self.lock:
            self.machine.subscribe(topics)
            self.news = True
        self.ring()

    def changes(self) -> Changes:
        """As the machine's."""
        with self.lock:
            self.news = False
            return self.machine.changes()

    def take(self, partitions: Iterable[GroupPartition]) -> list[GroupPartition]:
        """As the machine's."""
        with self.lock:
            taken = self.machine.take(partitions)
        self.ring()
        return taken

    def gave_up(self, partitions: Iterable[GroupPartition]) -> None:
        """As the machine's."""
        with self.lock:
            self.machine.gave_up(partitions)
        self.ring()

    def take_lost(self) -> dict[GroupPartition, str]:
        """As the machine's."""
        with self.lock:
            return self.machine.take_lost()

    def describe(self) -> str:
        """Where the member stands, in words."""
        with self.lock:
            return self.machine.describe(now_ms())

    def step_out(self) -> None:
        """Leaves the group without waiting for it; what is held is lost."""
        with self.lock:
            self._out.clear()
            self.machine.leave(now_ms())
            self.news = True
        self.ring()

    def leave(self, timeout_s: float | None = None) -> None:
        """Leaves the group; waits until the coordinator has heard it, or its time is out."""
        self.step_out()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            with self.lock:
                out = self.machine.phase in (Phase.OUT, Phase.FAILED)
            if not out:
                self._out.wait(self.machine.member.leave_timeout_ms / 1000 + 1 if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Ends the thread. Who has not left yet says so, and does not wait long: the consumer was forgotten."""
        if self._closed:
            return
        self.leave(FORGOTTEN_S)
        self._closed = True
        self.ring()
        if self._thread.ident is not None:
            self._thread.join(FORGOTTEN_S)

    def ring(self) -> None:
        """Has the thread look around."""
        with self._bell, contextlib.suppress(BlockingIOError):  # full: it will look anyway
            if self._give_back.alive:
                os.write(self._bell_write, b"\0")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                deadline = self._step()
                if deadline is not None:
                    self._wait(deadline)
        except Exception:
            log.exception("the group's thread ends")
            with self.lock:
                self.machine.error = RayQueueError("the thread that keeps the membership has failed: see the log")
            self._wake_reader()
        finally:
            self._hang_up()
            self._out.set()
            with self._bell:
                self._give_back()

    def _step(self) -> int | None:
        """Performs what is due; when to look again (ms), None: at once."""
        now = now_ms()
        due = min((chore(now) for chore in self._chores), default=now + 3_600_000)
        with self.lock:
            effects = self.machine.plan(now)
            out = self.machine.phase in (Phase.OUT, Phase.FAILED)
        for effect in effects:
            self._perform(effect)
        if out:
            self._out.set()
        if effects:
            return None
        with self.lock:
            deadline = self.machine.next_deadline_ms()
        return due if deadline is None else min(due, deadline)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Find(known):
                self._find(known)
            case Connect(address):
                self._connect(address)
            case Say(heartbeat):
                if self._exchange is not None:
                    try:
                        self._exchange.send(codec.encode(heartbeat))
                    except RayQueueError as error:
                        self._broke(error)
            case HangUp():
                self._hang_up()
            case Tell():
                self.news = True
                self._wake_reader()
            case Warn(text):
                log.warning("%s", text)
            case _:
                assert_never(effect)

    def _find(self, known: int) -> None:
        answer: GroupCoordinatorAddress | RayQueueError
        try:
            answer = find_coordinator(self._client, self.machine.member.group_id, known, FIND_S)
            if self._local_brokers is None:
                latest = self._client.refresh([], timeout_s=FIND_S)
                self._local_brokers = [broker.broker_id for broker in latest.brokers if may_be_here(broker.host)]
        except RayQueueError as error:
            answer = error
        with self.lock:
            self.machine.local_brokers = self._local_brokers or []
            self.machine.on_found(answer, now_ms())

    def _connect(self, address: GroupCoordinatorAddress) -> None:
        hello = hello_to(address, "group", self.machine.member.client_id)
        try:
            self._exchange = self._client.data_channel(address.host, address.port).exchange(hello, OPEN_S)
        except RayQueueError as error:
            self._broke(error)
            return
        with self.lock:
            self.machine.on_opened(now_ms())

    def _broke(self, error: RayQueueError) -> None:
        self._hang_up()
        with self.lock:
            self.machine.on_closed(error, now_ms())

    def _hang_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _wait(self, deadline_ms: int) -> None:
        poller = select.poll()
        poller.register(self._bell_read, select.POLLIN)
        if self._exchange is not None:
            poller.register(self._exchange.fileno(), select.POLLIN)
        for fd, _ in poller.poll(max(0, deadline_ms - now_ms())):
            if fd == self._bell_read:
                os.read(fd, 512)
            else:
                self._read()

    def _read(self) -> None:
        exchange = self._exchange
        try:
            while exchange is not None and (received := exchange.receive_nowait()) is not None:
                response = self._decoded(received[0])
                with self.lock:
                    self.machine.on_response(response, now_ms())
        except RayQueueError as error:
            self._broke(error)

    def _decoded(self, message: bytes) -> GroupHeartbeatResponse:
        try:
            return self._decode(message)
        except ValueError as error:
            raise BrokerNotAvailable(f"the coordinator says what is no answer to a heartbeat: {error}") from error


def now_ms() -> int:
    """The clock of all deadlines."""
    return time.monotonic_ns() // 1_000_000


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
