"""Who does not poll leaves, where it is configured, and comes back with the next poll, whenever that comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayqueue.client.groups.watch import PollWatch
from tests.unit.client.groups.member_rig import Rig, part


class Polled:
    """A watch of a member, and polls at moments of choice.

    Attributes:
        outs: how often it has stepped out.
    """

    def __init__(self) -> None:
        self.rig = Rig().joined(part(0))
        self.machine = self.rig.machine
        self.outs = 0
        self.between: Callable[[], None] = lambda: None  # called before it steps out
        self.asking: Callable[[], None] = lambda: None  # called while the lag is asked for
        self.watch = PollWatch(Any, Any, 500, True, self.rig.now)  # type: ignore[arg-type]
        self.watch.session = self  # type: ignore[assignment]
        self.watch._lag = self._lag  # type: ignore[method-assign]

    def _lag(self) -> str:
        self.asking()
        return "lag 0 records"

    def step_out(self) -> None:
        self.between()
        self.outs += 1
        self.machine.leave(self.rig.now)

    def poll(self) -> None:
        """As the reader does."""
        self.watch.polled_ms = self.rig.now
        if self.watch.left:
            self.watch.left = False
            self.machine.subscribe(["a"])

    def silence(self) -> None:
        """It does not poll for too long."""
        self.rig.now += 600
        self.watch(self.rig.now)


def test_a_poll_while_it_leaves_does_not_use_up_the_way_back() -> None:
    polled = Polled()
    polled.between = polled.poll
    polled.silence()
    assert polled.outs == 1 and polled.watch.left, "the next poll is to bring it back"
    polled.rig.plan()
    polled.poll()
    polled.rig.answer(-1)
    assert polled.machine.phase.value == "joining"


def test_who_polls_while_its_lag_is_asked_for_stays() -> None:
    polled = Polled()
    polled.asking = polled.poll
    polled.silence()
    assert polled.outs == 0 and not polled.watch.left and polled.machine.held
    polled.asking = lambda: None
    polled.silence()
    assert polled.outs == 1 and polled.watch.left
