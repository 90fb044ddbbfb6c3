"""The faults of the quorum's simulation, each with the proof that it took effect."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rayqueue.coordination.quorum.messages import Membership, Voter
from rayqueue.testing.simulation.nemesis import Injected
from rayqueue.testing.simulation.network import Network, between
from tests.simulation.quorum_checker import Checker
from tests.simulation.quorum_node import Node
from tests.simulation.quorum_store import QuorumStore


class Faults:
    """What the nemesis may do. Each method draws its victim, harms it, and says how to heal; None: not possible now."""

    def __init__(
        self,
        random: Random,
        nodes: dict[int, Node],
        network: Network,
        checker: Checker,
        stores: dict[Voter, QuorumStore],
    ) -> None:
        self._random, self._nodes, self._network = random, nodes, network
        self._checker, self._stores = checker, stores

    def all(self) -> dict[str, Callable[[], Injected | None]]:
        """By name."""
        return {
            "kill": self.kill,
            "power loss": self.power_loss,
            "kill all": self.kill_all,
            "pause": self.pause,
            "isolate": self.isolate,
            "isolate one way": self.one_way,
            "split": self.split,
            "bad network": self.bad_network,
            "slow network": self.slow_network,
            "slow disk": self.slow_disk,
            "failing disk": self.failing_disk,
            "lost disk": self.lost_disk,
            "clock": self.clock,
        }

    def _victim(self) -> Node | None:
        """Leaders first: every other time the active one, if there is one."""
        up = [node for node in self._nodes.values() if node.up and not node.machine.halted]
        actives = [node for node in up if node.active]
        if actives and self._random.random() < 0.5:
            return self._random.choice(actives)
        return self._random.choice(up) if up else None

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, power_loss: bool) -> Injected | None:
        node = self._victim()
        if node is None:
            return None
        me, lost = node.me, node.disk.lost
        node.kill(power_loss)
        proof = f"process ended, {node.disk.lost - lost} writes lost" if power_loss else "process ended"
        return Injected(f"kill {me}", lambda: restart(node), lambda: proof)

    def kill(self) -> Injected | None:
        """SIGKILL."""
        return self._kill(power_loss=False)

    def power_loss(self) -> Injected | None:
        """The machine loses power."""
        return self._kill(power_loss=True)

    def kill_all(self) -> Injected | None:
        """All processes at once."""
        victims = [node for node in self._nodes.values() if node.process.alive]
        if not victims or self._random.random() < 0.7:
            return None
        power_loss = self._random.random() < 0.5
        for node in victims:
            node.kill(power_loss)

        def heal() -> None:
            for node in victims:
                restart(node)

        return Injected("kill all", heal, lambda: f"{len(victims)} processes ended")

    def pause(self) -> Injected | None:
        """SIGSTOP."""
        node = self._victim()
        if node is None:
            return None
        process = node.process
        process.pause()

        def heal() -> None:
            process.resume()

        return Injected(f"pause {node.me}", heal, lambda: process.waited and f"{process.waited} events waited" or "")

    # --- the network --------------------------------------------------------------------------------------------------

    def _cut(self, text: str, links: list[tuple[int, int]]) -> Injected:
        before = self._network.cut_off
        heal = self._network.cut(links)

        def proof() -> str:
            count = self._network.cut_off - before
            return f"{count} messages cut off" if count else ""

        return Injected(text, heal, proof)

    def isolate(self) -> Injected | None:
        """One node hears nobody and is heard by nobody."""
        node = self._victim()
        if node is None:
            return None
        others = [b for b in self._nodes if b != node.broker_id]
        return self._cut(f"isolate {node.me}", between([node.broker_id], others))

    def one_way(self) -> Injected | None:
        """One node is not heard, or does not hear."""
        node = self._victim()
        if node is None:
            return None
        others = [b for b in self._nodes if b != node.broker_id]
        if self._random.random() < 0.5:
            return self._cut(f"{node.me} is not heard", [(node.broker_id, b) for b in others])
        return self._cut(f"{node.me} does not hear", [(b, node.broker_id) for b in others])

    def split(self) -> Injected | None:
        """Two groups."""
        brokers = list(self._nodes)
        self._random.shuffle(brokers)
        size = self._random.randint(1, len(brokers) - 1)
        return self._cut(f"split off {sorted(brokers[:size])}", between(brokers[:size], brokers[size:]))

    def bad_network(self) -> Injected | None:
        """Messages get lost, and come twice."""
        network = self._network
        if network.loss:
            return None
        before = network.lost + network.duplicated
        network.loss, network.duplication = self._random.choice((0.02, 0.1, 0.3)), self._random.choice((0.0, 0.1))

        def heal() -> None:
            network.loss = network.duplication = 0.0

        def proof() -> str:
            count = network.lost + network.duplicated - before
            return f"{count} messages lost or doubled" if count else ""

        return Injected(f"lose {network.loss:.0%}", heal, proof)

    def slow_network(self) -> Injected | None:
        """All that one node says takes long."""
        node = self._victim()
        if node is None:
            return None
        links = between([node.broker_id], [b for b in self._nodes if b != node.broker_id])
        before, delay_us = self._network.sent, self._random.choice((20_000, 150_000, 500_000))
        heal = self._network.slow(links, delay_us)
        return Injected(
            f"messages of {node.me} take {delay_us // 1000} ms more",
            heal,
            lambda: f"{self._network.sent - before} messages sent meanwhile" if self._network.sent > before else "",
        )

    # --- disks and clocks ---------------------------------------------------------------------------------------------

    def slow_disk(self) -> Injected | None:
        """Syncs take long."""
        node = self._victim()
        if node is None:
            return None
        disk = node.disk
        before, disk.extra_us = disk.slow_syncs, self._random.choice((10_000, 100_000, 700_000))

        def heal() -> None:
            disk.extra_us = 0

        def proof() -> str:
            return f"{disk.slow_syncs - before} slow syncs" if disk.slow_syncs > before else ""

        return Injected(f"slow disk of {node.me}", heal, proof)

    def failing_disk(self) -> Injected | None:
        """The next sync fails, and with it the node."""
        node = self._victim()
        if node is None:
            return None
        machine = node.machine
        node.disk.fails = True

        def heal() -> None:
            node.disk.fails = False
            if node.machine is machine and machine.halted:
                if node.process.alive:
                    node.kill(power_loss=True)
                restart(node)

        return Injected(f"failing disk of {node.me}", heal, lambda: machine.halted)

    def lost_disk(self) -> Injected | None:
        """The directory is gone for good; only while a majority is left of every membership that may be in force."""
        node = self._victim()
        if node is None or not self._may_lose(node.me):
            return None
        old = node.me
        node.lose_disk()
        proof = f"directory {old} is gone, now {node.me}"
        return Injected(f"lose the disk of {old}", lambda: restart(node), lambda: proof)

    def _may_lose(self, victim: Voter) -> bool:
        memberships: list[Membership] = [node.machine.log.membership for node in self._nodes.values()]
        for store in self._stores.values():
            memberships.append(disk_membership(store))
        for membership in memberships:
            left = [voter for voter in membership.voters if voter in self._stores and voter != victim]
            if membership.voters and len(left) < membership.majority:
                return False
        return True

    def clock(self) -> Injected | None:
        """Somebody sets a wall clock; boot time does not care, and nor may we."""
        node = self._random.choice(list(self._nodes.values()))
        before, ms = node.clock.wall_ms(), self._random.choice((-3_600_000, -5_000, 5_000, 86_400_000))
        node.clock.step_wall(ms)
        text = f"step the wall clock of {node.me}"
        return Injected(text, lambda: None, lambda: f"{node.clock.wall_ms() - before} ms")


def disk_membership(store: QuorumStore) -> Membership:
    """The newest membership on a disk."""
    from rayqueue.coordination.quorum.log import QuorumLog

    return QuorumLog(store.recovered()).membership


def restart(node: Node) -> None:
    """Starts the process again, if nobody else has."""
    if not node.process.alive:
        node.start()
