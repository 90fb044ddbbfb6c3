"""How far the start of a process has come, for those who wait for it."""

from __future__ import annotations

import logging
import os
import threading
import time

from rayqueue.actors.options import ProcessReport

log = logging.getLogger(__name__)


class Progress:
    """A state, and what stands in the way. Safe for many threads.

    Attributes:
        state: "starting", "waiting" (for a lock, a port, the coordinator), "running", "failed" (until somebody acts).
        ready: set while running.
        started_ms: when this was made, with its process; ms since the epoch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.state = "starting"
        self.problem = ""
        self.error = ""
        self.ready = threading.Event()
        self.started_ms = time.time_ns() // 1_000_000

    def waiting(self, what: str, error: str = "StorageError") -> None:
        """Something is waited for that may pass; error: the class that says it best should it not pass."""
        if what != self.problem:
            log.warning("%s", what)
        self._set("waiting", what, error)

    def standing_by(self, what: str) -> None:
        """Somebody else does the work, which is no trouble if it is one of us."""
        if what != self.problem:
            log.info("stands by: %s", what)
        self._set("waiting", what, "StorageError")

    def failed(self, error: BaseException) -> None:
        """Goes on only when somebody changes something."""
        if str(error) != self.problem:
            log.error("%s: %s", type(error).__name__, error)
        self._set("failed", str(error), type(error).__name__)

    def running(self) -> None:
        """All is well."""
        self._set("running", "", "")

    def snapshot(self) -> tuple[str, str, str]:
        """(state, problem, error class)."""
        with self._lock:
            return self.state, self.problem, self.error

    def report(
        self,
        role: str,
        incarnation: str,
        address: tuple[str, int],
        node_id: str = "",
        directory: str = "",
        log_file: str = "",
        standing: str = "",
        slot: int = -1,
    ) -> ProcessReport:
        """What this process says of itself."""
        state, problem, error = self.snapshot()
        host, port = address
        return ProcessReport(
            role,
            os.getpid(),
            incarnation,
            state,
            problem,
            error,
            host,
            port,
            node_id,
            directory,
            log_file,
            self.started_ms,
            standing,
            slot,
        )

    def _set(self, state: str, problem: str, error: str) -> None:
        with self._lock:
            self.state, self.problem, self.error = state, problem, error
            if state == "running":
                self.ready.set()
            else:
                self.ready.clear()
