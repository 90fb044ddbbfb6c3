"""The loop of every actor: take what has come, let the machine step, perform what it says, in order.

One thread, one queue. Whoever has news posts an event and goes on; nothing else touches the machine, so it needs no
locks, and all that waits when the thread wakes is taken in one go, which is what makes group commit a group.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from rayqueue.errors import BrokerNotAvailable

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EVENTS = 1024  # taken at once, so that deadlines are looked at in between


def boot_ms() -> int:
    """The clock of deadlines, ms: goes on while the machine sleeps, and nobody sets it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


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
    """Runs a handler of events on its own thread.

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
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.post = self._queue.put
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the loop."""
        self._thread.start()

    def call(self, function: Callable[[], T], timeout_s: float = 60.0) -> T:
        """Runs `function` on the loop's thread and returns what it returns; from the loop itself, at once."""
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
        self.post(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._handle(self._take(), boot_ms(), wall_ms())
        except BaseException as error:
            self._on_failure(error)

    def _take(self) -> list[Any]:
        """All that has come; waits for the first until the next deadline."""
        queue = self._queue
        deadline = self._next_deadline_ms()
        try:
            if deadline is None:
                first = queue.get()
            else:
                first = queue.get(timeout=max(0.0, (deadline - boot_ms()) / 1000))
        except Empty:
            return []
        taken: list[Any] = []
        item = first
        while True:
            if isinstance(item, Call):
                self._answer(item)
            elif item is not None:
                taken.append(item)
            if len(taken) >= MAX_EVENTS:
                return taken
            try:
                item = queue.get_nowait()
            except Empty:
                return taken

    def _answer(self, call: Call) -> None:
        try:
            call.future.set_result(call.function())
        except Exception as error:
            call.future.set_exception(error)
