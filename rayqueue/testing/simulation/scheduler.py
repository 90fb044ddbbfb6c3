"""Virtual time: a heap of things that happen. One thread, one seed, so a run can be had again exactly."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

# Actions between two questions whether it is done.
_ASK_EVERY = 16


class Scheduler:
    """Runs actions in the order of their times; those of one time in an order drawn at random.

    Attributes:
        now_us: virtual time in microseconds.
        steps: how many actions have run.
    """

    def __init__(self, random: Random) -> None:
        self.now_us = 0
        self.steps = 0
        self._random = random.random
        self._count = 0
        self._heap: list[tuple[int, float, int, Callable[[], None]]] = []

    def at(self, time_us: int, action: Callable[[], None]) -> None:
        """Runs `action` at that time; at once, if it is over."""
        self._count += 1
        heappush(self._heap, (max(time_us, self.now_us), self._random(), self._count, action))

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Runs `action` after a delay."""
        self._count += 1
        heappush(self._heap, (self.now_us + delay_us, self._random(), self._count, action))

    def run(self, until_us: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Runs what is due until that time, or until `done()`, which is asked now and then; whether it was."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, _, action = heappop(heap)
            self.steps += 1
            action()
            if not self.steps % _ASK_EVERY and done():
                return True
        self.now_us = until_us
        return done()
