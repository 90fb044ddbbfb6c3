"""The thread that runs users' callbacks: one that blocks, produces or raises disturbs no ack."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

log = logging.getLogger("rayqueue.producer")


class CallbackThread:
    """Runs callbacks in order; started by the first. A callback's exception is logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, callbacks: list[tuple[Any, Any]]) -> None:
        """Hands over (function, argument) pairs."""
        self._queue.put(callbacks)
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._stopped:
                    self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                    self._thread.start()

    def is_current(self) -> bool:
        """Whether the caller is a callback."""
        return threading.current_thread() is self._thread

    def wait(self, timeout_s: float | None) -> bool:
        """Waits until all callbacks handed over so far have run; at once inside a callback."""
        if self._thread is None or self.is_current():
            return True
        passed = threading.Event()
        self._queue.put([(lambda _: passed.set(), None)])
        return passed.wait(timeout_s)

    def stop(self) -> None:
        """Ends the thread after what it has been handed."""
        with self._lock:
            self._stopped = True
            if self._thread is not None:
                self._queue.put(None)

    def _work(self) -> None:
        while (callbacks := self._queue.get()) is not None:
            for function, argument in callbacks:
                try:
                    function(argument)
                except Exception:
                    log.exception("a delivery callback raised")
