"""The parts of a simulated cluster, and how they reach each other."""

from __future__ import annotations

from random import Random

from rayqueue.config import TopicConfig
from rayqueue.protocol.messages import NO_PRODUCER
from rayqueue.replication import events as ev
from rayqueue.testing.simulation.network import Network
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.partitions_broker import Broker
from tests.simulation.partitions_checker import Checker
from tests.simulation.partitions_clients import Client, Consumer, Producer
from tests.simulation.partitions_coordinator import Coordinator
from tests.simulation.partitions_host import Host

BROKERS, PARTITIONS, MIN_INSYNC = 3, 2, 2
PRODUCERS, LOOSE_PRODUCERS, CONSUMERS = 3, 1, 3


class World:
    """Three brokers, two partitions of three replicas, min.insync.replicas 2, a coordinator, producers, consumers."""

    def __init__(self, seed: int, trace: bool) -> None:
        random = self.random = Random(seed)
        scheduler = self.scheduler = Scheduler(random)
        self.trace = Trace(scheduler, trace)
        self.network = Network(scheduler, random)
        flush_messages = random.choice((1, 1, 4, 2**63 - 1, 2**63 - 1, 2**63 - 1))
        configs = {"min.insync.replicas": str(MIN_INSYNC), "flush.messages": str(flush_messages)}
        self.config = TopicConfig.parse(configs)
        self.flush_us_max = random.choice((2_000, 50_000))
        self.checker = Checker(self, PARTITIONS)
        self.coordinator = Coordinator(self, PARTITIONS, range(1, BROKERS + 1), configs)
        self.brokers = {one: Broker(self, one, PARTITIONS) for one in self.coordinator.brokers}
        think_us = random.choice((20_000, 60_000, 150_000))
        self.producers = [Producer(self, f"producer {n}", think_us, n) for n in range(PRODUCERS)]
        self.producers += [Producer(self, f"loose {n}", think_us, NO_PRODUCER) for n in range(LOOSE_PRODUCERS)]
        self.consumers = [Consumer(self, f"consumer {n}", think_us, n % PARTITIONS) for n in range(CONSUMERS)]

    @property
    def clients(self) -> list[Client]:
        return [*self.producers, *self.consumers]

    def reply(self, host: Host, reply: ev.Reply) -> None:
        """A leader answers a producer."""
        request = reply.ref
        self.checker.answered(host, request, reply)
        self.network.send(host.broker_id, request.client, (request, reply))
