"""One thread at a time, in the process it was made in, until it is closed."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType

from rayqueue.errors import RayQueueError

_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _forked() -> None:
    for guard in _guards:
        if not guard.shut:
            guard.shut = guard.foreign = True


# Cheaper than asking for the process id at every record.
os.register_at_fork(after_in_child=_forked)


class Guard:
    """Entered by every call on a consumer. A callback, which runs inside `poll`, may enter again.

    `poll`, to which two calls of Python a record are much, does what `__enter__` and `__exit__` do itself.

    Attributes:
        acquire, release: of the lock.
        shut: nothing may be called any more, because it is closed or (`foreign`) another process's.
    """

    __slots__ = ("__weakref__", "acquire", "foreign", "release", "shut")

    def __init__(self) -> None:
        lock = threading.RLock()
        self.acquire = lock.acquire
        self.release = lock.release
        self.shut = self.foreign = False
        _guards.add(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed in this process."""
        return self.shut and not self.foreign

    def close(self) -> None:
        """Lets nobody in any more."""
        self.shut = True

    def __enter__(self) -> None:
        if not self.acquire(False):
            raise self.busy()
        if self.shut:
            self.release()
            raise self.refusal()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @staticmethod
    def busy() -> RayQueueError:
        """What is said to who cannot have the lock."""
        return RayQueueError(
            "this consumer is in use by another thread: give each thread a consumer of its own, "
            "or put a lock around the calls"
        )

    def refusal(self) -> RayQueueError:
        """Why it is shut."""
        if self.foreign:
            return RayQueueError(
                "this consumer was made in the parent process and does not survive a fork: "
                "start this process with multiprocessing's 'spawn' method"
            )
        return RayQueueError("this consumer is closed: make a new one")
