"""The messages and effects of the quorum in words, for scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.messages import (
    FENCE,
    MEMBERSHIP,
    AppendReply,
    AppendRequest,
    Entry,
    Membership,
    SnapshotReply,
    SnapshotRequest,
    TransferRequest,
    Voter,
    VoteReply,
    VoteRequest,
    decode_membership,
)


def who(voter: Voter | None) -> str:
    """A copy's name: the broker, with a prime for each directory it has lost."""
    return "nobody" if voter is None else f"{voter.broker_id}{voter.directory_id}"


def entry(e: Entry) -> str:
    """An entry as index@epoch and what it is."""
    if e.kind == FENCE:
        return f"{e.index}@{e.epoch} fence"
    if e.kind == MEMBERSHIP:
        return f"{e.index}@{e.epoch} {members(decode_membership(e.payload))}"
    return f"{e.index}@{e.epoch} {e.payload.decode()}"


def entries(some: Sequence[Entry]) -> str:
    """Several entries."""
    return ", ".join(map(entry, some))


def members(membership: Membership) -> str:
    """A membership."""
    text = "{" + " ".join(map(who, membership.voters)) + "}"
    return text + (" learning " + " ".join(map(who, membership.learners)) if membership.learners else "")


def message(m: Any) -> str:
    """A message."""
    return f"{who(m.sender)} -> {who(m.to)}: {_said(m)}"


def _said(m: Any) -> str:
    match m:
        case VoteRequest(pre=True):
            return f"would you vote for me in epoch {m.epoch}? my log ends with {m.last_index}@{m.last_epoch}"
        case VoteRequest():
            forced = ", the leader asked me to stand" if m.forced else ""
            return f"vote for me in epoch {m.epoch}: my log ends with {m.last_index}@{m.last_epoch}{forced}"
        case VoteReply(granted=True, pre=True):
            return f"I would in epoch {m.epoch}"
        case VoteReply(pre=True):
            return f"I would not, in epoch {m.epoch}"
        case VoteReply():
            return f"you have my vote in epoch {m.epoch}" if m.granted else f"no vote, in epoch {m.epoch}"
        case AppendRequest():
            what = f"append {entries(m.entries)} after" if m.entries else "beat after"
            round_ = f", round {m.round}" if m.round else ""
            return f"epoch {m.epoch}: {what} {m.prev_index}@{m.prev_epoch}, committed to {m.commit}{round_}"
        case AppendReply(rejected=True):
            if not m.prev_index:
                return f"epoch {m.epoch}: yours is over"
            return f"epoch {m.epoch}: I lack {m.prev_index}, look at {m.hint_index}@{m.hint_epoch}"
        case AppendReply():
            return f"epoch {m.epoch}: I have it to {m.match}" + (f", round {m.round}" if m.round else "")
        case SnapshotRequest():
            end = m.offset + len(m.data)
            return f"epoch {m.epoch}: snapshot at {m.index}@{m.last_epoch}, bytes {m.offset} to {end} of {m.total}"
        case SnapshotReply():
            return f"epoch {m.epoch}: of the snapshot at {m.index} I have {m.offset} bytes"
        case TransferRequest():
            return f"epoch {m.epoch}: stand for election now"
    raise AssertionError(m)


def effect(e: ev.Effect) -> str:
    """An effect other than Send."""
    match e:
        case ev.PersistVote():
            return f"stores epoch {e.epoch}, vote for {who(e.vote)}"
        case ev.Append():
            return f"stores {entries(e.entries)}"
        case ev.Truncate():
            return f"cuts its log after {e.end}"
        case ev.SaveSnapshot(snapshot=s):
            return f"stores its snapshot at {s.index}@{s.epoch}"
        case ev.InstallSnapshot(snapshot=s):
            return f"stores the leader's snapshot at {s.index}@{s.epoch}, {members(s.membership)}, in place of its log"
        case ev.Compact():
            return f"drops its log up to {e.index}@{e.epoch}"
        case ev.Apply():
            return f"applies {entries(e.entries)}"
        case ev.Restore(snapshot=s):
            return f"restores the state at {s.index}"
        case ev.TakeSnapshot():
            return f"is asked for a snapshot at {e.index}"
        case ev.BecomeActive():
            return f"IS ACTIVE in epoch {e.epoch}"
        case ev.StepDown():
            return f"STEPS DOWN in epoch {e.epoch}"
        case ev.LeaderKnown():
            return f"knows that {who(e.leader)} leads epoch {e.epoch}"
        case ev.Committed():
            return f"answers request {e.token}: committed at {e.index}"
        case ev.Dropped():
            return f"answers request {e.token}: dropped, {e.reason}" + ("; may yet be committed" if e.unknown else "")
        case ev.ReadReady():
            return f"answers request {e.token}: read the state at {e.index}"
    raise AssertionError(e)
