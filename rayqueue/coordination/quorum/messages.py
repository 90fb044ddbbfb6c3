"""What quorum nodes say to each other, and what they keep: msgspec structs, MessagePack arrays on the wire and on disk.

Field names follow the Raft paper where this project has no word of its own; its *term* is our (coordinator) epoch.
All are immutable, so that a simulated network may deliver one twice.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Voter(NamedTuple):
    """A copy of the metadata log: a broker and the directory it lies in (KIP-853).

    A broker whose directory was lost comes back with a new directory id, hence as somebody else, who has promised
    nothing and whom nobody asks for the promises of the old one.
    """

    broker_id: int
    directory_id: str

    def __str__(self) -> str:
        return f"{self.broker_id}{self.directory_id}"


class Membership(msgspec.Struct, array_like=True, frozen=True):
    """Who votes and who listens. In force from the moment it stands in a log, committed or not (Raft, section 4.1).

    Invariants: no copy is both; at most one directory of a broker votes.
    """

    voters: tuple[Voter, ...] = ()
    learners: tuple[Voter, ...] = ()

    @property
    def majority(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1


# Kinds of entries.
RECORDS = 0  # a batch of metadata records, opaque here
FENCE = 1  # first of each epoch: with it all before it is committed (Raft, 5.4.2)
MEMBERSHIP = 2  # an encoded Membership


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of the metadata log; the same (index, epoch) is the same entry everywhere. Indexes start at 1."""

    index: int
    epoch: int
    kind: int = RECORDS
    payload: bytes = b""


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """The state after all entries up to and with (index, epoch), as bytes only the state machine understands."""

    index: int = 0
    epoch: int = 0
    membership: Membership = Membership()
    data: bytes = b""


class Stored(msgspec.Struct):
    """What a node finds on its disk when it starts.

    Attributes:
        epoch, vote: as of the last PersistVote.
        base_index, base_epoch: of the entry just before `entries`; (0, 0): of none.
    """

    epoch: int = 0
    vote: Voter | None = None
    snapshot: Snapshot = Snapshot()
    base_index: int = 0
    base_epoch: int = 0
    entries: list[Entry] = []


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What all have. epoch: the sender's, but for pre-votes: there the one the candidate would claim."""

    sender: Voter
    to: Voter
    epoch: int


class VoteRequest(Message, array_like=True, frozen=True, gc=False, tag=1):
    """Asks for a vote. (last_index, last_epoch): end of the candidate's log.

    Attributes:
        pre: only asks whether it would get it; nobody's epoch or vote changes (Raft thesis 9.6, KIP-996).
        forced: the leader itself asked for this election; do not protect it.
    """

    last_index: int
    last_epoch: int
    pre: bool = False
    forced: bool = False


class VoteReply(Message, array_like=True, frozen=True, gc=False, tag=2):
    """Grants or refuses; a refusal carries the voter's own epoch."""

    granted: bool
    pre: bool = False


class AppendRequest(Message, array_like=True, frozen=True, gc=False, tag=3):
    """Entries that follow (prev_index, prev_epoch); without entries, a beat.

    Attributes:
        commit: below and with it all is committed. round: echoed; see reads.py.
    """

    prev_index: int
    prev_epoch: int
    entries: tuple[Entry, ...]
    commit: int
    round: int


class AppendReply(Message, array_like=True, frozen=True, gc=False, tag=4):
    """Answers an AppendRequest, or the last chunk of a snapshot.

    Attributes:
        match: up to it the log is durable and the same as the leader's.
        rejected: nothing of ours is (prev_index, prev_epoch). Then (hint_index, hint_epoch) is our last entry at or
            below it whose epoch is not above: what comes after cannot match.
    """

    match: int
    round: int
    rejected: bool = False
    prev_index: int = 0
    hint_index: int = 0
    hint_epoch: int = 0


class SnapshotRequest(Message, array_like=True, frozen=True, gc=False, tag=5):
    """A part of a snapshot, for a peer whose next entry the leader's log no longer has."""

    index: int
    last_epoch: int
    membership: Membership
    offset: int
    total: int
    data: bytes
    round: int


class SnapshotReply(Message, array_like=True, frozen=True, gc=False, tag=6):
    """Of the snapshot at `index` the bytes below `offset` have come."""

    index: int
    offset: int
    round: int


class TransferRequest(Message, array_like=True, frozen=True, gc=False, tag=7):
    """The leader asks a voter that has all its log to stand for election now."""


AnyMessage = VoteRequest | VoteReply | AppendRequest | AppendReply | SnapshotRequest | SnapshotReply | TransferRequest

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_memberships: msgspec.msgpack.Decoder[Membership] = msgspec.msgpack.Decoder(Membership)

encode = _encoder.encode


def decode_message(data: bytes | memoryview) -> AnyMessage:
    """Decodes a message; msgspec.DecodeError when it is none."""
    return _decoder.decode(data)


def decode_membership(data: bytes) -> Membership:
    """Decodes the payload of a MEMBERSHIP entry."""
    return _memberships.decode(data)


def first_entries(membership: Membership) -> list[Entry]:
    """The log that `start` formats directories with, once in a cluster's life; every first voter has the same."""
    return [Entry(1, 1, MEMBERSHIP, encode(membership))]
