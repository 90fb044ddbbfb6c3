"""The loop of every actor: take what has come, let the machine step, perform what it says, in order.

One queue, and one thread at a time inside. Whoever has news leaves an event and goes on; nothing else touches the
machine, so it needs no locks, and all that waits when a turn begins is taken in one go, which is what makes group
commit a group.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from rayqueue.errors import BrokerNotAvailable

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAIT_MS = 60_000
MAX_EVENTS = 1024  # taken at once, so that deadlines are looked at in between


_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ms() -> int:
    """The clock of deadlines, ms: goes on while the machine sleeps, and nobody sets it."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000


def wall_ms() -> int:
    """The clock of timestamps and retention, ms since the epoch."""
    return time.time_ns() // 1_000_000


def die(error: BaseException) -> None:
    """Ends the process: a machine that failed in the middle of a step must not go on; the next one recovers."""
    log.critical("this actor fails and starts anew: %s", error, exc_info=error)
    logging.shutdown()
    os._exit(70)


class Call:
    """An event that is a question: run on the loop's thread, its answer goes to whoever waits."""

    __slots__ = ("function", "future")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.future: Future[Any] = Future()


class Driver:
    """Runs a handler of events on its own thread, or, for `submit`, on the caller's when nobody else is in it.

    Args:
        name: the thread's.
        handle: called with what has come (maybe nothing: a deadline has passed), boot time and wall time in ms.
        next_deadline_ms: boot time at which to call `handle` in any case, or None.
        on_failure: called when `handle` raises, which it must not.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Any], int, int], None],
        next_deadline_ms: Callable[[], int | None],
        on_failure: Callable[[BaseException], None] = die,
    ) -> None:
        self._handle = handle
        self._next_deadline_ms = next_deadline_ms
        self._on_failure = on_failure
        self._events: deque[Any] = deque()  # taken only by who holds `_inside`, so their order holds
        self._inside = threading.Lock()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._sleeps_to: int | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the loop."""
        self._thread.start()

    def post(self, event: Any) -> None:
        """Gives an event to the loop's thread."""
        self._events.append(event)
        self._wakes.put(None)

    def submit(self, event: Any) -> None:
        """Gives an event to whoever is inside the loop; when nobody is, handles it here and now.

        Spares the hop to another thread when little is going on. When much is, the one inside takes what the others
        leave (flat combining), and the group commit is as large as ever.
        """
        self._events.append(event)
        if not self._inside.acquire(blocking=False):
            # Whoever is inside looks once more after leaving: the event is seen.
            return
        try:
            self._turn()
            sooner = self._sooner()
        finally:
            self._inside.release()
        if sooner or self._events:
            self._wakes.put(None)

    def call(self, function: Callable[[], T], timeout_s: float | None = 60.0) -> T:
        """Runs `function` inside the loop and returns what it returns; from the loop's own thread, at once."""
        if threading.current_thread() is self._thread:
            return function()
        if self._stopping:
            raise BrokerNotAvailable("this actor is shutting down")
        call = Call(function)
        self.post(call)
        result: T = call.future.result(timeout_s)
        return result

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the loop after what is queued."""
        self._stopping = True
        self._wakes.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping or self._events:
                self._wait()
                with self._inside:
                    self._turn()
                if self._events:
                    self._wakes.put(None)
        except BaseException as error:
            self._on_failure(error)

    def _sooner(self) -> bool:
        """Whether a deadline has come up before the one that the loop's thread sleeps to. Asked from inside."""
        deadline = self._next_deadline_ms()
        return deadline is not None and (self._sleeps_to is None or deadline < self._sleeps_to)

    def _wait(self) -> None:
        """Until somebody wakes us, or the next deadline."""
        with self._inside:
            deadline = self._sleeps_to = self._next_deadline_ms()
        if self._events:
            return  # submitted by somebody who found us inside, and relies on this look
        try:
            wait_ms = MAX_WAIT_MS if deadline is None else min(MAX_WAIT_MS, max(0, deadline - boot_ms()))
            self._wakes.get(timeout=wait_ms / 1000)
            while True:  # one turn serves all that woke us
                self._wakes.get_nowait()
        except Empty:
            return

    def _turn(self) -> None:
        """Takes all that has come and handles it."""
        try:
            taken: list[Any] = []
            events = self._events
            while events and len(taken) < MAX_EVENTS:
                item = events.popleft()
                if isinstance(item, Call):
                    self._answer(item)
                else:
                    taken.append(item)
            self._handle(taken, boot_ms(), wall_ms())
        except BaseException as error:
            self._on_failure(error)

    def _answer(self, call: Call) -> None:
        try:
            call.future.set_result(call.function())
        except Exception as error:
            call.future.set_exception(error)
