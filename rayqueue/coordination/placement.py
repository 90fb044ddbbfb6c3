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

    The load starts as what the state holds on the brokers that are alive; who leads is who was wanted to, as leaders go
    back. A partition's leader goes to the broker that leads fewest; its other replicas go to nodes that have none of it
    yet, there to the broker that holds fewest. The next after the leader is the one that is so least often: what a
    broker that dies has led shall not all be led by the same other. Every choice goes by load first and by id last,
    so equal states give equal placements.
    """

    def __init__(self, state: ClusterState) -> None:
        self._brokers = {broker.broker_id: broker for broker in state.alive_brokers()}
        self._leaders: Counter[int] = Counter()
        self._replicas: Counter[int] = Counter()
        self._slots: Counter[tuple[int, int]] = Counter()
        self._next: Counter[tuple[int, int]] = Counter()  # (preferred leader, the one after it)
        for _, partition in state.partitions():
            self._order(partition.target or partition.replicas)
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
            chosen.append(min(free, key=lambda b: (nodes[b.node_id], self._by_load_after(leader, b))))
            nodes[chosen[-1].node_id] += 1
        chosen[1:] = sorted(chosen[1:], key=lambda b: self._next[leader.broker_id, b.broker_id])
        self._order([broker.broker_id for broker in chosen])
        slots = []
        for broker in chosen:
            slots.append(self.slot_on(broker.broker_id))
        return Placed([broker.broker_id for broker in chosen], slots)

    def slot_on(self, broker_id: int) -> int:
        """Places one replica on a broker that is alive: the slot that holds fewest."""
        broker = self._brokers[broker_id]
        slot = min(range(broker.pool_size), key=lambda s: (self._slots[broker_id, s], s))
        self._count(broker_id, slot)
        return slot

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

    def _by_load_after(self, leader: BrokerRecord, broker: BrokerRecord) -> tuple[int, int, int]:
        load, broker_id = self._by_load(broker)
        return load, self._next[leader.broker_id, broker_id], broker_id

    def _order(self, replicas: list[int]) -> None:
        self._leaders[replicas[0]] += 1
        if len(replicas) > 1:
            self._next[replicas[0], replicas[1]] += 1

    def _count(self, broker_id: int, slot: int) -> None:
        self._replicas[broker_id] += 1
        self._slots[broker_id, slot] += 1
