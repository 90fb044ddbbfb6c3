"""Assignors: everything to somebody, balanced, sticky, local."""

from __future__ import annotations

import os
from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from rayqueue.groups.assignors import Assignment, Subscriber, Topics, assign_ranges
from rayqueue.groups.events import TopicFacts
from rayqueue.groups.uniform import assign_uniformly
from rayqueue.protocol.group_messages import GroupPartition
from tests.unit.groups.harness import facts, topic_id

EXAMPLES = 40 * int(os.environ.get("RAYQUEUE_SOAK", "1"))
NAMES = ("t0", "t1", "t2", "t3")


@st.composite
def some_topics(draw: st.DrawFn) -> dict[str, TopicFacts]:
    replicas = st.lists(st.sampled_from((1, 2, 3)), min_size=1, max_size=2, unique=True).map(tuple)
    sizes = draw(st.dictionaries(st.sampled_from(NAMES), st.lists(replicas, max_size=12), min_size=1))
    return {name: TopicFacts(topic_id(name), tuple(partitions)) for name, partitions in sizes.items()}


@st.composite
def some_members(draw: st.DrawFn, equal: bool = False) -> dict[str, Subscriber]:
    topics = st.lists(st.sampled_from(NAMES), unique=True, max_size=4)
    local = st.frozensets(st.sampled_from((1, 2, 3)), max_size=2)
    same = draw(topics)
    return {
        f"m{n}": Subscriber((n, f"m{n}"), same if equal else draw(topics), draw(local))
        for n in range(draw(st.integers(1, 8)))
    }


def check_complete(members: dict[str, Subscriber], topics: Topics, assignment: Assignment) -> None:
    """Every partition of every topic that somebody subscribes to, once, to one who does."""
    assert assignment.keys() == members.keys()
    given_out = [one for partitions in assignment.values() for one in partitions]
    names = {name for member in members.values() for name in member.topics if name in topics}
    wanted = {GroupPartition(topics[name].topic_id, n) for name in names for n in range(len(topics[name].replicas))}
    assert len(given_out) == len(set(given_out)) and set(given_out) == wanted
    for member_id, partitions in assignment.items():
        allowed = {topics[name].topic_id for name in members[member_id].topics if name in topics}
        assert {one.topic_id for one in partitions} <= allowed


def can_be_better(members: dict[str, Subscriber], topics: Topics, assignment: Assignment) -> bool:
    """Whether partitions could be handed on so that somebody with two more than another ends with one fewer."""
    ids = {facts.topic_id: name for name, facts in topics.items()}
    reach = {
        a: {b for b in members if any(ids[one.topic_id] in members[b].topics for one in assignment[a])} for a in members
    }
    for _ in members:
        reach = {a: there | {c for b in there for c in reach[b]} for a, there in reach.items()}
    return any(len(assignment[a]) >= len(assignment[b]) + 2 for a in members for b in reach[a])


def moved(before: Assignment, after: Assignment) -> int:
    """Partitions that a member had and has no more, though it is there."""
    return sum(len(partitions - after[member_id]) for member_id, partitions in before.items() if member_id in after)


@settings(max_examples=EXAMPLES)
@given(some_topics(), some_members(), some_members())
def test_uniform_is_complete_and_as_balanced_as_can_be(
    topics: Topics, earlier: dict[str, Subscriber], members: dict[str, Subscriber]
) -> None:
    before = assign_uniformly(earlier, topics, {})
    for old in ({}, before):
        assignment = assign_uniformly(members, topics, old)
        check_complete(members, topics, assignment)
        assert not can_be_better(members, topics, assignment)


@settings(max_examples=EXAMPLES)
@given(some_topics(), some_members())
def test_uniform_changes_nothing_when_nothing_changes(topics: Topics, members: dict[str, Subscriber]) -> None:
    assignment = assign_uniformly(members, topics, {})
    assert assign_uniformly(members, topics, assignment) == assignment
    shuffled = dict(sorted(members.items(), reverse=True))
    assert assign_uniformly(shuffled, dict(sorted(topics.items(), reverse=True)), {}) == assignment


@settings(max_examples=EXAMPLES)
@given(some_topics(), some_members(equal=True), st.integers(0, 3), st.integers(0, 3))
def test_with_equal_subscriptions_only_what_must_moves(
    topics: Topics, members: dict[str, Subscriber], leave: int, join: int
) -> None:
    before = assign_uniformly(members, topics, {})
    counts = [len(partitions) for partitions in before.values()]
    assert max(counts) - min(counts) <= 1
    stay = dict(list(members.items())[leave:])
    like = next(iter(members.values()))
    after_members = {**stay, **{f"n{n}": like._replace(order=(100, f"n{n}")) for n in range(join)}}
    if not after_members:
        return
    after = assign_uniformly(after_members, topics, before)
    total, size = sum(counts), len(after_members)
    share, odd = divmod(total, size)
    # Who has more than the share gives up what is above it; `odd` members may have one more.
    above = sorted((max(len(before[m]) - share, 0) for m in stay), reverse=True)
    assert moved(before, after) == sum(above) - sum(1 for extra in above[:odd] if extra)


