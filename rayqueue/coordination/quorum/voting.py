"""What epochs in messages do to us, and to whom we give our vote. The same in every role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    SnapshotRequest,
    VoteReply,
    VoteRequest,
)

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine


def settle_epoch(node: QuorumMachine, message: AnyMessage) -> bool:
    """Called for a message of another epoch than ours. Whether it is to be handled further."""
    if message.epoch < node.epoch:
        _refuse(node, message)
        return False
    match message:
        case VoteRequest(pre=True):
            return True  # asks about an epoch that nobody has claimed yet
        case VoteReply(pre=True, granted=True):
            # The epoch is the one we asked for. Should ours have moved on meanwhile, the role knows.
            return True
        case VoteRequest(forced=False) if node.hears_leader():
            # A node that was removed, or that alone cannot hear the leader, must not depose it.
            return False
        case AppendRequest() | SnapshotRequest():
            node.adopt_epoch(message.epoch, message.sender)
        case _:
            node.adopt_epoch(message.epoch, None)
    return True


def _refuse(node: QuorumMachine, message: AnyMessage) -> None:
    """Tells the sender of an old epoch that there is a newer one; answers of old epochs are dropped."""
    match message:
        case VoteRequest():
            node.answer(VoteReply(node.me, message.sender, node.epoch, False, message.pre))
        case AppendRequest() | SnapshotRequest():
            node.answer(AppendReply(node.me, message.sender, node.epoch, 0, 0, rejected=True))


def answer(node: QuorumMachine, request: VoteRequest) -> None:
    """Grants or refuses a vote, or says what it would do."""
    covered = node.log.is_covered_by(request.last_index, request.last_epoch)
    if request.pre:
        granted = covered and request.epoch > node.epoch and not node.hears_leader()
        epoch = request.epoch if granted else node.epoch
        node.answer(VoteReply(node.me, request.sender, epoch, granted, pre=True))
        return
    granted = covered and node.vote in (None, request.sender)
    if granted:
        if node.vote is None:
            node.persist_vote(node.epoch, request.sender)
        node.role.voted()
    node.promise(VoteReply(node.me, request.sender, node.epoch, granted))
