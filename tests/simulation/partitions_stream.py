"""A follower's connection to its leader: in order and without loss, until it breaks; each end learns of that in its own
time, and what is on its way may still arrive, at an end that does not know yet.

The network below loses and overtakes: numbers bring the order back, and what is missing breaks the connection in the
end. Nothing is delivered to another process than the one it was meant for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from rayqueue.replication import events as ev
from rayqueue.testing.simulation.network import Network
from rayqueue.testing.simulation.process import Process
from rayqueue.testing.simulation.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.partitions_host import Host

ANSWER_US = 300_000  # a follower waits so long for the first answer


class Packet(NamedTuple):
    """On its way from one end to the other."""

    stream: Stream
    to_leader: bool
    number: int
    event: ev.Event | None  # None: the end, told


class Stream:
    """One subscription.

    Attributes:
        leader: broker id.
        number: rises with every stream of its follower, so that a leader knows an old one that is heard late.
        ends: the processes at the follower's and the leader's end; the latter is bound by the first packet.
    """

    def __init__(
        self, scheduler: Scheduler, random: Random, network: Network, follower: Host, leader: int, epoch: int
    ) -> None:
        self.follower, self.leader, self.epoch = follower, leader, epoch
        follower.streams += 1
        self.number = follower.streams
        self._scheduler, self._random, self._network = scheduler, random, network
        self.ends: list[Process | None] = [follower.process, None]
        self.open = [True, True]
        self.answered = False
        self._sent = [0, 0]
        self._expected = [0, 0]
        self._early: tuple[dict[int, Packet], dict[int, Packet]] = ({}, {})
        scheduler.after(ANSWER_US, self._timeout)

    def send(self, to_leader: bool, event: ev.Event | None) -> None:
        """From one end to the other."""
        if not self.open[0 if to_leader else 1]:
            return
        side = int(to_leader)
        packet = Packet(self, to_leader, self._sent[side], event)
        self._sent[side] += 1
        there, here = self.leader, self.follower.broker_id
        self._network.send(here if to_leader else there, there if to_leader else here, packet)

    def arrived(self, packet: Packet, deliver: Callable[[Stream, ev.Event | None], None], process: Process) -> None:
        """The network brings a packet to the process that listens at that address now."""
        side = int(packet.to_leader)
        if self.ends[side] is None:
            self.ends[side] = process
        if self.ends[side] is not process or not process.alive:
            self.break_soon()  # a new process, or none, answers with a reset
            return
        self._early[side][packet.number] = packet
        while (following := self._early[side].pop(self._expected[side], None)) is not None:
            self._expected[side] += 1
            deliver(self, following.event)

    def _timeout(self) -> None:
        if not self.answered:
            self.break_soon()

    def break_soon(self, slowest_us: int = 50_000) -> None:
        """The connection is gone: each end learns it some time later."""
        for side in (0, 1):
            if self.open[side]:
                self._scheduler.after(self._random.randint(100, slowest_us), partial(self.close, side))

    def close(self, side: int) -> None:
        """One end learns that the connection is gone, or hangs up."""
        if not self.open[side]:
            return
        self.open[side] = False
        end = self.ends[side]
        if end is not None and end.alive:
            end.post(Gone(self, side))


class Gone(NamedTuple):
    """What an end is told."""

    stream: Stream
    side: int
