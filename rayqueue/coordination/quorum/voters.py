"""Who should vote: from the brokers there are to the next change of the membership, made anew each time it is asked.

A plan is not kept: each call looks at what is there and gives one step, or none when all is well; a step that failed is
simply given again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rayqueue.coordination.quorum.events import Action
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.coordination.quorum.status import QuorumStatus


class BrokerPlace(NamedTuple):
    """A registered broker: the directory it has now, its node, and whether it counts as alive."""

    voter: Voter
    node_id: str
    alive: bool


def voters_wanted(brokers: int, voters_max: int) -> int:
    """The largest odd number of voters that many brokers can have: an even number survives no more losses."""
    size = min(brokers, voters_max)
    return max(1, size - (size + 1) % 2)


def next_change(status: QuorumStatus, brokers: Sequence[BrokerPlace], voters_max: int) -> tuple[Action, Voter] | None:
    """The next change that an active node should be asked for.

    Voters whose directory or broker is gone go first. Then come learners on nodes without a voter, which are promoted
    when they have caught up; from one voter two at a time, because two voters survive no loss. What is too much goes
    last. A broker that is only dead at present keeps its vote.

    Args:
        status: of the active node. brokers: all that are registered.
    """
    voters, learners = status.membership.voters, status.membership.learners
    places = {place.voter: place for place in brokers}
    if lost := [voter for voter in (*learners, *voters) if voter not in places]:
        return None if lost[0] in voters and len(voters) == 1 else (Action.REMOVE, lost[0])
    wanted = voters_wanted(len(brokers), voters_max)
    nodes = Counter(places[voter].node_id for voter in voters)
    free = [p for p in brokers if p.alive and p.voter not in voters and not nodes[p.node_id]]
    crowded = [voter for voter in voters if nodes[places[voter].node_id] > 1]
    # Where voters share a node and another has none: one more, and then one of those goes.
    missing = wanted - len(voters) + (1 if crowded and free and len(voters) < voters_max else 0)
    if missing <= 0:
        return _surplus(status, crowded, len(voters) - wanted, places)
    spare = sorted((p for p in brokers if p.alive and p.voter not in voters), key=lambda p: (p not in free, p.voter))
    chosen = _spread(spare, missing)
    for learner in learners:
        if learner not in chosen:
            return Action.REMOVE, learner
    for voter in chosen:
        if voter not in learners:
            return Action.ADD_LEARNER, voter
    ready = [peer.voter for peer in status.peers if peer.voter in chosen and peer.caught_up]
    if ready and (len(ready) == len(chosen) or len(voters) > 1):
        return Action.PROMOTE, ready[0]
    return None


def _spread(spare: Sequence[BrokerPlace], count: int) -> list[Voter]:
    """The first `count`, on as many nodes as can be."""
    taken: list[BrokerPlace] = []
    for place in sorted(spare, key=lambda p: sum(q.node_id == p.node_id and q.voter < p.voter for q in spare)):
        if len(taken) < count:
            taken.append(place)
    return [place.voter for place in taken]


def _surplus(
    status: QuorumStatus, crowded: Sequence[Voter], count: int, places: dict[Voter, BrokerPlace]
) -> tuple[Action, Voter] | None:
    """What is too much: learners that nobody waits for, then voters, the leader last."""
    if status.membership.learners:
        return Action.REMOVE, status.membership.learners[0]
    if count <= 0:
        return None
    order = sorted(
        status.membership.voters, key=lambda v: (v == status.me, v not in crowded, places[v].alive, -v.broker_id)
    )
    return Action.REMOVE, order[0]
