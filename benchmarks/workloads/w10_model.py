"""Throughput of n brokers, from what a broker was measured to cost: docs/scale.md tells where the terms come from.

What is counted is GB/s of values produced by everybody together. Each broker takes its share of it, leads as many
partitions as the others, and is bound by its cores, its network card and its disk; the cluster is bound by the first
of them, or by how much the producers bring. The coordinator is not on the way of records, so it has no term.

`python benchmarks/workloads/w10_model.py results.json` prints the tables of docs/scale.md from a run's results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BROKERS = (1, 2, 3, 10, 30, 100)


class Cost(NamedTuple):
    """CPU seconds for a GB: of the actors (a broker and its replica actors), and of the clients."""

    broker: float
    client: float


@dataclass(frozen=True)
class Costs:
    """What was measured with one broker.

    Attributes:
        produce: a GB into it. tail: a GB out of it over the stream, just after it was written. read: the same of what
            was written long before.
        stream_in, stream_tail, stream_out: GB/s of a single producer, of one with a reader after it, of a reader, when
            nothing else runs.
        disk_bytes: bytes on the disk for a byte of values; so many go over the network as well.
    """

    produce: Cost
    tail: Cost
    read: Cost
    stream_in: float
    stream_tail: float
    stream_out: float
    disk_bytes: float


@dataclass(frozen=True)
class Load:
    """What is asked of a cluster.

    Attributes:
        produced, tailed, read: GB for one that is counted: (1, 0, 0) is producing alone, (0, 0, 1) reading alone,
            (1, 3, 0) producing with three readers that keep up.
        replicas: of each partition. A follower is taken to cost its leader a reader, and itself a producer.
        streams: clients of each kind, or None: as many as it takes.
    """

    produced: float = 1.0
    tailed: float = 0.0
    read: float = 0.0
    replicas: int = 1
    streams: int | None = None


@dataclass(frozen=True)
class Node:
    """A machine with one broker.

    Attributes:
        cores: that the actors may use.
        network_gb_s: of its card, in each direction.
        disk_gb_s: of sequential writes.
    """

    cores: float
    network_gb_s: float
    disk_gb_s: float


class Prediction(NamedTuple):
    """gb_s: of all brokers together. bound: what they are bound by."""

    gb_s: float
    bound: str


def cluster(brokers: int, costs: Costs, node: Node, load: Load) -> Prediction:
    """Brokers on machines of their own, clients elsewhere."""
    copies = load.produced * (load.replicas - 1)
    written, sent = load.produced + copies, load.tailed + load.read + copies
    cpu = written * costs.produce.broker + (load.tailed + copies) * costs.tail.broker + load.read * costs.read.broker
    network_in, network_out = written * costs.disk_bytes, sent * costs.disk_bytes
    bounds = {
        "cores": brokers * _bound(node.cores, cpu),
        "network": brokers * _bound(node.network_gb_s, max(network_in, network_out)),
        "disk": brokers * _bound(node.disk_gb_s, network_in),
        "clients": _streams(costs, load),
    }
    return _least(bounds)


def one_machine(brokers: int, costs: Costs, cores: float, load: Load) -> Prediction:
    """Brokers and their clients all on one machine, over its loopback: what the model is checked against."""
    copies = load.produced * (load.replicas - 1)
    cpu = load.produced * sum(costs.produce) + load.tailed * sum(costs.tail) + load.read * sum(costs.read)
    cpu += copies * (costs.produce.broker + costs.tail.broker)
    # More brokers divide the same cores among them.
    return _least({"cores": _bound(cores, cpu), "clients": _streams(costs, load)})


def _streams(costs: Costs, load: Load) -> float:
    """How much so many clients bring, or take, when nothing holds them up."""
    if load.streams is None:
        return float("inf")
    if load.tailed:
        return load.streams * costs.stream_tail
    bounds = [load.streams * costs.stream_in / load.produced] if load.produced else []
    if load.read:
        bounds.append(load.streams * costs.stream_out / load.read)
    return min(bounds, default=float("inf"))


def _bound(there: float, needed: float) -> float:
    return there / needed if needed > 0 else float("inf")


def _least(bounds: dict[str, float]) -> Prediction:
    bound = min(bounds, key=lambda name: bounds[name])
    return Prediction(bounds[bound], bound)


# --- the tables of docs/scale.md --------------------------------------------------------------------------------------


NODE = Node(cores=8, network_gb_s=3.125, disk_gb_s=2.0)
LOADS = {
    "produce": Load(),
    "produce, 3 readers": Load(tailed=3),
    "produce, RF 3, 3 readers": Load(tailed=3, replicas=3),
}


def table(costs: Costs, node: Node = NODE, brokers: Sequence[int] = BROKERS) -> list[list[str]]:
    """Rows of text: for each number of brokers the GB/s of each of `LOADS`, and what binds it."""
    rows = [["brokers", *LOADS]]
    for count in brokers:
        rows.append([str(count), *(_cell(count, costs, node, load) for load in LOADS.values())])
    return rows


def _cell(brokers: int, costs: Costs, node: Node, load: Load) -> str:
    if brokers < load.replicas:
        return "-"
    found = cluster(brokers, costs, node, load)
    return f"{found.gb_s:.1f} GB/s ({found.bound})"


def costs_from(found: dict[str, Any]) -> Costs:
    """Costs as they were written to JSON by `asdict`."""
    return Costs(**{name: Cost(*value) if isinstance(value, (list, tuple)) else value for name, value in found.items()})


def markdown(results: dict[str, Any]) -> str:
    """The tables, from a run's results."""
    outcome = next(one for one in results["outcomes"] if one["workload"] == "w10")
    model = outcome["settings"]["model"]
    costs = costs_from(model["costs"])
    measured = [["of a GB", "CPU-s of the actors", "CPU-s of the clients"]]
    for name in ("produce", "tail", "read"):
        measured.append([name, *(f"{seconds:.2f}" for seconds in model["costs"][name])])
    lines = [*_rows(measured), "", *_rows(table(costs, Node(**model["node"]))), ""]
    checked = [["load", "brokers", "predicted MB/s", "bound by", "measured MB/s", "measured / predicted"]]
    for one in model["checked"]:
        ratio = one["measured_mb_s"] / one["predicted_mb_s"]
        numbers = [f"{one['predicted_mb_s']:.0f}", one["bound"], f"{one['measured_mb_s']:.0f}", f"{ratio:.2f}"]
        checked.append([one["load"], str(one["brokers"]), *numbers])
    return "\n".join([*lines, *_rows(checked)])


def _rows(cells: list[list[str]]) -> list[str]:
    head, *rest = ["| " + " | ".join(row) + " |" for row in cells]
    return [head, "|" + "---|" * len(cells[0]), *rest]


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
