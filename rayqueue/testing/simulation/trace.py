"""What happened, in lines one can read. Kept only for who wants to read it: formatting costs more than running."""

from __future__ import annotations

from rayqueue.testing.simulation.scheduler import Scheduler


class Trace:
    """Lines with virtual time and place.

    Attributes:
        on: whether lines are kept; ask before making one.
    """

    def __init__(self, scheduler: Scheduler, on: bool) -> None:
        self._scheduler = scheduler
        self.on = on
        self.lines: list[str] = []

    def add(self, where: object, text: str) -> None:
        """Adds a line."""
        if self.on:
            self.lines.append(f"{self._scheduler.now_us / 1e6:10.6f}  {where!s:<10} {text}")
