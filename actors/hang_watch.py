"""The watch over processes of the same node that nobody else would end when they hang.

::

    a broker          by its first replica actor, and by those that stand by
    coordinators      by the brokers of their node
    replica actors    by their broker, see `process_watch`

A process that hangs keeps its directory's lock, and Ray, which restarts those that have ended, does not notice it. The
active coordinator notices a broker's silence, but is on another node, and must not wait for Ray; those beside it are
processes of their own, of which one waits for work. A coordinator that hangs does no harm, as another is active by
then; but it votes, and while it hangs fewer others may go.

A partition does not look like a hang here: what is asked stays on the node (`alive`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rayqueue.actors import alive
from rayqueue.actors.lock_holder import Holder, holder_of, is_stopped, kill
from rayqueue.errors import BrokerNotAvailable, RequestTimeout

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two questions, and for an answer to come
# Questions in a row without an answer: not seconds, for a machine may stand still as a whole. A process that runs may
# be starved, or take in a long log, or wait for its disk.
HANGS_AFTER = 10
# One that was stopped will not answer. Still nothing urgent waits for a broker; and a coordinator that is continued
# finds out by itself that it is not active any more.
BROKER_STOPPED_AFTER = 3
COORDINATOR_STOPPED_AFTER = 10


class Watched:
    """What is known of the process that holds a lock.

    Attributes:
        missed: questions in a row that it has not answered.
    """

    def __init__(self, lock: Path, stopped_after: int) -> None:
        self._lock = lock
        self._stopped_after = stopped_after
        self._holder: Holder | None = None
        self.missed = 0

    def look(self) -> None:
        """Asks it whether it lives, and ends it when it has not answered for too long."""
        silent = False
        self._holder = self._holder or holder_of(self._lock)
        if self._holder is None:
            return
        try:
            alive.ask(self._lock, self._holder.pid, LOOK_S)
            self.missed = 0
            return
        except RequestTimeout:
            silent = True
        except BrokerNotAvailable as error:
            log.debug("%s", error)
        holder = holder_of(self._lock)
        if holder is None or holder != self._holder:  # nobody, or another one, which has just started
            self._holder, self.missed = holder, 0
        if holder is None:
            return
        stopped = is_stopped(holder)
        # One that nobody reaches has yet to listen; unless it was stopped before.
        self.missed = self.missed + 1 if silent or stopped else 0
        if self.missed >= (self._stopped_after if stopped else HANGS_AFTER):
            log.error(
                "process %d, which holds %s, has left %d questions unanswered: it is ended",
                holder.pid,
                self._lock,
                self.missed,
            )
            kill(holder)


class HangWatch:
    """See the module; one thread.

    Args:
        locks: the lock files of those that are watched, as they are now.
        stopped_after: see above.

    Attributes:
        watched: by lock file.
    """

    def __init__(self, locks: Callable[[], Iterable[Path]], stopped_after: int) -> None:
        self._locks = locks
        self._stopped_after = stopped_after
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-neighbours", daemon=True)
        self.watched: dict[Path, Watched] = {}

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; those that were watched go on. `join` waits for it."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def look(self) -> None:
        """Asks each of them once."""
        for lock in self._locks():
            if lock not in self.watched:
                self.watched[lock] = Watched(lock, self._stopped_after)
            self.watched[lock].look()

    def _run(self) -> None:
        rest_s = LOOK_S
        while not self._stopping.wait(rest_s):
            began = time.monotonic()
            try:
                self.look()
            except Exception:  # of any kind: without this thread nobody would look after them
                log.exception("the watch over neighbours failed")
            rest_s = max(0.0, LOOK_S - (time.monotonic() - began))  # an answer that did not come took its time
