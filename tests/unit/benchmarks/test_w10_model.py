"""The model of more brokers: which bound holds, and that its tables come from a run's results alone."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness.figures import Outcome
from benchmarks.workloads import w10_brokers, w10_model
from benchmarks.workloads.w10_brokers import BOTH, COORDINATOR, PRODUCE, READ, Run
from benchmarks.workloads.w10_model import Cost, Costs, Load, Node

COSTS = Costs(
    produce=Cost(2.0, 1.0),
    tail=Cost(1.0, 1.5),
    read=Cost(0.5, 1.0),
    stream_in=0.4,
    stream_tail=0.25,
    stream_out=0.8,
    disk_bytes=1.25,
)
ROOMY = Node(cores=8, network_gb_s=1000, disk_gb_s=1000)


def test_cores_bind_where_everything_else_is_plenty() -> None:
    assert w10_model.cluster(1, COSTS, ROOMY, Load()) == (4.0, "cores")
    assert w10_model.cluster(3, COSTS, ROOMY, Load()) == (12.0, "cores"), "each broker brings its own"
    # 2 to take it in, 3 times 1 to send it out.
    assert w10_model.cluster(1, COSTS, ROOMY, Load(tailed=3)).gb_s == pytest.approx(8 / 5)


def test_replicas_cost_a_reader_at_the_leader_and_a_producer_at_the_follower() -> None:
    found = w10_model.cluster(3, COSTS, ROOMY, Load(replicas=3))
    assert found.gb_s == pytest.approx(3 * 8 / (3 * 2.0 + 2 * 1.0))


@pytest.mark.parametrize(
    ("node", "load", "gb_s", "bound"),
    [
        (Node(8, 1.25, 1000), Load(), 1.0, "network"),  # it brings 1.25 bytes for each
        (Node(8, 1.25, 1000), Load(tailed=2), 0.5, "network"),  # twice that on the way out
        (Node(8, 1.25, 1000), Load(tailed=2, replicas=3), 0.25, "network"),  # and two followers
        (Node(8, 1000, 0.5), Load(), 0.4, "disk"),
        (Node(8, 1000, 0.5), Load(produced=0, read=1), 16.0, "cores"),  # what is read is not written
    ],
)
def test_network_and_disk_bind(node: Node, load: Load, gb_s: float, bound: str) -> None:
    found = w10_model.cluster(1, COSTS, node, load)
    assert (found.gb_s, found.bound) == (pytest.approx(gb_s), bound)


def test_one_machine_is_shared_by_all_brokers_and_clients() -> None:
    one = w10_model.one_machine(1, COSTS, 2.0, Load(streams=1))
    assert one == (0.4, "clients"), "one producer brings no more"
    three = w10_model.one_machine(3, COSTS, 2.0, Load(streams=3))
    assert three.gb_s == pytest.approx(2 / 3.0) and three.bound == "cores"
    both = w10_model.one_machine(2, COSTS, 2.0, Load(tailed=1, streams=2))
    assert both.gb_s == pytest.approx(2 / 5.5) and both.bound == "cores"
    assert w10_model.one_machine(1, COSTS, 2.0, Load(tailed=1, streams=1)) == (0.25, "clients")
    assert w10_model.one_machine(1, COSTS, 9.0, Load(produced=0, read=1, streams=1)) == (0.8, "clients")


def test_there_is_no_row_of_fewer_brokers_than_replicas() -> None:
    rows = w10_model.table(COSTS, brokers=(2, 3))
    assert rows[0][-1] == "produce, RF 3, 3 readers" and rows[1][-1] == "-" and rows[2][-1].endswith(")")


def run(gb: float, seconds: float, actors: float, produce: float, read: float) -> Run:
    return Run(gb, seconds, {"actors": actors, COORDINATOR: 0.01, PRODUCE: produce, READ: read})


def rounds(brokers: int) -> dict[str, Run]:
    """Exactly what COSTS says, of one GB; with more brokers, all of two cores are used."""
    return {
        PRODUCE: run(1, 2.5 if brokers == 1 else 1.5, 2.0, 1.0, 0),
        READ: run(1, 1.25 if brokers == 1 else 0.75, 0.5, 0, 1.0),
        BOTH: run(1, 4.0 if brokers == 1 else 2.75, 3.0, 1.0, 1.5),
    }


def test_costs_are_those_of_the_rounds_with_one_broker() -> None:
    found = w10_brokers.costs_of([rounds(1), rounds(1), rounds(1)], 1.25)
    assert found == COSTS


def test_the_documents_tables_come_from_results() -> None:
    outcome = Outcome("w10")
    measured = {count: [rounds(count)] for count in (1, 2, 3)}
    w10_brokers.model(outcome, measured, w10_brokers.costs_of(measured[1], 1.25), 2.0)
    results = json.loads(json.dumps({"outcomes": [outcome.to_dict()]}))
    assert w10_model.costs_from(results["outcomes"][0]["settings"]["model"]["costs"]) == COSTS
    text = w10_model.markdown(results)
    assert "| produce | 2.00 | 1.00 |" in text and "| tail | 1.00 | 1.50 |" in text
    assert "| produce | 1 | 400 | clients | 400 | 1.00 |" in text
    assert "| produce | 3 | 667 | cores | 667 | 1.00 |" in text
    assert "| produce and read | 2 | 364 | cores | 364 | 1.00 |" in text
    assert f"| 100 | {100 * 2.0 / 1.25:.1f} GB/s (disk)" in text
    ratios = [figure.median for figure in outcome.figures if figure.unit == "ratio"]
    assert len(ratios) == 9 and ratios == pytest.approx([1.0] * 9)


def test_as_many_cores_as_there_are_at_most() -> None:
    import os

    assert 0 < w10_brokers.cores() <= (os.cpu_count() or 1) + 0.1
