"""A member's connection to a group coordinator: in order both ways, until it breaks; each end learns of that later.

What a member has sent before its end broke may still be read at the other end, even after what it sends by another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from rayqueue.groups import events as ev
from rayqueue.testing.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.groups_owner import Owner

RETRANSMIT_US = 40_000


class Exchange:
    """One connection.

    Args:
        is_cut: whether nothing passes between the two at present (what is sent waits).
        hear: the member's end: what it hears. ended: it learns that the connection is gone.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        random: Random,
        owner: Owner,
        member: tuple[str, str],
        is_cut: Callable[[], bool],
        hear: Callable[[Any], None],
        ended: Callable[[], None],
    ) -> None:
        self._scheduler, self._random, self._is_cut = scheduler, random, is_cut
        self._owner, self._process, self._member = owner, owner.process, member
        self._hear, self._ended = hear, ended
        self._under_way: dict[str, deque[Callable[[], None]]] = {"up": deque(), "down": deque()}
        self._stalled_us = 0  # until when the coordinator reads nothing
        self.near = self.far = True  # whether the member's end, and the coordinator's, is open
        self.session = owner.accept(self)
        self._post(ev.Opened(*member, self.session))

    def up(self, message: Any) -> None:
        """The member sends."""
        session = self.session
        self._carry("up", lambda: self._owner.ask(message, session, self.down) if self._is_there() else None)

    def down(self, message: Any) -> None:
        """The coordinator sends."""
        self._carry("down", lambda: self._hear(message) if self.near else None)

    def _carry(self, way: str, arrive: Callable[[], None]) -> None:
        delay_us = 100 + int(self._random.random() ** 2 * 4_000)
        self._under_way[way].append(arrive)
        self._scheduler.after(delay_us, lambda: self._arrived(way))

    def _arrived(self, way: str) -> None:
        """Time for one more; whichever was sent first."""
        stalled_us = self._stalled_us - self._scheduler.now_us if way == "up" else 0
        if self._is_cut() or stalled_us > 0:
            if self.near or self.far:
                self._scheduler.after(max(RETRANSMIT_US, stalled_us), lambda: self._arrived(way))
        else:
            self._under_way[way].popleft()()

    def _is_there(self) -> bool:
        return self.far and self._owner.process is self._process and self._process.alive

    def _post(self, event: ev.Event) -> None:
        if self._owner.process is self._process:
            self._process.post(event)

    def hang_up(self) -> None:
        """The member closes its end; the other end reads what was sent before, now or much later."""
        if self.near:
            self.near = False
            self._leave_behind()

    def break_off(self) -> None:
        """The connection breaks; each end learns of it in its time."""
        self._leave_behind()
        self._scheduler.after(int(self._random.random() ** 3 * 3_000_000), self._near_end)

    def stall(self, us: int) -> None:
        """The coordinator reads nothing of it for so long."""
        self._stalled_us = max(self._stalled_us, self._scheduler.now_us + us)

    def _leave_behind(self) -> None:
        self.stall(int(self._random.random() ** 4 * 5_000_000))
        self._carry("up", self._far_end)

    def _far_end(self) -> None:
        if self.far:
            self.far = False
            if self._owner.process is self._process:
                self._owner.closed(self.session)
            self._post(ev.Closed(*self._member, self.session))

    def _near_end(self) -> None:
        if self.near:
            self.near = False
            self._ended()
