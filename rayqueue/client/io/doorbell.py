"""Wakes the one thread that waits, and costs next to nothing when it is awake anyway."""

from __future__ import annotations

import contextlib
import threading


class Doorbell:
    """A binary semaphore: many ring, one waits. A ring while nobody waits is kept, once."""

    __slots__ = ("_lock", "_rung")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()  # held: silent
        self._rung = False

    def ring(self) -> None:
        """Wakes the waiter. What was changed before this call, the waiter sees after it wakes.

        Seeing `_rung` set and leaving is safe: the waiter clears it only after it woke and before it looks around, so
        it will look after this caller's change.
        """
        if not self._rung:
            self._rung = True
            with contextlib.suppress(RuntimeError):  # two ringers at once: it has been released already
                self._lock.release()

    def wait(self, timeout_s: float | None) -> bool:
        """Waits for a ring; False after `timeout_s` without one."""
        rung = self._lock.acquire(timeout=-1 if timeout_s is None else max(0.0, min(timeout_s, 3600.0)))
        self._rung = False
        return rung
