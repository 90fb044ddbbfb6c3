"""Which broker belongs on which node: a plan from what is there, made anew each second; a second one changes nothing.

brokers that run or lie on a disk  ->  stay with their node / disk
on every node, a node without one  ->  a new one there
fewer than the wanted number known ->  new ones on the nodes with fewest
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Wanted(NamedTuple):
    """How many brokers there should be."""

    at_least: int
    on_every_node: bool

    @classmethod
    def of(cls, brokers: int | None) -> Wanted:
        """As a user says it: None is one on every node."""
        return cls(1, True) if brokers is None else cls(brokers, False)

    def more(self, brokers: int | None) -> Wanted:
        """This, and what a user wants besides: there are never fewer."""
        other = Wanted.of(brokers)
        return Wanted(max(self.at_least, other.at_least), self.on_every_node or other.on_every_node)


class NodeView(NamedTuple):
    """A live node that can run brokers. on_disk: broker ids whose directories it has."""

    node_id: str
    on_disk: frozenset[int]


def plan(
    nodes: Collection[NodeView],
    assigned: Mapping[int, str],
    running: Collection[int],
    known: Collection[int],
    wanted: Wanted,
) -> dict[int, str]:
    """Broker id → node id of all brokers that should run now.

    Args:
        assigned: brokers that run or have been started, and where. On a node that is gone an assignment is void.
        running: those of them whose processes are there.
        known: every broker id that the cluster has ever had: those are not given out again, and as their nodes may
            come back with their data, they count as there; unless there would be no broker at all.

    With a file system that several nodes share, a directory lies on all of them: it goes to the one with fewest.
    """
    # A node that comes back before Ray has noticed that it was gone bears a new id: its brokers still count as on the
    # old one. It must not get another broker meanwhile, so nodes with brokers that do not run wait for those.
    alive = {node.node_id for node in nodes}
    empty = {node.node_id for node in nodes if node.on_disk <= set(running)}
    result = {broker: node for broker, node in assigned.items() if node in alive}
    load = Counter(result.values())
    homes: dict[int, list[str]] = {}
    for node in sorted(nodes):
        for broker in node.on_disk:
            homes.setdefault(broker, []).append(node.node_id)
    for broker in sorted(homes):
        if broker not in result:
            result[broker] = min(homes[broker], key=lambda node: (load[node], node))
            load[result[broker]] += 1
    taken = set(known) | set(result)
    for node_id in _hungry(sorted(alive), empty, load, wanted, len(taken)):
        broker = next(i for i in range(len(taken) + 1) if i not in taken)
        taken.add(broker)
        result[broker] = node_id
        load[node_id] += 1
    return result


def _hungry(alive: list[str], empty: set[str], load: Counter[str], wanted: Wanted, present: int) -> list[str]:
    """Nodes that get a new broker, one entry a broker."""
    chosen = [node for node in alive if wanted.on_every_node and node in empty and not load[node]]
    load = load + Counter(chosen)
    while alive and (present + len(chosen) < wanted.at_least or not load):
        chosen.append(min(alive, key=lambda node: (load[node], node)))
        load[chosen[-1]] += 1
    return chosen
