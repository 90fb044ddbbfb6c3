"""A process that drives one machine: takes events, steps, performs effects, and wakes at deadlines. Can be stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.scheduler import Scheduler


class Machine(Protocol):
    """What every protocol core is."""

    def next_deadline_ms(self) -> int | None:
        """When it wants to be stepped in any case."""


class Process:
    """Runs a machine until it is ended.

    Args:
        step: takes an event and boot time, gives the effects (a machine's `step`, its wall time filled in).
        tick: the event that says time has passed.
        perform: does what the effects say; an event that comes back goes to `post`.

    Attributes:
        alive, paused: as by SIGKILL and SIGSTOP. What comes while it is paused waits; its deadlines pass.
        waited: events that came while it was paused.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        machine: Machine,
        step: Callable[[Any, int], Sequence[Any]],
        tick: Any,
        perform: Callable[[Sequence[Any]], None],
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._machine = machine
        self._step = step
        self._tick = tick
        self._perform = perform
        self._events: deque[Any] = deque()
        self._inside = False
        self._wake_us: int | None = None
        self.alive = True
        self.paused = False
        self.waited = 0

    def post(self, event: Any) -> None:
        """An event for the machine; lost when the process is dead."""
        if not self.alive:
            return
        self._events.append(event)
        if self.paused:
            self.waited += 1
        elif not self._inside:
            self._run()

    def _run(self) -> None:
        self._inside = True
        while self._events and self.alive and not self.paused:
            self._perform(self._step(self._events.popleft(), self._clock.now_ms()))
        self._inside = False
        self._sleep()

    def _sleep(self) -> None:
        deadline = self._machine.next_deadline_ms()
        if deadline is None or not self.alive:
            return
        wake_us = max(self._clock.virtual_us(deadline), self._scheduler.now_us + 1)
        # A wake that is scheduled earlier finds the deadline not reached and sleeps on: cheaper than taking it back.
        if self._wake_us is None or wake_us < self._wake_us:
            self._wake_us = wake_us
            self._scheduler.at(wake_us, lambda: self._wake(wake_us))

    def _wake(self, wake_us: int) -> None:
        if wake_us != self._wake_us:
            return
        self._wake_us = None
        if not self.alive or self.paused:
            return
        deadline = self._machine.next_deadline_ms()
        if deadline is not None and deadline <= self._clock.now_ms():
            self.post(self._tick)
        else:
            self._sleep()

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True

    def resume(self) -> None:
        """SIGCONT: what has waited comes first, then the deadlines that have passed."""
        self.paused = False
        if self.alive:
            self._events.append(self._tick)
            self._run()

    def end(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._events.clear()
