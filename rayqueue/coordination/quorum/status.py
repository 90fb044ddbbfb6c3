"""How a quorum node sees the quorum."""

from __future__ import annotations

import msgspec

from rayqueue.coordination.quorum.messages import Membership, Voter


class PeerStatus(msgspec.Struct, frozen=True):
    """Another copy as the leader sees it.

    Attributes:
        match: known to be the same and durable up to this index. silent_ms: since it was last heard.
        caught_up: near enough to be made a voter.
    """

    voter: Voter
    match: int
    silent_ms: int
    caught_up: bool


class QuorumStatus(msgspec.Struct, frozen=True):
    """A node's view. peers: only of a leader."""

    me: Voter
    role: str
    epoch: int
    leader: Voter | None
    membership: Membership
    commit: int
    end: int
    peers: list[PeerStatus]