def test_a_member_that_joins_gets_its_share_and_others_only_lose() -> None:
    topics = {"t": facts(partitions=900, name="t")}
    members = {f"m{n}": Subscriber((n, f"m{n}"), ["t"]) for n in range(10)}
    before = assign_uniformly(members, topics, {})
    after = assign_uniformly({**members, "new": Subscriber((99, "new"), ["t"])}, topics, before)
    assert Counter(map(len, after.values())) == {82: 9, 81: 2}
    assert all(after[m] < before[m] for m in members)


def test_longer_ways_are_found_with_differing_subscriptions() -> None:
    """a has four of t0; b shares t0 with a, and t1 with c: b must give c one to take one of a."""
    topics = {"t0": facts(partitions=4, name="t0"), "t1": facts(partitions=5, name="t1")}
    members = {
        "a": Subscriber((1, "a"), ["t0"]),
        "b": Subscriber((2, "b"), ["t0", "t1"]),
        "c": Subscriber((3, "c"), ["t1"]),
    }
    t0 = [GroupPartition(topic_id("t0"), n) for n in range(4)]
    t1 = [GroupPartition(topic_id("t1"), n) for n in range(5)]
    before = {"a": set(t0), "b": set(t1[:3]), "c": set(t1[3:])}
    after = assign_uniformly(members, topics, before)
    assert [len(after[m]) for m in "abc"] == [3, 3, 3] and moved(before, after) == 2


def test_partitions_go_to_members_beside_their_replicas() -> None:
    topics = {"t": facts(*[1, 2, 3] * 4, name="t")}
    members = {f"m{b}": Subscriber((b, f"m{b}"), ["t"], frozenset({b})) for b in (1, 2, 3)}
    after = assign_uniformly(members, topics, {})
    assert all({one.partition % 3 + 1 for one in after[f"m{b}"]} == {b} for b in (1, 2, 3))


def test_who_joins_is_given_what_is_near_it_and_far_from_who_gives_it() -> None:
    topics = {"t": facts(*[1, 2] * 5, name="t")}
    first = {"a": Subscriber((1, "a"), ["t"], frozenset({1}))}
    before = assign_uniformly(first, topics, {})
    after = assign_uniformly({**first, "b": Subscriber((2, "b"), ["t"], frozenset({2}))}, topics, before)
    assert {one.partition for one in after["a"]} == {0, 2, 4, 6, 8}


def test_balance_goes_before_locality_and_keeping_too() -> None:
    topics = {"t": facts(*[1] * 6, name="t")}
    members = {"a": Subscriber((1, "a"), ["t"], frozenset({1})), "b": Subscriber((2, "b"), ["t"], frozenset({2}))}
    after = assign_uniformly(members, topics, {})
    assert [len(after[m]) for m in "ab"] == [3, 3]
    swapped = {"a": members["a"]._replace(local_brokers=frozenset()), "b": members["b"]}
    assert assign_uniformly(swapped, topics, after) == after


@settings(max_examples=EXAMPLES)
@given(some_topics(), some_members(equal=True))
def test_locality_is_as_good_as_exchanges_can_make_it(topics: Topics, members: dict[str, Subscriber]) -> None:
    after = assign_uniformly(members, topics, {})
    replicas = {
        GroupPartition(one.topic_id, n): set(brokers)
        for one in topics.values()
        for n, brokers in enumerate(one.replicas)
    }

    def near(member_id: str, one: GroupPartition) -> bool:
        return not members[member_id].local_brokers.isdisjoint(replicas[one])

    for a, b in product(members, members):
        for mine, theirs in product(after[a], after[b]):
            gain = near(b, mine) + near(a, theirs) - near(a, mine) - near(b, theirs)
            assert gain <= 0, f"{a} and {b} should exchange {mine} and {theirs}"


@settings(max_examples=EXAMPLES)
@given(some_topics(), some_members())
def test_ranges_are_complete_and_consecutive(topics: Topics, members: dict[str, Subscriber]) -> None:
    assignment = assign_ranges(members, topics)
    check_complete(members, topics, assignment)
    for partitions in assignment.values():
        for name in topics:
            numbers = sorted(one.partition for one in partitions if one.topic_id == topic_id(name))
            assert numbers == list(range(numbers[0], numbers[-1] + 1) if numbers else [])


def test_ranges_of_equal_topics_are_cut_alike() -> None:
    topics = {"t0": facts(partitions=5, name="t0"), "t1": facts(partitions=5, name="t1")}
    members = {f"m{n}": Subscriber((n, f"m{n}"), ["t0", "t1"]) for n in range(2)}
    after = assign_ranges(members, topics)
    assert [sorted({one.partition for one in after[m]}) for m in members] == [[0, 1, 2], [3, 4]]
    assert all(len(partitions) == 2 * len({one.partition for one in partitions}) for partitions in after.values())
