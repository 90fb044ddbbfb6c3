"""Where replicas go: spread over nodes, then brokers; leaders, replicas and slots balanced. Deterministic."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from rayqueue.coordination.records import BrokerRecord
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import InvalidReplicationFactor


class Placed(NamedTuple):
    """One partition's replicas, the preferred leader first, and the slot of each."""

    replicas: list[int]
    slots: list[int]


class Placement:
    """Places partitions one after the other, each on top of the load so far.

    The load starts as what the state holds on the brokers that are alive. A partition's leader goes to the broker
    that leads fewest; its other replicas go to nodes that have none of it yet, there to the broker that holds fewest.
    Every choice goes by load first and by id last, so equal states give equal placements.
    """

    def __init__(self, state: ClusterState) -> None:
        self._brokers = {broker.broker_id: broker for broker in state.alive_brokers()}
        self._leaders: Counter[int] = Counter()
        self._replicas: Counter[int] = Counter()
        self._slots: Counter[tuple[int, int]] = Counter()
        for _, partition in state.partitions():
            self._leaders[partition.leader] += 1
            for broker_id in partition.replicas:
                slot = state.slot_of(partition, broker_id)
                assert slot is not None
                self._count(broker_id, slot)

    def place(self, replication_factor: int) -> Placed:
        """Places the next partition.

        Raises:
            InvalidReplicationFactor: below one, or above the number of brokers that are alive.
        """
        self.check(replication_factor)
        leader = min(self._brokers.values(), key=lambda b: (self._leaders[b.broker_id], self._by_load(b)))
        chosen = [leader]
        nodes: Counter[str] = Counter({leader.node_id: 1})
        while len(chosen) < replication_factor:
            free = [broker for broker in self._brokers.values() if broker not in chosen]
            chosen.append(min(free, key=lambda b: (nodes[b.node_id], self._by_load(b))))
            nodes[chosen[-1].node_id] += 1
        self._leaders[leader.broker_id] += 1
        slots = []
        for broker in chosen:
            slot = min(range(broker.pool_size), key=lambda s: (self._slots[broker.broker_id, s], s))
            self._count(broker.broker_id, slot)
            slots.append(slot)
        return Placed([broker.broker_id for broker in chosen], slots)

    def check(self, replication_factor: int) -> None:
        """Raises InvalidReplicationFactor unless so many brokers are alive."""
        if replication_factor < 1:
            raise InvalidReplicationFactor(f"a replication factor is at least 1, not {replication_factor}")
        if replication_factor > len(self._brokers):
            raise InvalidReplicationFactor(
                f"replication factor {replication_factor} needs as many brokers, but {len(self._brokers)} are alive: "
                "lower it, or start more brokers"
            )

    def _by_load(self, broker: BrokerRecord) -> tuple[int, int]:
        return self._replicas[broker.broker_id], broker.broker_id

    def _count(self, broker_id: int, slot: int) -> None:
        self._replicas[broker_id] += 1
        self._slots[broker_id, slot] += 1
