"""What SIGTERM does: the command unwinds, so that what is open is closed as on Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def unwind_on_sigterm() -> None:
    """Makes SIGTERM an exit. To be called again after Ray has been connected to: it sets a handler of its own."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
