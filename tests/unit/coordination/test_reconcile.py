"""Which broker runs where: for any nodes, disks and history."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rayqueue.coordination.reconcile import NodeView, Wanted, plan

NODES = ["n0", "n1", "n2", "n3"]
nodes = st.lists(st.sampled_from(NODES), unique=True).flatmap(
    lambda ids: st.tuples(*(st.builds(NodeView, st.just(i), st.frozensets(st.integers(0, 5))) for i in ids))
)
assigned = st.dictionaries(st.integers(0, 5), st.sampled_from(NODES), max_size=4)
known = st.sets(st.integers(0, 8), max_size=5)
wanted = st.builds(Wanted, st.integers(1, 7), st.booleans())
EACH = Wanted.of(None)


def view(node_id: str, *on_disk: int) -> NodeView:
    return NodeView(node_id, frozenset(on_disk))


@given(nodes, assigned, known, st.sets(st.integers(0, 5)), wanted)
def test_the_plan_is_stable_and_moves_nobody(
    nodes: tuple[NodeView, ...], assigned: dict[int, str], known: set[int], down: set[int], wanted: Wanted
) -> None:
    running = set(assigned) - down
    result = plan(nodes, assigned, running, known, wanted)
    alive = {node.node_id for node in nodes}
    assert set(result.values()) <= alive
    assert all(result[b] == node for b, node in assigned.items() if node in alive), "one that runs stays where it is"
    disks = {b: {n.node_id for n in nodes if b in n.on_disk} for n in nodes for b in n.on_disk}
    for broker, homes in disks.items():
        assert broker in result, "a broker whose data is there runs"
        assert result[broker] in homes or result[broker] == assigned.get(broker)
    new = set(result) - set(disks) - {b for b, node in assigned.items() if node in alive}
    assert not new & known, "an id is never given to a second directory"
    load = Counter(result.values())
    if wanted.on_every_node:
        waiting = {node.node_id for node in nodes if not node.on_disk <= running}
        assert set(load) >= alive - waiting, "a node without a broker"
    if alive:
        assert result and len(set(result) | known) >= wanted.at_least
        enough = len(set(result) | known) == wanted.at_least or len(result) == 1
        assert not new or enough or wanted.on_every_node
    assert plan(nodes, result, running, known | set(result), wanted) == result, "the second plan changes something"


def test_a_fresh_cluster_gets_one_broker_a_node_or_as_many_as_are_wanted() -> None:
    fresh = [view("n0"), view("n1")]
    assert plan(fresh, {}, [], [], EACH) == {0: "n0", 1: "n1"}
    assert plan(fresh, {}, [], [], Wanted.of(3)) == {0: "n0", 1: "n1", 2: "n0"}
    assert plan(fresh, {}, [], [], Wanted.of(1)) == {0: "n0"}
    assert plan([], {}, [], [], Wanted.of(3)) == {}


def test_a_node_that_joins_gets_a_broker_with_a_new_id() -> None:
    assert plan([view("n0", 0), view("n1")], {0: "n0"}, [0], [0], EACH) == {0: "n0", 1: "n1"}


def test_a_lost_node_is_not_replaced_as_its_data_may_come_back() -> None:
    assert plan([view("n0", 0)], {0: "n0", 1: "n1"}, [0], [0, 1], Wanted.of(2)) == {0: "n0"}
    back = [view("n0", 0), view("n9", 1)]  # the same disk under a new node id
    assert plan(back, {0: "n0"}, [0], [0, 1], Wanted.of(2)) == {0: "n0", 1: "n9"}


def test_a_cluster_whose_brokers_are_all_lost_gets_one_that_is_new() -> None:
    assert plan([view("n0")], {}, [], [0], Wanted.of(1)) == {1: "n0"}


def test_what_is_wanted_only_grows() -> None:
    assert Wanted.of(3).more(2) == Wanted.of(3) and Wanted.of(2).more(3) == Wanted.of(3)
    assert Wanted.of(3).more(None) == EACH.more(3) == Wanted(3, True)


def test_a_node_that_is_back_before_its_loss_is_noticed_waits_for_its_own_brokers() -> None:
    noticed_late = [view("n0", 0), view("n1", 1), view("n9", 1)]  # n1 is dead, n9 is the same machine again
    assigned = {0: "n0", 1: "n1"}
    assert plan(noticed_late, assigned, [0], [0, 1], EACH) == assigned
    assert plan([view("n0", 0), view("n9", 1)], assigned, [0], [0, 1], EACH) == {0: "n0", 1: "n9"}


def test_directories_that_all_nodes_share_are_spread() -> None:
    shared = [view(node, 0, 1, 2) for node in ("n0", "n1", "n2")]
    assert sorted(plan(shared, {}, [], [0, 1, 2], EACH).values()) == ["n0", "n1", "n2"]
