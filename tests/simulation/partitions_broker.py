"""A simulated broker with its replicas, which live and die together: registration, heartbeats, addresses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rayqueue.config import TopicConfig
from rayqueue.coordination.state import ClusterState
from rayqueue.protocol.messages import BEAT_INTERVAL_MS
from rayqueue.replication import events as ev
from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.process import Process
from tests.simulation.partitions_coordinator import COORDINATOR, Answer, Batch, Beat, Register, Registered
from tests.simulation.partitions_host import Host
from tests.simulation.partitions_log import MemoryLog
from tests.simulation.partitions_metadata import Metadata, registered
from tests.simulation.partitions_stream import Packet, Stream

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World

BEAT_US = BEAT_INTERVAL_MS * 1000
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
        registered_at: index of the metadata log after the registration of this process; None: not answered yet.
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
        self._unclean = False
        self.registered_at: int | None = None
        world.network.attach(broker_id, self._heard)

    @property
    def incarnation(self) -> str:
        return f"{self.broker_id}.{self.starts}"

    @property
    def processes(self) -> list[Process]:
        """The threads of its process, those of its replicas first."""
        return [*(host.process for host in self.hosts), self.metadata.process]

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, config: TopicConfig) -> None:
        """A new process."""
        self.starts += 1
        self.alive, self.paused, self.registered_at = True, False, None
        self.metadata = Metadata(self)
        for host in self.hosts:
            host.start(config, self.incarnation)
        delay_us = self.world.random.randint(1_000, SLOWEST_REGISTRATION_US)
        self.world.scheduler.after(delay_us, partial(self._register, self.starts))

    def _register(self, start: int) -> None:
        """Until the coordinator has answered."""
        if not self.alive or start != self.starts or self.registered_at is not None:
            return
        if not self.paused:
            self._send(Register(self.broker_id, self.incarnation, self.started_uncleanly()))
        self.world.scheduler.after(4 * SLOWEST_REGISTRATION_US, partial(self._register, start))

    def started_uncleanly(self) -> bool:
        """What it says when it registers (`StartMark`): the machine went down, and nobody has heard of that."""
        return self._unclean

    def is_mine(self, state: ClusterState) -> bool:
        """What the metadata log says is for a process when it knows of that process, and not of one before."""
        return registered(state, self.broker_id) == self.incarnation

    def start_anew(self) -> None:
        """The metadata log has another process in this one's place: one that is over, for they are started one after
        the other, and was heard late. Nothing of this one is taken any more: it ends, and another is started."""
        self.kill()
        self.world.scheduler.after(self.world.random.randint(1_000, 50_000), partial(self._start_once, self.starts))

    def _start_once(self, starts: int) -> None:
        if not self.alive and starts == self.starts:
            self.start(self.world.config)

    def _beat(self, start: int) -> None:
        if not self.alive or start != self.starts:
            return
        if not self.paused:
            self._send(Beat(self.broker_id, self.incarnation, self.metadata.index))
        self.world.scheduler.after(BEAT_US, partial(self._beat, start))

    def _send(self, message: Any) -> None:
        self.world.network.send(self.broker_id, COORDINATOR, message)

    def kill(self) -> None:
        """The processes die; the page cache lives."""
        self.alive = self.paused = False
        for process in self.processes:
            process.end()
        self.break_streams(20_000)

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
        self._unclean = True
        return lost

    def write_back(self) -> None:
        """The kernel has written all that it had in its page cache; the process does not know."""
        for host in self.hosts:
            host.log.flushed_end = host.log.end

    def joined(self, partition: int, incarnation: str) -> None:
        """The coordinator has taken it into the ISR: whatever it had lost, it has again, if that was after the loss."""
        if self.alive and incarnation == self.incarnation:
            self.tainted.discard(partition)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        for process in self.processes:
            process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        for process in self.processes:
            process.resume()

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
        elif not self.alive:
            return
        elif kind is Batch:
            self.metadata.process.post(message)
        elif kind is Request:
            self.hosts[message.partition].process.post(ev.Produce(message, message.acks, message.batch))
        elif kind is Answer:
            if message.asked.incarnation == self.incarnation:
                self.hosts[message.asked.partition].process.post(message)
        elif kind is Registered and message.incarnation == self.incarnation and not self.paused:
            if message.index < 0:
                self.start_anew()
            elif self.registered_at is None:
                self.registered_at, self._unclean = message.index, False
                self._beat(self.starts)
