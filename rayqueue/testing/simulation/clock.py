"""The two clocks of a process: boot time, which only runs (a little fast or slow), and wall time, which is set."""

from __future__ import annotations

from rayqueue.testing.simulation.scheduler import Scheduler


class Clock:
    """Clocks over virtual time.

    Attributes:
        rate: how fast boot time runs against virtual time. offset_ms: what it shows at virtual time 0.
        wall_offset_ms: wall time minus boot time; a step changes it.
    """

    def __init__(self, scheduler: Scheduler, rate: float = 1.0, offset_ms: int = 0, wall_offset_ms: int = 0) -> None:
        self._scheduler = scheduler
        self.rate = rate
        self.offset_ms = offset_ms
        self.wall_offset_ms = wall_offset_ms

    def now_ms(self) -> int:
        """Boot time."""
        return self.offset_ms + int(self._scheduler.now_us * self.rate) // 1000

    def wall_ms(self) -> int:
        """Wall time."""
        return self.now_ms() + self.wall_offset_ms

    def step_wall(self, ms: int) -> None:
        """Somebody sets the wall clock, forward or back."""
        self.wall_offset_ms += ms

    def virtual_us(self, boot_ms: int) -> int:
        """The virtual time at which boot time shows that."""
        return int((boot_ms - self.offset_ms) * 1000 / self.rate) + 2
