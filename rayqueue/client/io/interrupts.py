"""Ctrl-C while the producer's state machine runs on the caller's own thread: it comes when the machine is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Uninterrupted:
    """Keeps KeyboardInterrupt out of the block, and raises it at the end.

    Only the main thread is ever interrupted; in any other this does nothing.
    """

    __slots__ = ("_handler", "_pending")

    def __init__(self) -> None:
        self._handler: object = None
        self._pending = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):  # else Ctrl-C ends the process, or is ignored
                self._handler = handler
                signal.signal(signal.SIGINT, self._note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]
            if self._pending:
                signal.raise_signal(signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
