"""What the nemesis can do to the coordinator of simulated partitions, and to what brokers and it tell each other."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from rayqueue.testing.simulation.nemesis import Injected
from rayqueue.testing.simulation.network import between
from tests.simulation.partitions_broker import Broker
from tests.simulation.partitions_coordinator import COORDINATOR

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World


class CoordinatorFaults:
    """See the module. victim: draws a broker that is up."""

    def __init__(self, world: World, victim: Callable[[], Broker | None]) -> None:
        self._world = world
        self._random: Random = world.random
        self._victim = victim

    def all(self) -> dict[str, Callable[[], Injected | None]]:
        """By name."""
        return {
            "cut off from the coordinator": self.cut_off,
            "coordinator away": self.coordinator_away,
            "coordinator stopped": self.coordinator_stopped,
            "slow quorum": self.slow_quorum,
            "lost answers": self.lost_answers,
            "late metadata": self.late_metadata,
        }

    def cut_off(self) -> Injected | None:
        """A broker and the coordinator do not hear each other, or one does not hear the other."""
        victim = self._victim()
        if victim is None:
            return None
        network, before = self._world.network, self._world.network.cut_off
        links = between([victim.broker_id], [COORDINATOR])
        heal = network.cut(self._random.choice((links, links[:1], links[1:])))

        def proof() -> str:
            lost = network.cut_off - before
            return f"{lost} messages lost" if lost else ""

        return Injected(f"cut {victim.broker_id} off from the coordinator", heal, proof)

    def coordinator_away(self) -> Injected | None:
        """The active coordinator crashes; a standby takes over, at once or after a while."""
        coordinator = self._world.coordinator
        if coordinator.away:
            return None
        before, ignored = coordinator.epoch, coordinator.ignored
        coordinator.crash()
        if self._random.random() < 0.5:
            self._world.scheduler.after(self._random.randint(100, 50_000), coordinator.take_over)

        def proof() -> str:
            unheard, epochs = coordinator.ignored - ignored, coordinator.epoch - before
            return f"{unheard} messages unheard, {epochs} epochs later" if unheard or epochs else ""

        return Injected("coordinator away", coordinator.take_over, proof)

    def coordinator_stopped(self) -> Injected | None:
        """SIGSTOP of the active coordinator, and no other takes over meanwhile."""
        coordinator = self._world.coordinator
        process = coordinator.process
        if coordinator.away or process.paused:
            return None
        process.pause()

        def heal() -> None:
            if coordinator.process is process:
                coordinator.resume()

        return Injected(
            "coordinator stopped", heal, lambda: f"{process.waited} events waited" if process.waited else ""
        )

    def slow_quorum(self) -> Injected | None:
        """It takes long until a majority has what the coordinator decides."""
        coordinator, before = self._world.coordinator, self._world.coordinator.commits
        slow_us = self._random.choice((20_000, 200_000, 800_000))

        def turn(us: int) -> None:
            coordinator.slow_us = us

        def proof() -> str:
            count = coordinator.commits - before
            return f"{count} commits so" if count else ""

        turn(slow_us)
        return Injected(f"commits take {slow_us // 1000} ms more", lambda: turn(0), proof)

    def lost_answers(self) -> Injected | None:
        """Connections break before the coordinator has answered what replicas ask of it."""
        coordinator = self._world.coordinator
        if coordinator.lost_answers >= 0:
            return None
        coordinator.lost_answers = 0

        def heal() -> None:
            coordinator.lost_answers = -1

        def proof() -> str:
            return f"{coordinator.lost_answers} lost" if coordinator.lost_answers else ""

        return Injected("answers of the coordinator are lost", heal, proof)

    def late_metadata(self) -> Injected | None:
        """The thread that follows the metadata log is busy, it recovers a log perhaps; all else goes on."""
        victim = self._victim()
        if victim is None:
            return None
        process = victim.metadata.process
        process.pause()

        def heal() -> None:
            if process.alive and not victim.paused:
                process.resume()

        return Injected(
            f"metadata is late at {victim.incarnation}",
            heal,
            lambda: f"{process.waited} batches waited" if process.waited else "",
        )
