"""What goes into a quorum node, and what comes out.

    a message, Persisted, Propose, Read, ChangeMembership, Transfer, SnapshotTaken, StorageFailed, Tick  ->  machine

    machine  ->  disk:   PersistVote, Append, Truncate, SaveSnapshot, InstallSnapshot, Compact
                 others: Send, Apply, Restore, TakeSnapshot, BecomeActive, StepDown, LeaderKnown, Committed, Dropped,
                         ReadReady

Effects are performed in the order given. Those for the disk carry a write number; the shell performs them one after the
other and says `Persisted(write)` when all up to that number are on stable storage: many may share one fsync. Numbers,
not log positions, because a position can be cut and written again while the first write is still under way.
"""

from __future__ import annotations

import enum

import msgspec

from rayqueue.coordination.quorum.messages import AnyMessage, Entry, Snapshot, Voter

# --- events ---------------------------------------------------------------------------------------------------------


class Persisted(msgspec.Struct, frozen=True, gc=False):
    """All disk effects up to number `write` are durable."""

    write: int


class Propose(msgspec.Struct, frozen=True, gc=False):
    """Append a batch of records; answered by Committed or Dropped. Only an active node takes it."""

    token: int
    payload: bytes


class Read(msgspec.Struct, frozen=True, gc=False):
    """Asks for an index: whoever has applied it sees all that was acknowledged before. ReadReady or Dropped."""

    token: int


class Action(enum.Enum):
    """A change of the membership. One at a time, and each moves one copy, so that majorities before and after meet."""

    ADD_LEARNER = "add a learner"
    PROMOTE = "make a learner a voter"
    REMOVE = "remove a voter or learner"


class ChangeMembership(msgspec.Struct, frozen=True, gc=False):
    """Answered by Committed or Dropped."""

    token: int
    action: Action
    voter: Voter


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """Hand the lead to `to` (None: the voter that has most). Success is StepDown, failure Dropped; until then proposals
    are refused."""

    token: int
    to: Voter | None = None


class SnapshotTaken(msgspec.Struct, frozen=True, gc=False):
    """The answer to TakeSnapshot: the state as it was after `index`."""

    index: int
    data: bytes


class StorageFailed(msgspec.Struct, frozen=True, gc=False):
    """The disk refused a write or an fsync. What is on it is unknown: this node says nothing more; start it anew."""

    message: str


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed: `next_deadline_ms` was reached."""


Event = AnyMessage | Persisted | Propose | Read | ChangeMembership | Transfer | SnapshotTaken | StorageFailed | Tick

# --- effects: the disk ----------------------------------------------------------------------------------------------


class PersistVote(msgspec.Struct, frozen=True, gc=False):
    """Epoch and vote replace what was kept."""

    write: int
    epoch: int
    vote: Voter | None


class Append(msgspec.Struct, frozen=True, gc=False):
    """The entries follow the last one of the log."""

    write: int
    entries: tuple[Entry, ...]


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Entries above index `end` are gone; they were never committed."""

    write: int
    end: int


class SaveSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Our own snapshot replaces the one before. The log stays; `Compact` follows once this is durable."""

    write: int
    snapshot: Snapshot


class InstallSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The leader's snapshot replaces ours, and then the whole log: empty, based on the snapshot's (index, epoch).

    The snapshot must be durable before the log is touched; a node that finds a log that does not reach or match its
    snapshot drops the log when it starts, so a crash in between does no harm.
    """

    write: int
    snapshot: Snapshot


class Compact(msgspec.Struct, frozen=True, gc=False):
    """Entries up to and with (index, epoch) may go; that pair must be kept, as the log's base."""

    write: int
    index: int
    epoch: int


# --- effects: the rest ----------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True, gc=False):
    """A message to message.to; it may get lost."""

    message: AnyMessage


class Apply(msgspec.Struct, frozen=True, gc=False):
    """These entries are committed, the next after all applied so far; of every kind, so that indexes have no gaps."""

    entries: tuple[Entry, ...]


class Restore(msgspec.Struct, frozen=True, gc=False):
    """The state machine starts over from this snapshot, which is committed."""

    snapshot: Snapshot


class TakeSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Encode the state as it is after the last Apply (up to `index`) and give it back as SnapshotTaken, at leisure."""

    index: int


class BecomeActive(msgspec.Struct, frozen=True, gc=False):
    """This node leads; all that any epoch before has committed is applied. Proposals and reads are welcome."""

    epoch: int


class StepDown(msgspec.Struct, frozen=True, gc=False):
    """This node, which was active in `epoch`, is no more; whatever was not Committed is to be forgotten."""

    epoch: int


class LeaderKnown(msgspec.Struct, frozen=True, gc=False):
    """Who leads in the newest epoch we know; None: nobody that we know of."""

    epoch: int
    leader: Voter | None


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The proposal or change stands at `index` for ever."""

    token: int
    index: int


class Dropped(msgspec.Struct, frozen=True, gc=False):
    """The request is over. unknown: it stood in a log and may yet be committed; else it has not and will not happen."""

    token: int
    reason: str
    unknown: bool = False


class ReadReady(msgspec.Struct, frozen=True, gc=False):
    """State at or after `index` (applied here) may answer the read."""

    token: int
    index: int


DiskEffect = PersistVote | Append | Truncate | SaveSnapshot | InstallSnapshot | Compact
Effect = (
    DiskEffect
    | Send
    | Apply
    | Restore
    | TakeSnapshot
    | BecomeActive
    | StepDown
    | LeaderKnown
    | Committed
    | Dropped
    | ReadReady
)
