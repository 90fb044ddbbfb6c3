"""Producers and consumers of simulated partitions. They believe what a broker tells them of who leads, and look again
when that turns out wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayqueue.protocol.messages import NO_PRODUCER, ProduceBatch
from rayqueue.replication import events as ev
from tests.simulation.partitions_broker import Request

if TYPE_CHECKING:
    from tests.simulation.partitions_host import Host
    from tests.simulation.partitions_world import World

ANSWER_US = 250_000
ATTEMPTS_MAX = 12
TOPIC = b"t" * 16


class Client:
    """What producers and consumers share: an address, and where they think the leaders are.

    Attributes:
        done: operations whose outcome is known. unknown: given up.
        over: nothing new is begun.
    """

    def __init__(self, world: World, name: str, think_us: int) -> None:
        self.world, self.name, self.random = world, name, world.random
        self.done = self.unknown = 0
        self.over = False
        self._think_us = think_us
        self._believed: dict[int, int] = {}
        self._epochs: dict[int, int] = {}

    def start(self) -> None:
        """Begins."""
        self._later(self._next)

    def _later(self, action: Any) -> None:
        self.world.scheduler.after(1 + int(self.random.random() * self._think_us), action)

    def _next(self) -> None:
        raise AssertionError

    def _leader(self, partition: int) -> Host | None:
        broker_id = self._believed.get(partition)
        if broker_id is None:
            state = self.world.coordinator.partitions[partition]
            broker_id = state.leader
            if broker_id <= 0:
                return None
            self._believed[partition] = broker_id
            self._epochs[partition] = state.leader_epoch
        return self.world.brokers[broker_id].hosts[partition]


class Producer(Client):
    """Idempotent, one batch at a time and partition by partition; or with acks=1, and without sequence numbers.

    Attributes:
        waiting: a batch has not been answered.
    """

    def __init__(self, world: World, name: str, think_us: int, producer_id: int) -> None:
        super().__init__(world, name, think_us)
        self.waiting = False
        self._producer_id = producer_id
        self._epoch = 0
        self._sequences: dict[int, int] = {}
        self._number = self._attempts = self._partition = self._count = 0
        world.network.attach(name, self._heard)

    def _next(self) -> None:
        if self.over:
            return
        self._number += 1
        self._attempts = 0
        self._partition = self.random.randrange(len(self.world.checker.committed))
        self._count = self.random.randint(1, 3)
        self.waiting = True
        self._send(self._number)

    def _send(self, number: int) -> None:
        if number != self._number or not self.waiting:
            return
        self._attempts += 1
        if self._attempts > ATTEMPTS_MAX and not self.over:
            self._give_up()
            return
        host = self._leader(self._partition)
        if host is not None:
            self.world.network.send(self.name, host.broker_id, self._asked())
        attempt = self._attempts
        self.world.scheduler.after(ANSWER_US, lambda: self._timeout(number, attempt))

    def _asked(self) -> Request:
        """The batch says which leader epoch its producer knows: a leader of before must not judge its sequence."""
        partition, count = self._partition, self._count
        known = self._epochs[partition]
        acks, ids = 1, (NO_PRODUCER, -1, -1)
        if self._producer_id != NO_PRODUCER:
            acks, ids = -1, (self._producer_id, self._epoch, self._sequences.get(partition, 0))
        batch = ProduceBatch(TOPIC, partition, known, *ids, count, 0, 0, 0, 0)
        return Request(self.name, self._number, partition, acks, batch)

    def _timeout(self, number: int, attempt: int) -> None:
        if attempt == self._attempts and number == self._number and self.waiting:
            self._believed.clear()
            self._send(number)

    def _give_up(self) -> None:
        """The outcome stays unknown: it goes on under the next producer epoch, or as another (KIP-360)."""
        self.unknown += 1
        self._epoch += 1
        self._sequences.clear()
        self._over()

    def _heard(self, message: tuple[Request, ev.Reply]) -> None:
        request, reply = message
        if request.number != self._number or not self.waiting:
            return
        if reply.error:
            assert reply.error not in ("OutOfOrderSequence", "ProducerFenced"), (
                f"{self.name} is answered {reply.error}: {reply.message}; what was acked before is lost"
            )
            self._believed.clear()
            self._later(lambda: self._send(request.number))
            return
        self.done += 1
        batch = request.batch
        if batch.producer_id != NO_PRODUCER:
            self._sequences[request.partition] = batch.base_sequence + batch.record_count
        self._over()

    def _over(self) -> None:
        self.waiting = False
        self._later(self._next)


class Consumer(Client):
    """Reads a partition from its beginning, of the leader or of any replica, below the high watermark there."""

    def __init__(self, world: World, name: str, think_us: int, partition: int) -> None:
        super().__init__(world, name, think_us)
        self.partition, self.offset = partition, 0

    def _next(self) -> None:
        if not self.over:
            self._later(self._next)
        host = self._leader(self.partition)
        if self.random.random() < 0.3:
            host = self.world.brokers[self.random.choice(self.world.coordinator.brokers)].hosts[self.partition]
        if host is None or not host.process.alive or host.process.paused:
            self._believed.clear()
            return
        self._poll(host)

    def _poll(self, host: Host) -> None:
        log, mark = host.log, host.machine.high_watermark
        if host.machine.leading and host.machine.committed_in_epoch:
            state = self.world.coordinator.partitions[self.partition]
            if state.leader_epoch == host.machine.leader_epoch:
                assert mark >= self.offset, f"the high watermark falls from {self.offset} to {mark} for {self.name}"
        if self.offset > log.end or not host.machine.leading:
            self._believed.clear()
        if self.offset < log.start:
            if not log.batches and not host.machine.leading:
                return  # it has just been emptied, maybe to begin inside of a batch
            self.offset = log.start
            if log.batches and log.batches[0].base_offset < log.start:
                self.offset = log.batches[0].last_offset + 1  # the checker compares whole batches
        if self.offset < mark:
            batches = log.read(self.offset, mark, 5)
            self.world.checker.consumed(host, self.offset, batches)
            self.offset = batches[-1].last_offset + 1 if batches else self.offset
            self.done += 1
