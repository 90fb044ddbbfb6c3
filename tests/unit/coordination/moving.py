"""A cluster in which partitions are given other replicas."""

from __future__ import annotations

from rayqueue.coordination.records import PartitionRecord
from rayqueue.coordination.sessions import ACTOR_GRACE_MS, ACTOR_SESSION_MS
from rayqueue.protocol.messages import (
    AlterPartition,
    AlterPartitionsRequest,
    Reassignment,
    ReassignPartitionsRequest,
)
from tests.unit.coordination.harness import Harness, create, spec

BROKERS = 5


class Moving(Harness):
    """Five brokers with one replica actor each, and topic t."""

    def __init__(self, replicas: int = 2, partitions: int = 1, **configs: str) -> None:
        super().__init__()
        for broker_id in range(BROKERS):
            self.broker(broker_id, pool=1)
        self.generations = [0] * BROKERS
        answer = self.change(create(spec("t", partitions, replication_factor=replicas, configs=configs)))
        assert not answer.results[0].error
        for number in range(partitions):  # where placement put it is not what these tests are about
            self.reassign(list(range(replicas)), number)
            while (p := self.of(number)).target:
                assert self.isr(p.replicas, number=number) == ""
        assert self.p.replicas == self.p.isr == list(range(replicas)) and self.p.leader == 0

    def of(self, number: int) -> PartitionRecord:
        return self.state.topics["t"].partitions[number]

    @property
    def p(self) -> PartitionRecord:
        return self.of(0)

    @property
    def roles(self) -> tuple[list[int], list[int], list[int]]:
        """Replicas, those that are added, the ISR."""
        return self.p.replicas, self.p.adding, self.p.isr

    def reassign(self, replicas: list[int] | None, number: int = 0, throttle: int = -1) -> str:
        """The name of the error."""
        change = Reassignment(self.p.topic_id, number, replicas)
        (result,) = self.call(ReassignPartitionsRequest([change], throttle)).results
        return str(result.error)

    def incarnation(self, broker_id: int) -> str:
        return self.state.replica_actors[broker_id, 0].incarnation

    def isr(self, members: list[int], number: int = 0) -> str:
        """The leader's wish for an ISR; the name of the error."""
        p = self.of(number)
        named = [(one, self.incarnation(one)) for one in members]
        wish = AlterPartition(p.topic_id, number, p.leader_epoch, p.partition_epoch, named)
        (error,) = self.call(AlterPartitionsRequest(p.leader, 0, self.incarnation(p.leader), [wish])).errors
        return str(error)

    def lose(self, broker_id: int) -> None:
        self.stop(self.incarnation(broker_id))
        self.advance(ACTOR_GRACE_MS)

    def start_again(self, broker_id: int) -> None:
        self.generations[broker_id] += 1
        self.actor(broker_id, 0, self.generations[broker_id])

    def validate_converges(self) -> None:
        """Everybody comes back and catches up: what is under way is completed."""
        for broker_id in range(BROKERS):
            self.start_again(broker_id)
        for _ in range(3):
            self.advance(ACTOR_SESSION_MS)
            assert self.isr(sorted(self.p.replicas)) == ""
        assert self.p.target == [] and sorted(self.p.isr) == sorted(self.p.replicas)

    def minimum(self) -> str:
        return self.state.configs(self.state.topics["t"])["min.insync.replicas"]
