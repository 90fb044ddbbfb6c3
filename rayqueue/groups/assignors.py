"""Who is to have which partitions: assignors by name, and what they are told.

An assignor gives every partition of every topic that somebody subscribes to, to exactly one of its subscribers. It is a
function of its arguments: members and topics in whatever order give the same assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from rayqueue.groups.events import TopicFacts
from rayqueue.protocol.group_messages import GroupPartition


class Subscriber(NamedTuple):
    """A member, for assignors.

    Attributes:
        order: members are counted in this order; who comes in later comes later.
        topics: names subscribed to; those that do not exist give nothing.
        local_brokers: whose replicas lie on its host.
    """

    order: tuple[int, str]
    topics: Collection[str]
    local_brokers: frozenset[int] = frozenset()


Members = Mapping[str, Subscriber]
Topics = Mapping[str, TopicFacts]
Assignment = dict[str, set[GroupPartition]]
Assignor = Callable[[Members, Topics, Mapping[str, Collection[GroupPartition]]], Assignment]


def in_order(members: Members) -> list[str]:
    """Member ids."""
    return sorted(members, key=lambda member_id: members[member_id].order)


def subscribers(members: Members, topics: Topics) -> dict[str, list[str]]:
    """Members by topic, both in order; topics that exist and somebody subscribes to."""
    found: dict[str, list[str]] = {}
    for member_id in in_order(members):
        for name in members[member_id].topics:
            if name in topics:
                found.setdefault(name, []).append(member_id)
    return {name: found[name] for name in sorted(found)}


def assign_ranges(members: Members, topics: Topics, before: object = None) -> Assignment:
    """`range`: of each topic, consecutive partitions to members in their order, the first ones get the odd partitions.

    Topics with equally many partitions and the same subscribers are cut alike, so equal keys meet at one member.
    """
    assignment: Assignment = {member_id: set() for member_id in members}
    for name, there in subscribers(members, topics).items():
        facts = topics[name]
        share, odd = divmod(len(facts.replicas), len(there))
        end = 0
        for place, member_id in enumerate(there):
            begin, end = end, end + share + (place < odd)
            assignment[member_id].update(GroupPartition(facts.topic_id, number) for number in range(begin, end))
    return assignment
