"""Which changes of the membership are allowed: one copy at a time: any two majorities meet (Raft thesis 4.1)."""

from __future__ import annotations

from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.events import Action
from rayqueue.coordination.quorum.messages import Membership, Voter


def changed(now: Membership, action: Action, voter: Voter, config: QuorumConfig) -> Membership | str:
    """The membership after a change, or why it cannot be made."""
    voters, learners = now.voters, now.learners
    match action:
        case Action.ADD_LEARNER:
            if voter in voters or voter in learners:
                return f"{voter} is there already"
            if len(learners) >= config.learners_max:
                return f"there are {config.learners_max} learners already"
            return Membership(voters, (*learners, voter))
        case Action.PROMOTE:
            if voter not in learners:
                return f"{voter} is no learner"
            if len(voters) >= config.voters_max:
                return f"there are {config.voters_max} voters already"
            if any(other.broker_id == voter.broker_id for other in voters):
                return f"another directory of broker {voter.broker_id} votes: remove that first"
            return Membership((*voters, voter), tuple(v for v in learners if v != voter))
        case Action.REMOVE:
            if voter not in voters and voter not in learners:
                return f"{voter} is not there"
            if voters == (voter,):
                return "it is the only voter"
            return Membership(tuple(v for v in voters if v != voter), tuple(v for v in learners if v != voter))


def validate_membership(membership: Membership, config: QuorumConfig) -> None:
    """Asserts every invariant."""
    voters, learners = membership.voters, membership.learners
    assert len(voters) <= config.voters_max
    assert len(learners) <= config.learners_max
    assert not set(voters) & set(learners)
    assert len({voter.broker_id for voter in voters}) == len(voters)
