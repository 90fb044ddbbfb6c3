"""Ctrl-C while the producer's state machine runs on the caller's own thread: it comes when the machine is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

try:
    # What `signal` wraps: 1 us instead of 12, which it takes to make enumerations of numbers and handlers.
    import _signal as _handlers  # type: ignore[import-not-found]
except ImportError:  # another interpreter
    _handlers = signal


class Uninterrupted:
    """Keeps KeyboardInterrupt out of the block, and raises it at the end.

    Only the main thread is ever interrupted; in any other this does nothing.
    """

    __slots__ = ("_handler", "_pending")

    def __init__(self) -> None:
        self._handler: Any = None
        self._pending = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = _handlers.getsignal(signal.SIGINT)
            if callable(handler):  # else Ctrl-C ends the process, or is ignored
                self._handler = handler
                _handlers.signal(signal.SIGINT, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            _handlers.signal(signal.SIGINT, handler)
            if self._pending:
                signal.raise_signal(signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
