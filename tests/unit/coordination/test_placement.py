"""Placement, for any cluster: valid, spread, balanced. And the machine under any commands."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayqueue.coordination.placement import Placement
from rayqueue.coordination.records import BrokerRecord, BrokerStateRecord, PartitionRecord, TopicRecord, decode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import InvalidReplicationFactor
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    CreatePartitionsRequest,
    DeleteTopicsRequest,
)
from tests.unit.coordination.harness import Harness, create, dump, spec

# (node, pool size) of each broker
brokers = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=8)


def cluster_of(shape: list[tuple[int, int]]) -> ClusterState:
    state = ClusterState()
    for broker_id, (node, pool) in enumerate(shape):
        state.replay(BrokerRecord(broker_id, f"d{broker_id}", f"i{broker_id}", "h", 1, f"n{node}", pool))
    return state


@given(brokers, st.integers(1, 8), st.integers(1, 40))
def test_replicas_are_spread_and_balanced(shape: list[tuple[int, int]], factor: int, partitions: int) -> None:
    factor = min(factor, len(shape))
    state = cluster_of(shape)
    placement = Placement(state)
    placed = [placement.place(factor) for _ in range(partitions)]
    again = Placement(state)
    assert placed == [again.place(factor) for _ in range(partitions)], "the same state gives the same placement"
    nodes = {node for node, _ in shape}
    slots: Counter[tuple[int, int]] = Counter()
    for replicas, chosen in placed:
        assert len(set(replicas)) == len(replicas) == len(chosen) == factor
        used = Counter(shape[b][0] for b in replicas)
        assert len(used) == min(factor, len(nodes)), "a node holds two replicas while another holds none"
        for broker_id, slot in zip(replicas, chosen, strict=True):
            assert 0 <= slot < shape[broker_id][1]
            slots[broker_id, slot] += 1
    leaders = Counter(replicas[0] for replicas, _ in placed)
    counts = [leaders[b] for b in range(len(shape))]
    assert max(counts) - min(counts) <= 1
    for broker_id, (_, pool) in enumerate(shape):
        loads = [slots[broker_id, slot] for slot in range(pool)]
        assert max(loads) - min(loads) <= 1


@given(brokers, st.integers(0, 30), st.integers(1, 30))
def test_added_partitions_even_out_what_is_there(shape: list[tuple[int, int]], on_first: int, added: int) -> None:
    state = cluster_of(shape)
    state.replay(TopicRecord("t", b"t" * 16, b"", False, ""))
    for number in range(on_first):
        state.replay(PartitionRecord(b"t" * 16, number, [0], [0], [0], [], 0, 0, 0))
    placement = Placement(state)
    leaders = Counter(placement.place(1).replicas[0] for _ in range(added))
    others = [leaders[b] for b in range(1, len(shape))]
    if others and on_first >= added:
        assert leaders[0] == 0, "the loaded broker gets nothing while others have less"
    if others:
        assert max(others) - min(others) <= 1


@given(st.integers(2, 6), st.integers(1, 2), st.integers(2, 5), st.integers(1, 60))
def test_among_equal_nodes_replicas_are_even(nodes: int, on_each: int, factor: int, partitions: int) -> None:
    count = nodes * on_each
    placement = Placement(cluster_of([(broker_id // on_each, 2) for broker_id in range(count)]))
    placed = [placement.place(min(factor, count)).replicas for _ in range(partitions)]
    held = Counter(broker_id for replicas in placed for broker_id in replicas)
    counts = [held[broker_id] for broker_id in range(count)]
    assert max(counts) - min(counts) <= 2


@given(st.integers(3, 6), st.integers(2, 5), st.integers(1, 60), st.data())
def test_what_a_dead_broker_led_is_led_by_all_the_others(
    nodes: int, factor: int, partitions: int, data: st.DataObject
) -> None:
    """The next of a partition's replicas takes over: were it always the same one, it would lead twice as many."""
    placement = Placement(cluster_of([(broker_id, 2) for broker_id in range(nodes)]))
    placed = [placement.place(min(factor, nodes)).replicas for _ in range(partitions)]
    dead = data.draw(st.integers(0, nodes - 1))
    leaders = Counter(next(one for one in replicas if one != dead) for replicas in placed)
    counts = [leaders[one] for one in range(nodes) if one != dead]
    assert max(counts) - min(counts) <= 4


