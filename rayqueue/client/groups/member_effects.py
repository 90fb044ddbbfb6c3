"""Who a member of a group is, where it stands, and what its machine wants done. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from rayqueue.protocol.group_messages import GroupCoordinatorAddress, GroupHeartbeat, GroupPartition


class Member(NamedTuple):
    """A member, as it was configured.

    Attributes:
        member_id: chosen by the member, new for each consumer (KIP-1082). instance_id: of a static member, or "".
        host, client_id: for people.
        assignor: "uniform" or "range".
        session_timeout_ms: after so long without an answer the member lets go of everything.
        rebalance_timeout_ms: as in a heartbeat.
        heartbeat_interval_ms: the longest between heartbeats; the coordinator may want them sooner.
        answer_timeout_ms: a coordinator that leaves a heartbeat unanswered so long is looked for anew.
        leave_timeout_ms: how long the coordinator is given to hear that the member leaves.
        backoff_ms: the wait after n failures in a row.
    """

    group_id: str
    member_id: str
    instance_id: str
    host: str
    client_id: str
    assignor: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    heartbeat_interval_ms: int
    answer_timeout_ms: int
    leave_timeout_ms: int
    backoff_ms: Callable[[int], int]


class Phase(Enum):
    """Where a member stands."""

    OUT = "not in the group"
    JOINING = "joining"
    IN = "in the group"
    LEAVING = "leaving"
    FAILED = "refused"


class Link(Enum):
    """Where the way to the coordinator stands."""

    NONE = "none"
    FINDING = "finding"
    OPENING = "opening"
    OPEN = "open"


class Changes(NamedTuple):
    """What the reader is to do, in this order; topics by partition.

    Attributes:
        lost: it must not read these any more: others may by now, and nothing of them can be committed.
        revoke: to be given up: read no more, commit, then `gave_up`.
        assign: to be read, once nothing is lost that was not told: `take`.
    """

    lost: dict[GroupPartition, str]
    revoke: dict[GroupPartition, str]
    assign: dict[GroupPartition, str]

    def __bool__(self) -> bool:
        return bool(self.lost or self.revoke or self.assign)


class Find(NamedTuple):
    """Ask a broker who serves the group; the answer is `on_found`. known: as in `FindGroupCoordinator`."""

    known: int


class Connect(NamedTuple):
    """Open an exchange with this coordinator; the answer is `on_opened` or `on_closed`."""

    address: GroupCoordinatorAddress


class Say(NamedTuple):
    """Send a heartbeat in the open exchange."""

    heartbeat: GroupHeartbeat


class HangUp(NamedTuple):
    """Give up finding, or the exchange; it gives no further event."""


class Tell(NamedTuple):
    """There may be `changes` for the reader, or an error."""


class Warn(NamedTuple):
    """Tell the log."""

    text: str


Effect = Find | Connect | Say | HangUp | Tell | Warn
