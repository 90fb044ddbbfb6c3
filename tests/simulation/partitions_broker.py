"""A simulated broker with its replicas, which live and die together: registration, heartbeats, addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rayqueue.config import TopicConfig
from rayqueue.replication import events as ev
from rayqueue.testing.simulation.clock import Clock
from tests.simulation.partitions_coordinator import COORDINATOR, Beat, Image, Register
from tests.simulation.partitions_host import Host
from tests.simulation.partitions_log import MemoryLog
from tests.simulation.partitions_stream import Packet, Stream

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World

BEAT_US = 150_000
SLOWEST_REGISTRATION_US = 60_000


class Request(NamedTuple):
    """A produced batch, from a client."""

    client: str
    number: int
    partition: int
    acks: int
    batch: Any


class Broker:
    """One machine.

    Attributes:
        tainted: partitions that have lost what was not durable, until they are in sync again.
    """

    def __init__(self, world: World, broker_id: int, partitions: int) -> None:
        self.world, self.broker_id = world, broker_id
        scheduler, random = world.scheduler, world.random
        self.clock = Clock(scheduler, random.uniform(0.97, 1.03), random.randrange(100_000))
        self.hosts = [Host(world, self, partition) for partition in range(partitions)]
        self.streams: list[Stream] = []
        self.tainted: set[int] = set()
        self.starts = 0
        self.alive = self.paused = False
        self.index = -1
        self._unclean: list[int] = []
        world.network.attach(broker_id, self._heard)

    @property
    def incarnation(self) -> str:
        return f"{self.broker_id}.{self.starts}"

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, config: TopicConfig) -> None:
        """A new process."""
        self.starts += 1
        self.alive, self.paused, self.index = True, False, -1
        for host in self.hosts:
            host.start(config, self.incarnation)
        self.world.scheduler.after(
            self.world.random.randint(1_000, SLOWEST_REGISTRATION_US), lambda: self._register(self.starts)
        )
        self._beat(self.starts)

    def _register(self, start: int) -> None:
        """Until the metadata log knows of this process."""
        if not self.alive or start != self.starts or self.index >= 0:
            return
        if not self.paused:
            self._send(Register(self.broker_id, self.incarnation, self.lost()))
        self.world.scheduler.after(4 * SLOWEST_REGISTRATION_US, lambda: self._register(start))

    def lost(self) -> list[int]:
        """The partitions whose last start was unclean, as it says when it registers."""
        return list(self._unclean)

    def _beat(self, start: int) -> None:
        if not self.alive or start != self.starts:
            return
        if not self.paused and self.index >= 0:
            self._send(Beat(self.broker_id, self.incarnation, self.index))
        self.world.scheduler.after(BEAT_US, lambda: self._beat(start))

    def _send(self, message: Any) -> None:
        self.world.network.send(self.broker_id, COORDINATOR, message)

    def kill(self) -> None:
        """The processes die; the page cache lives."""
        self.alive = self.paused = False
        for host in self.hosts:
            host.process.end()
        self.break_streams(20_000)
        self._unclean = [number for number in self._unclean if number in self.tainted]

    def lose_power(self, disk_too: bool = False) -> int:
        """The machine dies, and what was not durable; or all of it. How many batches are gone."""
        self.kill()
        lost = 0
        for host in self.hosts:
            end, safe = host.log.end, host.config.flush_messages == 1 and not disk_too
            if disk_too:
                lost += len(host.log.batches)
                host.log = MemoryLog()
            else:
                lost += host.log.lose_power(self.world.random)
            # Where every ack was of something durable the tail that is lost is nobody's (unclean, in design.md).
            if not safe and (disk_too or host.log.end < end):
                self.tainted.add(host.partition)
        self._unclean = sorted(self.tainted)
        return lost

    def joined(self, partition: int, incarnation: str) -> None:
        """The coordinator has taken it into the ISR: whatever it had lost, it has again, if that was after the loss."""
        if self.alive and incarnation == self.incarnation:
            self.tainted.discard(partition)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        for host in self.hosts:
            host.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        for host in self.hosts:
            host.process.resume()

    def break_streams(self, slowest_us: int) -> None:
        """All connections of this machine."""
        for broker in self.world.brokers.values():
            broker.streams = [stream for stream in broker.streams if any(stream.open)]
            for stream in broker.streams:
                if self.broker_id in (stream.follower.broker_id, stream.leader):
                    stream.break_soon(slowest_us)

    # --- what it hears -----------------------------------------------------------------------------------------------

    def _heard(self, message: Any) -> None:
        kind = type(message)
        if kind is Packet:
            stream = message.stream
            host = self.hosts[stream.follower.partition]
            message.stream.arrived(message, host.deliver, host.process)
        elif kind is Image:
            if not self.alive:
                return
            if message.index > self.index and message.incarnations.get(self.broker_id) == self.incarnation:
                self.index = message.index
            for host in self.hosts:
                host.process.post(message)
        elif kind is Request:
            self.hosts[message.partition].process.post(ev.Produce(message, message.acks, message.batch))
        else:
            host, refused = message
            host.process.post(refused)
