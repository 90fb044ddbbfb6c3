"""Ends a process of this machine that hangs: known by the directory that it has locked, and asked what its clients ask.

A process that hangs keeps its directory's lock, and Ray, which restarts those that have ended, does not notice it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from rayqueue.actors.lock_holder import Holder, holder_of, is_stopped, kill
from rayqueue.errors import RayQueueError, RequestTimeout

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two questions, and for an answer to come
# Questions in a row without an answer. One that runs may be starved, or take in a long log, or wait for its disk.
HANGS_AFTER = 10


class Heard(Enum):
    """What came of a question."""

    ANSWER = "answer"
    SILENCE = "silence"  # somebody is there, who says nothing
    NOBODY = "nobody"


class HangWatch:
    """Counts questions without an answer, which are not seconds: a machine may stand still as a whole.

    Args:
        what: who is watched, for messages.
        lock: its directory's lock file.
        ask: asks it, in LOOK_S; an answer of any kind will do. Raises RequestTimeout when none comes, another
            RayQueueError when it cannot be reached.
        stopped_after: as HANGS_AFTER, of one that was stopped and will not answer.
    """

    def __init__(self, what: str, lock: Path, ask: Callable[[], object], stopped_after: int) -> None:
        self._what = what
        self._lock = lock
        self._ask = ask
        self._stopped_after = stopped_after
        self._holder: Holder | None = None
        self.missed = 0  # questions in a row that this process has not answered

    def ask(self) -> Heard:
        """Asks once."""
        try:
            self._ask()
        except RequestTimeout:
            return Heard.SILENCE
        except RayQueueError as error:
            log.debug("%s: %s", self._what, error)
            return Heard.NOBODY
        return Heard.ANSWER

    def look(self) -> None:
        """Asks, and ends it when it has not answered for too long."""
        heard = self.ask()
        if heard is Heard.ANSWER:
            self.missed = 0
            return
        holder = holder_of(self._lock)
        if holder is None or holder != self._holder:  # nobody, or another one, which has just started
            self._holder, self.missed = holder, 0
        if holder is None:
            return
        stopped = is_stopped(holder)
        # One that nobody reaches has yet to listen; unless it was stopped before.
        self.missed = self.missed + 1 if heard is Heard.SILENCE or stopped else 0
        if self.missed < (self._stopped_after if stopped else HANGS_AFTER):
            return
        log.error("%s, process %d, has left %d questions unanswered: it is ended", self._what, holder.pid, self.missed)
        kill(holder)
