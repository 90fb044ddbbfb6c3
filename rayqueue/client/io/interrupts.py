"""Signals while a client's state machine runs on the caller's own thread: handlers run when the machine is done."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

try:
    # What `signal` wraps: 1 us instead of 12, which it takes to make enumerations of numbers and handlers.
    import _signal as _handlers  # type: ignore[import-not-found]
except ImportError:  # another interpreter
    _handlers = signal

# Those whose handlers raise in practice: Ctrl-C, requests to end, alarms, the users' own. To ask for all costs more.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGUSR1", "SIGUSR2")
_SIGNALS = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))

_main = threading.main_thread().ident  # to ask for it each time takes four calls


def _in_child() -> None:
    global _main
    _main = threading.main_thread().ident


os.register_at_fork(after_in_child=_in_child)


class Uninterrupted:
    """Keeps signal handlers out of the block, and has them run, and raise, at the end.

    Only the main thread is ever interrupted; in any other this does nothing.
    """

    __slots__ = ("_held", "_pending")

    def __init__(self) -> None:
        self._held: list[tuple[int, Any]] = []
        self._pending: set[int] = set()

    def __enter__(self) -> None:
        if threading.get_ident() != _main:
            return
        try:
            for number in _SIGNALS:
                handler = _handlers.getsignal(number)
                if callable(handler):  # else the signal ends the process, or is ignored
                    self._held.append((number, handler))
                    _handlers.signal(number, self._note)
        except BaseException:  # a handler that was not held yet
            self._let_go()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._let_go()

    def _let_go(self) -> None:
        held = self._held
        try:
            while held:
                number, handler = held[-1]
                _handlers.signal(number, handler)
                held.pop()
                if number in self._pending:
                    signal.raise_signal(number)
        finally:
            if held:
                self._let_go()  # one of them has raised: the others are given back all the same

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending.add(number)
