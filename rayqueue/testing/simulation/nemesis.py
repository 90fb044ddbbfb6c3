"""The source of faults: draws them, applies them, heals them, and keeps the proof that each took effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace


@dataclass(eq=False)
class Injected:
    """A fault that is there.

    Attributes:
        text: what was done to whom.
        heal: undoes it.
        proof: what it has done so far; "": nothing that anybody could have noticed.
    """

    text: str
    heal: Callable[[], None]
    proof: Callable[[], str]


class Nemesis:
    """Injects faults one after the other; they may overlap. One draw in four is no fault.

    Args:
        faults: name -> what injects it; gives None when it is not possible at present.
        gap_us: time between draws, at most. duration_us: how long a fault lasts, at most.

    Attributes:
        in_effect: a line for each fault that took effect.
    """

    NO_FAULT = 0.25

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        trace: Trace,
        faults: Mapping[str, Callable[[], Injected | None]],
        gap_us: int,
        duration_us: int,
    ) -> None:
        self._scheduler = scheduler
        self._random = random
        self._trace = trace
        self._faults = dict(faults)
        self._gap_us, self._duration_us = gap_us, duration_us
        self._there: list[Injected] = []
        self._over = False
        self.draws = 0
        self.in_effect: list[str] = []

    def start(self) -> None:
        """Begins to draw."""
        self._scheduler.after(self._random.randint(1, self._gap_us), self._draw)

    def _draw(self) -> None:
        if self._over:
            return
        self.draws += 1
        self.start()
        if self._random.random() < self.NO_FAULT:
            self._trace.add("nemesis", "no fault")
            return
        name = self._random.choice(list(self._faults))
        injected = self._faults[name]()
        if injected is None:
            self._trace.add("nemesis", f"{name}: not possible now")
            return
        self._trace.add("nemesis", f"{name}: {injected.text}")
        self._there.append(injected)
        duration_us = self._random.randint(self._duration_us // 10, self._duration_us)
        self._scheduler.after(duration_us, lambda: self._end(injected))

    def _end(self, injected: Injected) -> None:
        if injected not in self._there:
            return
        self._there.remove(injected)
        proof = injected.proof()
        if proof:
            self.in_effect.append(f"{injected.text}: {proof}")
        injected.heal()
        self._trace.add("nemesis", f"healed: {injected.text} ({proof or 'without effect'})")

    def heal(self) -> None:
        """No more faults: heals all that are there."""
        self._over = True
        for injected in list(self._there):
            self._end(injected)
