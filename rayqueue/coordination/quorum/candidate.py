"""Standing for election: first asking whether it would succeed (pre-vote), then claiming the next epoch.

A pre-vote keeps a node that was cut off from coming back with a high epoch and deposing a leader that everybody else
hears (Raft thesis 9.6, KIP-996).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.messages import (
    AnyMessage,
    AppendRequest,
    SnapshotRequest,
    Voter,
    VoteReply,
    VoteRequest,
)

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine


class Candidate:
    """A voter that wants to lead.

    Attributes:
        granted: who votes, or would vote, for us. Invariant: before our own vote is durable, nobody.
        deadline_ms: when to try anew.
    """

    def __init__(self, node: QuorumMachine, pre: bool, forced: bool) -> None:
        self._node = node
        self.pre = pre
        self.forced = forced
        self.name = "pre-candidate" if pre else "candidate"
        self.granted: set[Voter] = set()
        self.deadline_ms: int | None = node.election_deadline_ms()
        self._vote_write = 0

    def start(self) -> None:
        """Asks the others; before it asks for votes it claims the epoch, durably."""
        node = self._node
        if self.pre:
            self._ask(node.epoch + 1)
        else:
            self._vote_write = node.persist_vote(node.epoch + 1, node.me)

    def persisted(self) -> None:
        """Our own vote may be durable now."""
        # Not earlier: we might crash, come back without the end of our log, claim the same epoch again, and be elected
        # by votes that were given to the longer log.
        if not self.pre and not self.granted and self._node.durability.done >= self._vote_write:
            self._ask(self._node.epoch)

    def _ask(self, epoch: int) -> None:
        node = self._node
        self.granted.add(node.me)
        log = node.log
        for voter in log.membership.voters:
            if voter != node.me:
                node.send(VoteRequest(node.me, voter, epoch, log.end, log.last_epoch, self.pre, self.forced))
        self._count()

    def _count(self) -> None:
        node = self._node
        membership = node.log.membership
        if len(self.granted.intersection(membership.voters)) < membership.majority:
            return
        if self.pre:
            node.stand(pre=False)
        else:
            node.lead()

    def receive(self, message: AnyMessage) -> None:
        """A message of our epoch, or a pre-vote for the next."""
        match message:
            case VoteReply():
                epoch = self._node.epoch + self.pre
                if message.granted and message.pre == self.pre and message.epoch == epoch and self.granted:
                    self.granted.add(message.sender)
                    self._count()
            case AppendRequest() | SnapshotRequest():
                self._node.become_follower(message.sender)
                self._node.role.receive(message)
            case _:
                pass

    def voted(self) -> None:
        """We gave our vote to somebody else: only in an epoch that we have not claimed."""
        self.deadline_ms = self._node.election_deadline_ms()

    def expire(self) -> None:
        """No majority in time, or the vote was split."""
        self._node.stand(pre=True)

    def validate(self) -> None:
        """Asserts every invariant."""
        node = self._node
        assert self.pre or node.vote == node.me
        assert self.pre or not self.granted or node.durability.done >= self._vote_write
        assert len(self.granted.intersection(node.log.membership.voters)) < node.log.membership.majority
