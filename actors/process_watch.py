"""A broker's watch over a process beside it: starts it when it is not there, ends it when it hangs.

Ray restarts a process that has ended, but does not notice one that hangs; that one keeps its directory's lock, and its
clients' connections stand. What a replica actor led is led by others meanwhile: the coordinator ends its session
(`watch_hub`); a group coordinator's groups wait for its successor.
A process that recovers its logs is not one that hangs: its server's threads answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from rayqueue.actors.lock_holder import Holder, holder_of, is_stopped, kill
from rayqueue.client.data_channel import DataChannel, Exchange
from rayqueue.coordination.records import GroupActorRecord, ReplicaActorRecord
from rayqueue.errors import RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, DataCall, Empty, Hello

log = logging.getLogger(__name__)

PING_S = 0.2  # between two pings, and for an answer to come
LOOK_S = 1.0  # between two looks for one that is not there
# Pings in a row without an answer. A process that was stopped will not answer; one that is not may be waiting for its
# disk, or for a machine that is overloaded, and to start anew takes seconds.
STOPPED_AFTER = 5
HANGS_AFTER = 15

_PING = codec.encode(DataCall("identify", codec.encode(Empty())))


Registration = ReplicaActorRecord | GroupActorRecord


class ProcessWatch:
    """See the module; one thread.

    Args:
        name: what it is, for messages.
        registered: what the metadata log says of it.
        start: starts the actor unless it runs, or is not wanted; does not wait for it.
        lock: its directory's lock file.
        token: the cluster's.

    Attributes:
        problem: why it could not be started; None: it could, or runs.
    """

    def __init__(
        self,
        name: str,
        registered: Callable[[], Registration | None],
        start: Callable[[], None],
        lock: Path,
        token: str | None,
    ) -> None:
        self._name = name
        self._registered = registered
        self._start = start
        self._lock = lock
        self._token = token
        self._missed = 0  # pings in a row without an answer
        self._suspect: Holder | None = None  # the process that they count against
        self._stopping = threading.Event()
        self._wakes = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)
        self.problem: BaseException | None = None

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; the process goes on. `join` waits for it."""
        self._stopping.set()
        self._wakes.set()

    def look(self) -> None:
        """Looks for it now: it may be wanted from now on."""
        self._wakes.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                exchange = self._connect()
                if exchange is None:
                    self._see_to_it()
                    if self._wakes.wait(LOOK_S) and not self._stopping.is_set():
                        self._wakes.clear()
                    continue
                self.problem = None
                try:
                    self._ping(exchange)
                finally:
                    exchange.close()
            except RayQueueError as error:
                log.info("%s does not answer any more: %s", self._name, error)
            except Exception as error:  # of any kind: without this thread nobody would look after it
                log.exception("the watch over the %s failed", self._name)
                self.problem = error
                self._stopping.wait(LOOK_S)

    def _see_to_it(self) -> None:
        """Starts it, unless it runs, or is about to."""
        try:
            self._start()
            self.problem = None
        except Exception as error:  # of Ray's kind, too; it is tried again
            log.exception("%s is not started", self._name)
            self.problem = error

    def _connect(self) -> Exchange | None:
        """A connection to the process that the metadata log names; None: it cannot be had."""
        actor = self._registered()
        if actor is None:
            return None
        hello = Hello(PROTOCOL_VERSION, "call", "", actor.broker_id, actor.incarnation)
        try:
            exchange = DataChannel(actor.host, actor.port, self._token, LOOK_S).exchange(hello, LOOK_S)
        except RequestTimeout as error:  # it has been accepted, by the kernel, and is not greeted
            log.info("%s does not answer: %s", self._name, error)
            self._missed += round(LOOK_S / PING_S)
            self._end_if_it_hangs()
            return None
        except RayQueueError as error:
            log.debug("%s cannot be reached: %s", self._name, error)
            self._missed = 0
            return None
        self._missed = 0
        return exchange

    def _ping(self, exchange: Exchange) -> None:
        """Until the connection breaks (a RayQueueError), or its process was ended."""
        while not self._stopping.is_set():
            exchange.send(_PING)
            try:
                exchange.receive_within(PING_S)
            except RequestTimeout:
                self._missed += 1
                if self._end_if_it_hangs():
                    return
                continue
            self._missed = 0
            while exchange.receive_nowait() is not None:
                pass  # answers that came late
            self._stopping.wait(PING_S)

    def _end_if_it_hangs(self) -> bool:
        """Counted in pings that we have waited for, so that a machine that stood still as a whole is not held
        against it."""
        holder = holder_of(self._lock) if self._missed >= STOPPED_AFTER else None
        if holder is not None and self._suspect is not None and holder != self._suspect:
            self._missed = 0  # a successor that took over between two pings, and has just started
        self._suspect = holder
        if holder is None or self._missed < (STOPPED_AFTER if is_stopped(holder) else HANGS_AFTER):
            return False
        log.error(
            "%s, process %d, has left %d pings unanswered: it is ended",
            self._name,
            holder.pid,
            self._missed,
        )
        return kill(holder)