def test_leaders_are_placed_by_who_is_wanted_and_not_by_who_stands_in() -> None:
    """While a broker is away others lead for it; when it is back they give that back."""
    state = cluster_of([(0, 1), (1, 1)])
    state.replay(TopicRecord("t", b"t" * 16, b"", False, ""))
    for number in range(4):
        replicas = [number % 2, 1 - number % 2]
        state.replay(PartitionRecord(b"t" * 16, number, replicas, [0, 0], [1], [], 1, 1, 1))
    placement = Placement(state)
    assert sorted(placement.place(2).replicas[0] for _ in range(2)) == [0, 1]


@given(brokers, st.sets(st.integers(0, 7)))
def test_nothing_is_placed_on_brokers_that_are_not_alive(shape: list[tuple[int, int]], down: set[int]) -> None:
    state = cluster_of(shape)
    for broker_id in down & set(range(len(shape))):
        state.replay(BrokerStateRecord(broker_id, False))
    alive = set(range(len(shape))) - down
    if alive:
        assert set(Placement(state).place(len(alive)).replicas) == alive
    with pytest.raises(InvalidReplicationFactor):
        Placement(state).place(len(alive) + 1)


commands = st.one_of(
    st.builds(lambda n, p: create(spec(n, p)), st.sampled_from("abcd"), st.integers(-1, 6)),
    st.builds(lambda n: DeleteTopicsRequest([n]), st.sampled_from("abcd")),
    st.builds(CreatePartitionsRequest, st.sampled_from("abcd"), st.integers(0, 9)),
    st.builds(
        lambda n, v: AlterConfigRequest(n, {"retention.ms": v}),
        st.sampled_from("abcd"),
        st.sampled_from([None, "1", "-1", "x"]),
    ),
    st.builds(AllocateProducerIds, st.integers(0, 2)),
    st.tuples(st.just("actor"), st.integers(0, 2), st.integers(0, 1), st.integers(1, 3)),
    st.tuples(st.just("stop"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 0)),
    st.just("restart"),
    st.integers(1, 10_000),
)


@settings(deadline=None)
@given(st.lists(commands, max_size=30))
def test_any_sequence_of_commands_keeps_the_invariants_and_replays_to_the_same_state(sequence: list[object]) -> None:
    cluster = Harness()
    for broker_id in range(3):
        cluster.broker(broker_id)
    generation = Counter[tuple[int, int]]()
    epochs: dict[tuple[bytes, int], int] = {}
    for command in sequence:
        match command:
            case "restart":
                cluster.restart()
            case int():
                cluster.advance(command)
            case ("actor", broker_id, slot, _):
                generation[broker_id, slot] += 1
                cluster.actor(broker_id, slot, generation[broker_id, slot])
            case ("stop", broker_id, slot, _):
                incarnation = f"a{broker_id}/{slot}.{generation[broker_id, slot]}"
                if cluster.machine.is_watching(incarnation):
                    cluster.stop(incarnation)
            case _:
                cluster.send(command)
                cluster.apply_all()
        for _, p in cluster.state.partitions():
            assert p.leader_epoch >= epochs.get((p.topic_id, p.partition), 0), "a leader epoch fell"
            epochs[p.topic_id, p.partition] = p.leader_epoch
    replayed = ClusterState(cluster.config.topic_defaults)
    replayed.replay_all(decode_record(data) for data in cluster.log)
    replayed.validate()
    assert dump(replayed) == dump(cluster.state)
    cluster.advance(60_000)
    assert cluster.unanswered == set(), "every call is answered in the end"
