"""Bugs planted into the quorum's core, one method each: the simulator must catch them, and stay able to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum import voting
from rayqueue.coordination.quorum.candidate import Candidate
from rayqueue.coordination.quorum.durability import Durability
from rayqueue.coordination.quorum.follower import Follower
from rayqueue.coordination.quorum.leader import Leader
from rayqueue.coordination.quorum.log import QuorumLog
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import AnyMessage, AppendReply, Entry, VoteRequest

_answer = voting.answer


def vote_from_memory(node: QuorumMachine, request: VoteRequest) -> None:
    """A vote is given, and remembered, but not written down."""
    if not request.pre and node.vote is None and node.log.is_covered_by(request.last_index, request.last_epoch):
        node.vote = request.sender
    _answer(node, request)


_promise = QuorumMachine.promise


def acknowledge_at_once(self: QuorumMachine, message: AnyMessage) -> None:
    """Adopted entries are acknowledged when written, not when durable."""
    if isinstance(message, AppendReply):
        self.send(message)
    else:
        _promise(self, message)


def commit_any_epoch(self: Leader, index: int) -> bool:
    """Entries of earlier epochs are committed by being on a majority."""
    return True


def never_truncate(self: Follower, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """What differs from the leader's log is left as it is."""
    return entries[max(0, self._node.log.end + 1 - entries[0].index) :] if entries else ()


_change_problem = Leader._change_problem


def change_any_time(self: Leader, event: ev.ChangeMembership) -> str:
    """A change of the membership does not wait for the one before."""
    problem = _change_problem(self, event)
    return "" if problem.startswith("another") else problem


def read_without_round(self: Leader, event: ev.Read) -> None:
    """A leader that believes it leads answers reads by itself."""
    self._node.emit(ev.ReadReady(event.token, self._node.commit))


def answer_for_the_old_directory(self: QuorumMachine, message: AnyMessage) -> bool:
    """Whoever has the broker's id is taken for the voter, whatever directory it had."""
    if message.to.broker_id != self.me.broker_id:
        return False
    self.me = message.to
    return True


_settle_epoch = voting.settle_epoch


def take_old_epochs(node: QuorumMachine, message: AnyMessage) -> bool:
    """Messages of earlier epochs are handled like present ones."""
    return True if message.epoch < node.epoch else _settle_epoch(node, message)


_start = Candidate.start


def ask_before_own_vote(self: Candidate) -> None:
    """Votes are asked for while the candidate's own claim is on its way to the disk."""
    _start(self)
    if not self.pre:
        self._ask(self._node.epoch)


_grows = Durability.grows


def count_what_is_under_way(self: Durability, write: int, end: int) -> None:
    """Our own entries count for the majority as soon as their write has begun."""
    _grows(self, write, end)
    self.end = end


def grant_to_shorter_logs(self: Any, index: int, epoch: int) -> bool:
    """A vote is given without a look at the candidate's log."""
    return True


# Name -> what is replaced, where, by what.
MUTANTS: Mapping[str, tuple[Any, str, Callable[..., Any]]] = {
    "vote-without-persisting": (voting, "answer", vote_from_memory),
    "ack-before-appended": (QuorumMachine, "promise", acknowledge_at_once),
    "commit-old-epochs-by-counting": (Leader, "_may_commit", commit_any_epoch),
    "no-truncation": (Follower, "_cut_mismatch", never_truncate),
    "two-changes-at-once": (Leader, "_change_problem", change_any_time),
    "read-without-round": (Leader, "_read", read_without_round),
    "lost-disk-votes": (QuorumMachine, "_is_for_me", answer_for_the_old_directory),
    "no-epoch-check": (voting, "settle_epoch", take_old_epochs),
    "ask-before-own-vote": (Candidate, "start", ask_before_own_vote),
    "count-what-is-under-way": (Durability, "grows", count_what_is_under_way),
    "grant-to-shorter-logs": (QuorumLog, "is_covered_by", grant_to_shorter_logs),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While inside, the core has this bug; "": none."""
    if not name:
        yield
        return
    target, attribute, replacement = MUTANTS[name]
    with patch.object(target, attribute, replacement):
        yield
