"""Who should vote: one step at a time, from what is there."""

from __future__ import annotations

import pytest

from rayqueue.coordination.quorum.events import Action
from rayqueue.coordination.quorum.messages import Membership, Voter
from rayqueue.coordination.quorum.status import PeerStatus, QuorumStatus
from rayqueue.coordination.quorum.voters import BrokerPlace, next_change, voters_wanted


def v(broker_id: int, directory_id: str = "x") -> Voter:
    """A copy."""
    return Voter(broker_id, directory_id)


def status(voters: str, learners: str = "", ready: str = "", me: int = 1) -> QuorumStatus:
    """What an active node says; brokers are single digits."""
    membership = Membership(tuple(v(int(b)) for b in voters), tuple(v(int(b)) for b in learners))
    peers = [PeerStatus(v(int(b)), 9, 0, b in ready or b in voters) for b in voters + learners if int(b) != me]
    return QuorumStatus(v(me), "leader", 2, v(me), membership, 9, 9, peers)


def brokers(nodes: str, dead: str = "") -> list[BrokerPlace]:
    """Brokers 1, 2, ... on the nodes named by letters."""
    return [BrokerPlace(v(b), node, str(b) not in dead) for b, node in enumerate(nodes, 1)]


@pytest.mark.parametrize(("count", "wanted"), [(0, 1), (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (100, 5)])
def test_an_odd_number_votes(count: int, wanted: int) -> None:
    assert voters_wanted(count, 5) == wanted


@pytest.mark.parametrize(
    ("now", "there", "change"),
    [
        (status("1"), brokers("a"), None),
        (status("1"), brokers("ab"), None),
        (status("123"), brokers("abcd"), None),
        (status("123"), brokers("abcd", dead="3"), None),  # it may come back
        # One voter becomes three: both learn, then both are promoted.
        (status("1"), brokers("abc"), (Action.ADD_LEARNER, v(2))),
        (status("1", "2", ready="2"), brokers("abc"), (Action.ADD_LEARNER, v(3))),
        (status("1", "23", ready="2"), brokers("abc"), None),
        (status("1", "23", ready="23"), brokers("abc"), (Action.PROMOTE, v(2))),
        (status("12", "3", ready="3"), brokers("abc"), (Action.PROMOTE, v(3))),
        (status("1", "2", ready="2"), brokers("abc", dead="3"), (Action.PROMOTE, v(2))),
        # A broker that is gone: its vote goes, the spare one takes over.
        (status("129"), brokers("abcd"), (Action.REMOVE, v(9))),
        (status("12"), brokers("abcd", dead="3"), (Action.ADD_LEARNER, v(4))),
        (status("12", "3"), brokers("abcd", dead="3"), (Action.REMOVE, v(3))),
        (status("12", "9"), brokers("abc"), (Action.REMOVE, v(9))),
        (status("9", me=9), brokers("ab"), None),  # the only one there is
        # Voters are spread over nodes, also later.
        (status("1"), brokers("aaabc"), (Action.ADD_LEARNER, v(4))),
        (status("12"), brokers("abbc"), (Action.ADD_LEARNER, v(4))),
        (status("123"), brokers("aabc"), (Action.ADD_LEARNER, v(4))),
        (status("1234"), brokers("aabc"), (Action.REMOVE, v(2))),
        (status("123"), brokers("aaa"), None),
        # What is too much goes: the leader last.
        (status("123", "4"), brokers("abcd"), (Action.REMOVE, v(4))),
        (status("12"), brokers("ab"), (Action.REMOVE, v(2))),
        (status("12", me=2), brokers("ab"), (Action.REMOVE, v(1))),
        (status("1234"), brokers("abcd", dead="2"), (Action.REMOVE, v(2))),
        (status("1234"), brokers("abbd"), (Action.REMOVE, v(3))),
    ],
)
def test_next_change(now: QuorumStatus, there: list[BrokerPlace], change: tuple[Action, Voter] | None) -> None:
    assert next_change(now, there, 5) == change


def test_a_new_directory_replaces_the_old_one() -> None:
    places = [*brokers("ab"), BrokerPlace(v(3, "new"), "c", True)]
    assert next_change(status("123"), places, 5) == (Action.REMOVE, v(3))
    assert next_change(status("12"), places, 5) == (Action.ADD_LEARNER, v(3, "new"))


def test_it_comes_to_rest() -> None:
    """From any beginning, changes that all succeed end, with an odd number of voters, spread as far as it goes."""
    for nodes in ("a", "ab", "abc", "aab", "aabb", "aabbc", "aaabcd", "aabbccdd"):
        there = brokers(nodes)
        membership = Membership((v(1),))
        for _ in range(40):
            peers = [PeerStatus(x, 9, 0, True) for x in (*membership.voters, *membership.learners) if x != v(1)]
            change = next_change(QuorumStatus(v(1), "leader", 2, v(1), membership, 9, 9, peers), there, 5)
            if change is None:
                break
            action, voter = change
            voters = [x for x in membership.voters if x != voter] + [voter] * (action is Action.PROMOTE)
            learners = [x for x in membership.learners if x != voter] + [voter] * (action is Action.ADD_LEARNER)
            membership = Membership(tuple(voters), tuple(learners))
        assert change is None and not membership.learners, nodes
        assert len(membership.voters) == voters_wanted(len(nodes), 5)
        homes = {nodes[x.broker_id - 1] for x in membership.voters}
        assert len(homes) == min(len(set(nodes)), len(membership.voters)), nodes
