"""A network between addresses that loses, delays, repeats and overtakes messages, and can be cut, also one way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from random import Random
from typing import Any

from rayqueue.testing.simulation.scheduler import Scheduler

Address = Hashable
Handler = Callable[[Any], None]


class Network:
    """Delivers messages to handlers.

    Messages are handed over as they are, not copied: they must be immutable. Each takes a delay of its own, so that
    one sent later may arrive earlier.

    Attributes:
        delay_us_min, delay_us_max: of a message. late_us_max: how late a repeated one may come.
        loss, duplication: chances that a message is lost, or comes twice.
        sent, delivered, lost, duplicated, cut_off: counters, the proof that faults took effect.
    """

    def __init__(self, scheduler: Scheduler, random: Random) -> None:
        self._scheduler = scheduler
        self._random = random.random
        self._handlers: dict[Address, Handler] = {}
        self._cuts: dict[tuple[Address, Address], int] = {}
        self._slow: dict[tuple[Address, Address], int] = {}
        self.delay_us_min, self.delay_us_max = 100, 2_000
        self.late_us_max = 2_000_000
        self.loss = self.duplication = 0.0
        self.sent = self.delivered = self.lost = self.duplicated = self.cut_off = 0

    def attach(self, address: Address, handler: Handler) -> None:
        """From now on `handler` gets what is sent to this address, also what is on its way already."""
        self._handlers[address] = handler

    def send(self, source: Address, target: Address, message: Any) -> None:
        """Sends a message; it may get lost."""
        self.sent += 1
        if self._cuts.get((source, target)):
            self.cut_off += 1
            return
        if self.loss and self._random() < self.loss:
            self.lost += 1
            return
        self._carry(source, target, message, 0)
        if self.duplication and self._random() < self.duplication:
            self.duplicated += 1
            self._carry(source, target, message, int(self._random() ** 3 * self.late_us_max))

    def _carry(self, source: Address, target: Address, message: Any, delay: int) -> None:
        delay += self.delay_us_min + int(self._random() * (self.delay_us_max - self.delay_us_min))
        delay += self._slow.get((source, target), 0)
        self._scheduler.after(delay, partial(self._deliver, source, target, message))

    def _deliver(self, source: Address, target: Address, message: Any) -> None:
        if self._cuts.get((source, target)):
            self.cut_off += 1  # cut while it was on its way
            return
        self.delivered += 1
        self._handlers[target](message)

    def cut(self, links: Iterable[tuple[Address, Address]]) -> Callable[[], None]:
        """Cuts links, each in one direction; the returned function heals them. Cuts may overlap."""
        cut = list(links)
        for link in cut:
            self._cuts[link] = self._cuts.get(link, 0) + 1

        def heal() -> None:
            for link in cut:
                self._cuts[link] -= 1

        return heal

    def slow(self, links: Iterable[tuple[Address, Address]], delay_us: int) -> Callable[[], None]:
        """Adds a delay to links; the returned function takes it away again."""
        slowed = list(links)
        for link in slowed:
            self._slow[link] = self._slow.get(link, 0) + delay_us

        def heal() -> None:
            for link in slowed:
                self._slow[link] -= delay_us

        return heal


def between(some: Iterable[Address], others: Iterable[Address]) -> list[tuple[Address, Address]]:
    """The links between two groups, in both directions."""
    others = list(others)
    return [link for a in some for b in others for link in ((a, b), (b, a))]
