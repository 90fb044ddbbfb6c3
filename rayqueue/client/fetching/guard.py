"""One thread at a time, in the process it was made in, until it is closed."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from rayqueue.errors import RayQueueError


class Guard:
    """Entered by every call on a consumer. A callback, which runs inside `poll`, may enter again."""

    __slots__ = ("_lock", "_pid", "closed")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.closed = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RayQueueError(
                "this consumer is in use by another thread: give each thread a consumer of its own, "
                "or put a lock around the calls"
            )
        if self.closed or os.getpid() != self._pid:
            self._lock.release()
            raise RayQueueError(
                "this consumer is closed: make a new one"
                if self.closed
                else "this consumer was made in the parent process and does not survive a fork: make a new one here"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
