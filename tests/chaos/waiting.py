"""Waiting for what other processes bring about; an error of ours or of Ray counts as not yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError

from rayqueue.errors import RayQueueError

INTERVAL_S = 0.05


class NotYet(AssertionError):
    """Something did not come about in its time."""


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """What `condition` gives once it is true.

    Raises:
        NotYet: it did not become true in that time.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    last = ""
    while True:
        try:
            if found := condition():
                return found
        except (RayQueueError, RayError) as error:
            last = f" ({type(error).__name__}: {error})"
        if time.monotonic() > deadline:
            raise NotYet(f"{what} did not come about in {timeout_s:g} s{last}")
        pause.wait(INTERVAL_S)


def pause(seconds: float) -> None:
    """Lets time pass: how long a fault lasts is part of the schedule, not something to wait for."""
    threading.Event().wait(seconds)
