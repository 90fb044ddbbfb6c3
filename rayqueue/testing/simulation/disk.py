"""A disk: what was written and not yet synced is lost at a crash, or part of it is, or half of one write.

    write 1, 2, 3 ── sync begins ── write 4 ── sync ends: 1, 2, 3 durable ── crash: of 4 all, nothing or a part stays

A write is an operation on a `Store`, the durable state. Each names the file it goes to: within a file an operation
survives only with all before it, across files anything may survive without the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from random import Random
from typing import Any, Protocol

from rayqueue.testing.simulation.scheduler import Scheduler


class Store(Protocol):
    """The durable state of one process."""

    def apply(self, operation: Any) -> None:
        """The operation has reached the disk."""

    def file_of(self, operation: Any) -> Hashable:
        """Which file it goes to."""

    def torn(self, operation: Any, random: Random) -> Any | None:
        """What a crash in the middle of the write leaves of it; None: nothing."""


class Disk:
    """Writes with numbers, made durable in groups.

    Args:
        on_durable: called with the number of the last write that is durable.
        on_failure: called when a sync fails; nothing more is said then.

    Attributes:
        latency_us_min, latency_us_max: of a sync. extra_us: what is added while the disk is slow.
        fails: the next sync fails.
        syncs, slow_syncs, lost, torn: counters, the proof that faults took effect.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        store: Store,
        on_durable: Callable[[int], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._random = random
        self._store = store
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._pending: deque[tuple[int, Any]] = deque()
        self._syncing = False
        self._crashes = 0
        self.latency_us_min, self.latency_us_max, self.extra_us = 100, 1_500, 0
        self.fails = False
        self.syncs = self.slow_syncs = self.lost = self.torn = 0

    def write(self, number: int, operation: Any) -> None:
        """Writes; durable some time after `sync`."""
        self._pending.append((number, operation))

    def sync(self) -> None:
        """Makes durable what was written; while one sync is under way, the next one waits for all that comes."""
        if self._syncing or not self._pending:
            return
        self._syncing = True
        self.syncs += 1
        self.slow_syncs += self.extra_us > 0
        span = self.latency_us_max - self.latency_us_min
        delay = self.latency_us_min + int(self._random.random() * span) + self.extra_us
        self._scheduler.after(delay, partial(self._synced, self._crashes, len(self._pending)))

    def _synced(self, crashes: int, count: int) -> None:
        if crashes != self._crashes:
            return
        self._syncing = False
        if self.fails:
            self.fails = False
            self._on_failure()
            return
        number = 0
        for _ in range(count):
            number, operation = self._pending.popleft()
            self._store.apply(operation)
        self.sync()
        self._on_durable(number)

    def crash(self) -> None:
        """The machine loses power: what was not synced is lost, or some of it."""
        self._crashes += 1
        self._syncing = self.fails = False
        budgets: dict[Hashable, int] = {}
        counts: dict[Hashable, int] = {}
        for _, operation in self._pending:
            file = self._store.file_of(operation)
            counts[file] = counts.get(file, 0) + 1
        for file, count in counts.items():
            budgets[file] = self._random.randint(0, count)
        for _, operation in self._pending:
            file = self._store.file_of(operation)
            budgets[file] -= 1
            if budgets[file] >= 0:
                self._store.apply(operation)
                continue
            self.lost += 1
            if budgets[file] == -1 and (part := self._store.torn(operation, self._random)) is not None:
                self.torn += 1
                self._store.apply(part)
        self._pending.clear()

    def kill(self) -> None:
        """Only the process dies: what it wrote stays in the page cache, and reaches the disk."""
        self._crashes += 1
        self._syncing = self.fails = False
        for _, operation in self._pending:
            self._store.apply(operation)
        self._pending.clear()
