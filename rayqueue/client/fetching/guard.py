"""One thread at a time, in the process it was made in, until it is closed."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from rayqueue.errors import RayQueueError

_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


# Cheaper than asking for the process id at every record.
os.register_at_fork(after_in_child=_forked)


class Guard:
    """Entered by every call on a consumer. A callback, which runs inside `poll`, may enter again."""

    __slots__ = ("_acquire", "_forks", "_release", "closed")

    def __init__(self) -> None:
        lock = threading.RLock()
        self._acquire = lock.acquire
        self._release = lock.release
        self._forks = _forks
        self.closed = False

    def __enter__(self) -> None:
        if not self._acquire(False):
            raise RayQueueError(
                "this consumer is in use by another thread: give each thread a consumer of its own, "
                "or put a lock around the calls"
            )
        if self.closed or _forks != self._forks:
            self._release()
            raise RayQueueError(
                "this consumer is closed: make a new one"
                if self.closed
                else "this consumer was made in the parent process and does not survive a fork: "
                "start this process with multiprocessing's 'spawn' method"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
