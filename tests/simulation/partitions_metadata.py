"""A simulated process follows the metadata log into a `ClusterState` of its own, as a replica actor does, and tells its
replicas what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rayqueue.actors.partition_table import assignment_of
from rayqueue.coordination.state import ClusterState
from rayqueue.replication import events as ev
from rayqueue.testing.simulation.process import Process
from tests.simulation.partitions_coordinator import SLOT, TOPIC, Batch

if TYPE_CHECKING:
    from tests.simulation.partitions_broker import Broker


class Metadata:
    """What one process knows.

    Attributes:
        index: next index of the log. epoch: of the newest coordinator heard of.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._told: dict[int, ev.Assignment] = {}
        self.state = ClusterState()
        self.index = 0
        self.epoch = -1
        self.process = Process(broker.world.scheduler, broker.clock, self, self._take, None, _nothing)

    def next_deadline_ms(self) -> int | None:
        """It only ever waits for records."""
        return None

    def _take(self, batch: Batch | None, now_ms: int) -> Sequence[None]:
        # What was overtaken, or comes from a coordinator that has a successor, is left.
        if batch is None or batch.epoch < self.epoch or batch.end <= self.index:
            return ()
        if batch.first > self.index or (self.index and not batch.first):
            return ()
        self.state.replay_all(batch.records[self.index - batch.first :] if batch.first else batch.records)
        self.index, self.epoch = batch.end, batch.epoch
        if self._broker.is_mine(self.state):
            for host in self._broker.hosts:
                record = self.state.topics_by_id[TOPIC].partitions[host.partition]
                assignment = assignment_of(self.state, record, host.broker_id)
                if self._told.get(host.partition) != assignment:
                    self._told[host.partition] = assignment
                    host.process.post(ev.Assign(assignment))
        elif self._broker.registered_at in range(self.index + 1):
            self._broker.start_anew()
        return ()


def _nothing(effects: Sequence[None]) -> None:
    """There are no effects."""


def registered(state: ClusterState, broker_id: int) -> str:
    """The incarnation that the log knows of this broker's replica actor, "" for none."""
    actor = state.replica_actors.get((broker_id, SLOT))
    return actor.incarnation if actor else ""
