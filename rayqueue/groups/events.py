"""What goes into a shard's machine, and what comes out.

    Lead, Replay, Loaded, Resign, Topics, Opened, Closed, Request, Appended, AppendFailed, Tick  ->  machine

    machine  ->  Append, Reply, Refuse, Push, TakeOverAnew, Warn

Effects are performed in the order given.

    Lead ─▶ Replay ... ─▶ (the shell appends its fence, reads on up to it) ─▶ Replay ─▶ Loaded ─▶ serves ─▶ Resign
                                         ▲                                                      │
                                         └───────────── TakeOverAnew ◀── AppendFailed ◀─────────┘

The machine serves once it was `Loaded` and has been told `Topics`; until then, and after `Resign` or `TakeOverAnew`, it
answers everything with NotGroupCoordinator. `Topics` may come at any time, also before `Lead`; they outlive a reign.

The shell makes a `machine.ShardMachine(shard, broker_id, config)` a shard, for as long as its process lives. Who served
the shard before stands in `machine.owner` (`records.Owner` or None), once the log has been replayed to its end; the
fence that is then appended is `records.owner_record(owner.number + 1, ...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import GroupHeartbeatResponse

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lead:
    """Our broker leads the shard's partition under this leader epoch: what is known of the shard is dropped, the log
    is going to be read. Answers bear this epoch (`coordinator_epoch`)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Records of the log, in its order: (key, value or None for a tombstone, timestamp in ms)."""

    records: Sequence[tuple[bytes, bytes | None, int]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The log has been replayed up to our own fence, with it: nobody else can append any more."""


@dataclass(frozen=True, slots=True)
class Resign:
    """Our broker does not lead the partition any more, or is about to end."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """Attributes: replicas: entry i is of partition i: the ids of the brokers that hold its replicas."""

    topic_id: bytes
    replicas: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics there are, by name. The mapping is kept as it is and must not be changed afterwards."""

    facts: Mapping[str, TopicFacts]


@dataclass(frozen=True, slots=True)
class Opened:
    """A member's exchange is there; said before its first Request.

    Attributes:
        session: names the exchange. A later connection has a higher number (count them as they are accepted): what
            comes late from an earlier one of the same member is void.
    """

    group_id: str
    member_id: str
    session: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A member's exchange has ended, however."""

    group_id: str
    member_id: str
    session: int


@dataclass(frozen=True, slots=True)
class Request:
    """A message of `protocol.group_messages`. `call` names it until it is answered by Reply or Refuse, exactly once.

    Attributes:
        session: the exchange a GroupHeartbeat came through; 0 for everything else.
    """

    call: int
    message: Any
    session: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """The Append of this number, and all before it, are committed: acknowledged by all in-sync replicas."""

    number: int


@dataclass(frozen=True, slots=True)
class AppendFailed:
    """The Append of this number failed, or nobody knows: the machine gives the shard up (TakeOverAnew)."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: `next_deadline_ms` was reached."""


Event = (
    Lead | Replay | Loaded | Resign | Topics | Opened | Closed | Request | Appended | AppendFailed | Tick
)  # fmt: skip

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """Append these records to the shard's partition as one batch, acks=all, under the owner's producer id and epoch.

    Several may be under way; they reach the log in the order of their numbers, which rise by one and are never given
    twice, not in a later reign either. Answered by Appended or AppendFailed; of a reign that is over by neither or any.

    Attributes:
        records: (key, value or None for a tombstone).
    """

    number: int
    records: list[tuple[bytes, bytes | None]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """Answers a call. What it says is committed, and we still owned the shard after it had come.

    A GroupHeartbeat is always answered so, its errors are within the response.
    """

    call: int
    response: Any


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answers a call with an error. NotGroupCoordinator: whether anything has changed is not known."""

    call: int
    error: RayQueueError


@dataclass(frozen=True, slots=True)
class Push:
    """Says something to a member unasked, on its exchange. Lost when that is gone: the member hears it on the next."""

    session: int
    response: GroupHeartbeatResponse


@dataclass(frozen=True, slots=True)
class TakeOverAnew:
    """The shard's state may be ahead of its log and was dropped: if our broker still leads it, begin again by `Lead`
    (with a new number of the owner, so that what is still under way is fenced)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that an operator must not overlook."""

    message: str


Effect = Append | Reply | Refuse | Push | TakeOverAnew | Warn
