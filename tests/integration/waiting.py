"""Waiting for what other threads and processes bring about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

INTERVAL_S = 0.02


def eventually(condition: Callable[[], Any], timeout_s: float, what: str = "it") -> Any:
    """What `condition` gives once it is true; an AssertionError when it is not in that time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout_s:g} s"
        pause.wait(INTERVAL_S)
    return found
