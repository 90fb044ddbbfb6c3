"""What the nemesis can do to simulated partitions, each with the proof that it took effect."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from rayqueue.replication import events as ev
from rayqueue.testing.simulation.nemesis import Injected
from rayqueue.testing.simulation.network import between
from tests.simulation.partitions_broker import Broker
from tests.simulation.partitions_coordinator import COORDINATOR, LEASE_MS, Dead
from tests.simulation.partitions_faults_coordinator import CoordinatorFaults

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World


def nothing() -> None:
    """There is nothing to heal."""


class Faults:
    """Faults of brokers, disks and links; see `CoordinatorFaults` for the others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random: Random = world.random

    def all(self) -> dict[str, Callable[[], Injected | None]]:
        """By name."""
        return {
            "kill": self.kill,
            "kill all": self.kill_all,
            "quick restart": self.quick_restart,
            "power loss": self.power_loss,
            "lost disk": self.lost_disk,
            "pause": self.pause,
            "cut": self.cut,
            "delay": self.delay,
            "zombie leader": self.zombie,
            "late acks": self.late_acks,
            "half-open connection": self.half_open,
            "slow follower": self.slow,
            "full disk": self.full_disk,
            "failing disk": self.failing_disk,
            "delete records": self.delete_records,
            "wall clock": self.wall_clock,
            **CoordinatorFaults(self._world, self.victim).all(),
        }

    def victim(self) -> Broker | None:
        """Somebody who is up, a leader in two cases of three."""
        up = [broker for broker in self._world.brokers.values() if broker.alive and not broker.paused]
        leaders = [broker for broker in up if any(host.leading for host in broker.hosts)]
        if leaders and self._random.random() < 0.66:
            up = leaders
        return self._random.choice(up) if up else None

    def _may_lose(self, victim: Broker) -> bool:
        """Whether one replica's data may go: two replicas hold what is committed, so one at a time, and not the last.

        Where every ack is of something durable any machine may lose power at any time, but not its disk."""
        world = self._world
        for number, state in enumerate(world.coordinator.partitions):
            others = [broker for broker in world.brokers.values() if broker is not victim]
            if any(number in broker.tainted for broker in others):
                return False
            if not any(broker.broker_id in (*state.isr, *state.elr) for broker in others):
                return False
        return True

    # --- processes ---------------------------------------------------------------------------------------------------

    def kill(self) -> Injected | None:
        """SIGKILL; the page cache lives."""
        victim = self.victim()
        if victim is None:
            return None
        led = sum(host.leading for host in victim.hosts)
        self._end(victim)
        return Injected(f"kill {victim.incarnation}", lambda: self._restart(victim), lambda: f"it led {led}")

    def quick_restart(self) -> Injected | None:
        """A process that leads nothing, if there is one, ends and is there again at once."""
        up = [broker for broker in self._world.brokers.values() if broker.alive and not broker.paused]
        if not up:
            return None
        victim = min(up, key=lambda broker: (sum(host.leading for host in broker.hosts), self._random.random()))
        name = victim.incarnation
        self._end(victim)
        self._world.scheduler.after(self._random.randint(1_000, 20_000), lambda: self._restart(victim))
        return Injected(f"quick restart of {name}", lambda: self._restart(victim), lambda: f"then {victim.incarnation}")

    def _end(self, victim: Broker) -> None:
        """Its broker sees the process die, mostly; else the lease has to run out."""
        victim.kill()
        if self._random.random() < 0.7:
            self._world.network.send(COORDINATOR, COORDINATOR, Dead(victim.incarnation))

    def _restart(self, broker: Broker) -> None:
        if not broker.alive:
            broker.start(self._world.config)

    def kill_all(self) -> Injected | None:
        """All at once."""
        up = [broker for broker in self._world.brokers.values() if broker.alive]
        for broker in up:
            broker.kill()

        def heal() -> None:
            for broker in up:
                self._restart(broker)

        return Injected("kill all", heal, lambda: f"{len(up)} killed" if up else "")

    def power_loss(self) -> Injected | None:
        """Machines lose power, and what was not durable; without an fsync before each ack all but one of them have been
        lucky, their kernels had written everything. None of them knows."""
        victim = self.victim()
        if victim is None:
            return None
        trusted = self._world.config.flush_messages == 1
        if not trusted and not self._may_lose(victim):
            return None
        others = [one for one in self._world.brokers.values() if one.alive and one is not victim]
        others = self._random.sample(others, self._random.choice((0, len(others) // 2, len(others))))
        for one in () if trusted else others:
            one.write_back()
        victims = [victim, *others]
        lost = [one.lose_power() for one in victims]
        names = ", ".join(one.incarnation for one in victims)

        def heal() -> None:
            for one in victims:
                self._restart(one)

        # A short one is over before anybody notices: then the new process meets the old leadership.
        if self._random.random() < 0.5:
            self._world.scheduler.after(self._random.randint(1_000, 100_000), heal)
        return Injected(f"power loss of {names}", heal, lambda: f"{sum(lost)} batches lost")

    def lost_disk(self) -> Injected | None:
        """The node is gone with its disk; an empty one takes its place."""
        victim = self.victim()
        # A topic that flushes before each ack trusts its disks: there an unclean start is as good as a clean one.
        if victim is None or self._world.config.flush_messages == 1 or not self._may_lose(victim):
            return None
        lost = victim.lose_power(disk_too=True)
        return Injected(
            f"lost disk of {victim.incarnation}", lambda: self._restart(victim), lambda: f"{lost} batches lost"
        )

    def pause(self) -> Injected | None:
        """SIGSTOP, mostly past the lease."""
        victim = self.victim()
        if victim is None:
            return None
        begun_us = self._world.scheduler.now_us
        processes = victim.processes
        victim.pause()

        def heal() -> None:
            if victim.paused and processes[0].alive:
                victim.resume()

        def proof() -> str:
            ms = (self._world.scheduler.now_us - begun_us) // 1000
            past = "past its lease, " if ms > LEASE_MS else ""
            waited = sum(process.waited for process in processes)
            return f"{past}{waited} events waited" if waited else ""

        return Injected(f"pause {victim.incarnation}", heal, proof)

    # --- links -------------------------------------------------------------------------------------------------------

    def cut(self) -> Injected | None:
        """Between two brokers, or one and all others, clients too; both ways or one."""
        world = self._world
        victim = self.victim()
        if victim is None:
            return None
        me, others = victim.broker_id, [one for one in world.brokers if one != victim.broker_id]
        if self._random.random() < 0.5:
            others = [self._random.choice(others)]
        links = between([me], others)
        if self._random.random() < 0.3:
            links = links[:: self._random.choice((1, 2))]
        if self._random.random() < 0.3:
            links += between([me], [client.name for client in world.producers])
        before = world.network.cut_off
        heal = world.network.cut(links)
        self._world.scheduler.after(self._random.randint(1_000, 300_000), lambda: self._break(me, others))

        def proof() -> str:
            lost = world.network.cut_off - before
            return f"{lost} messages lost" if lost else ""

        return Injected(f"cut {me} from {others}", heal, proof)

    def _break(self, me: int, others: list[int]) -> None:
        """Connections over a cut link break, in the end, also when the link is there again."""
        pair = {me, *others}
        for broker in self._world.brokers.values():
            for stream in broker.streams:
                ends = {stream.follower.broker_id, stream.leader}
                if me in ends and ends <= pair:
                    stream.break_soon(300_000)

    def delay(self) -> Injected | None:
        """All that a broker says takes long, or all messages come twice or in another order."""
        victim = self.victim()
        if victim is None:
            return None
        network = self._world.network
        others = [COORDINATOR, *(one for one in self._world.brokers if one != victim.broker_id)]
        before, delay_us = network.sent, self._random.choice((5_000, 50_000, 300_000))
        heal = network.slow([(victim.broker_id, other) for other in others], delay_us)
        return Injected(
            f"what {victim.broker_id} says takes {delay_us // 1000} ms more",
            heal,
            lambda: f"{network.sent - before} messages sent meanwhile",
        )

    def zombie(self) -> Injected | None:
        """A broker does not hear the coordinator any more, clients still reach it, and what it pushes comes late."""
        victim = self.victim()
        if victim is None:
            return None
        network, me = self._world.network, victim.broker_id
        others = [one for one in self._world.brokers if one != me]
        links = between([me], [COORDINATOR])
        if self._random.random() < 0.5:
            links += [(other, me) for other in others]
        hear_again = network.cut(links)
        hurry = network.slow([(me, other) for other in others], self._random.choice((100_000, 400_000, 900_000)))
        before = network.cut_off
        self._world.scheduler.after(self._random.randint(1_000, 300_000), lambda: self._break(me, others))

        def heal() -> None:
            hear_again()
            hurry()

        def proof() -> str:
            lost = network.cut_off - before
            return f"{lost} messages lost" if lost else ""

        return Injected(f"zombie {victim.incarnation}", heal, proof)

    def late_acks(self) -> Injected | None:
        """What a follower says is on its way for long; meanwhile its machine loses power, is back at once, and slow."""
        world = self._world
        up = [broker for broker in world.brokers.values() if broker.alive and not broker.paused]
        if not up:
            return None
        victim = min(up, key=lambda broker: sum(host.leading for host in broker.hosts))
        others = [one for one in world.brokers if one != victim.broker_id]
        hurry = world.network.slow(
            [(victim.broker_id, other) for other in others], self._random.randint(50_000, 300_000)
        )
        lost: list[int] = []

        def crash() -> None:
            hurry()
            if victim.alive and (world.config.flush_messages == 1 or self._may_lose(victim)):
                lost.append(victim.lose_power())
                turn(400_000)
                world.scheduler.after(self._random.randint(1_000, 20_000), lambda: self._restart(victim))

        def turn(us: int) -> None:
            for host in victim.hosts:
                host.slow_us = us

        world.scheduler.after(self._random.randint(20_000, 280_000), crash)
        return Injected(
            f"late acks of {victim.incarnation}", lambda: turn(0), lambda: f"{sum(lost)} batches lost" if lost else ""
        )

    def half_open(self) -> Injected | None:
        """A follower takes its connections for broken and makes others; the leader does not know."""
        victim = self.victim()
        if victim is None:
            return None
        streams = [host.stream for host in victim.hosts if host.stream is not None and host.stream.answered]
        for stream in streams:
            stream.close(0)
        return Injected(
            f"half-open connections of {victim.broker_id}",
            nothing,
            lambda: f"{len(streams)} streams" if streams else "",
        )

    # --- disks and clocks --------------------------------------------------------------------------------------------

    def slow(self) -> Injected | None:
        """A broker whose writes take long."""
        victim = self.victim()
        if victim is None:
            return None
        slow_us = self._random.choice((5_000, 50_000, 400_000))
        ends = [host.log.end for host in victim.hosts]

        def turn(us: int) -> None:
            for host in victim.hosts:
                host.slow_us = us

        def proof() -> str:
            grown = sum(abs(host.log.end - end) for host, end in zip(victim.hosts, ends, strict=True))
            return f"{grown} records written so" if grown else ""

        turn(slow_us)
        return Injected(f"writes of {victim.broker_id} take {slow_us // 1000} ms", lambda: turn(0), proof)

    def full_disk(self) -> Injected | None:
        """No space is left; nothing of a write gets there."""
        victim = self.victim()
        if victim is None:
            return None
        before = sum(host.failed_writes for host in victim.hosts)

        def turn(full: bool) -> None:
            for host in victim.hosts:
                host.disk_full = full

        def proof() -> str:
            count = sum(host.failed_writes for host in victim.hosts) - before
            return f"{count} writes failed" if count else ""

        turn(True)
        return Injected(f"full disk of {victim.broker_id}", lambda: turn(False), proof)

    def failing_disk(self) -> Injected | None:
        """A log fails for good, and its process with it: what it had not made durable may be gone."""
        victim = self.victim()
        if victim is None or not self._may_lose(victim):
            return None
        host = self._random.choice(victim.hosts)
        process, machine = host.process, host.machine
        process.post(ev.LogFailed("an fsync failed"))

        def heal() -> None:
            if process.alive and self._may_lose(victim):
                victim.lose_power()
            elif process.alive:
                victim.kill()
            self._restart(victim)

        return Injected(f"failing disk of {victim.incarnation}", heal, lambda: machine.offline)

    def delete_records(self) -> Injected | None:
        """A user deletes records, up to any offset that is committed."""
        leading = [h for b in self._world.brokers.values() if b.alive and not b.paused for h in b.hosts if h.leading]
        if not leading:
            return None
        host = self._random.choice(leading)
        before, start = host.log.start, self._random.randint(host.log.start, host.machine.high_watermark)
        host.log.advance_start(start)
        host.process.post(ev.StartMoved(start))
        gone = start - before
        return Injected(
            f"delete below {start} of partition {host.partition}",
            nothing,
            lambda: f"{gone} records" if gone else "",
        )

    def wall_clock(self) -> Injected | None:
        """Somebody sets a wall clock."""
        broker = self._random.choice(list(self._world.brokers.values()))
        ms = self._random.choice((-3_600_000, -5_000, 5_000, 86_400_000))
        broker.clock.step_wall(ms)
        return Injected(f"step the wall clock of {broker.broker_id}", nothing, lambda: f"{ms} ms")
