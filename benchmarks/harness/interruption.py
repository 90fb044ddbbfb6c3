"""Ctrl-C and SIGTERM, and the processes that must not outlive a run.

A signal raises `Interrupted` in the main thread, so that every block ends in its order: loads, peers, Ray. What an
exception at the wrong moment leaves behind is found among this process's descendants and ended by process id. Orphans
stay descendants, because the run is their reaper (PR_SET_CHILD_SUBREAPER, prctl(2)): a process whose parent has ended
becomes a child of the run's, not of init's.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

from benchmarks.harness import accounting
from benchmarks.harness.system import Say

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130  # what a shell says of a program that Ctrl-C has ended
UNWIND_WAIT_S = 30.0  # that blocks have to end by themselves, before their processes are ended
TERM_WAIT_S = 5.0  # between SIGTERM and SIGKILL
PR_SET_CHILD_SUBREAPER = 36


class Interrupted(KeyboardInterrupt):
    """The run was asked to end."""


class Interruption:
    """Turns the first signal into `Interrupted` within its block, and ends whatever was started in it.

    Attributes:
        asked: whether a signal has come. Blocks that end may raise errors of their own on top of it; this one counts.
    """

    def __init__(self, say: Say) -> None:
        self.asked = False
        self._say = say
        self._closed = threading.Event()
        self._before: set[int] = set()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        _reap_orphans(True)
        self._before = set(accounting.descendants(os.getpid()))
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        _reap_orphans(False)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """Takes the signals; to be called again after `ray.init`, which takes SIGTERM for itself."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        """
        Raises:
            Interrupted: a signal has come, and what it raised was lost, as in a destructor.
        """
        if self.asked:
            raise Interrupted

    def close(self) -> None:
        """Ends what was started. From its beginning on a signal raises nothing: what follows runs to its end."""
        first = not self._closed.is_set()
        self._closed.set()
        if first:
            self.end_processes(TERM_WAIT_S)

    def started(self) -> list[int]:
        """Process ids of all that was started since the block began and still runs."""
        return [pid for pid in accounting.descendants(os.getpid()) if pid not in self._before and running(pid)]

    def end_processes(self, wait_s: float) -> None:
        """Ends all that was started, by process id: SIGTERM, and after `wait_s` SIGKILL."""
        for number, patience_s in ((signal.SIGTERM, wait_s), (signal.SIGKILL, TERM_WAIT_S)):
            # Again and again, because what ends may start or orphan something that was not seen before.
            give_up = time.monotonic() + patience_s
            told: set[int] = set()
            while (left := self.started()) and time.monotonic() < give_up:
                send((pid for pid in left if pid not in told), number)
                told.update(left)
                time.sleep(0.02)
        _reap(pid for pid in accounting.descendants(os.getpid()) if pid not in self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked or self._closed.is_set():
            self._say("Stopping already: processes are being ended, results written.")
            return
        self.asked = True
        send(load_processes(), signal.SIGKILL)  # what they measure is of no use now, and blocks would wait for it
        threading.Thread(target=self._lose_patience, name="interruption", daemon=True).start()
        raise Interrupted(signal.Signals(number).name)

    def _lose_patience(self) -> None:
        # A block that waits for an answer which never comes ends when the process that owes it ends.
        if not self._closed.wait(UNWIND_WAIT_S):
            self.end_processes(TERM_WAIT_S)


def load_processes(system: str = "") -> list[int]:
    """Process ids of the loads that this process started (`loads.ProcessLoad`), or of those against one system."""
    load = re.compile(rf"benchmarks\.harness\.load_process \S+ {re.escape(system and system + '-')}")
    return [pid for pid in accounting.descendants(os.getpid()) if load.search(accounting.title(pid))]


def running(pid: int) -> bool:
    """Whether the process exists and has not ended (a zombie has)."""
    try:
        text = (accounting.PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Sends a signal to these processes, those that still exist."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended by itself


def _reap_orphans(wanted: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # not a child of this process, or waited for by who started it
