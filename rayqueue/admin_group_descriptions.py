"""What an AdminClient tells of consumer groups: plain values, printable, each with `to_dict` for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rayqueue.types import TopicPartition


@dataclass(frozen=True)
class GroupSummary:
    """A group in a list.

    Attributes:
        state: "Empty" (no members), "Assigning", "Reconciling" (partitions change hands) or "Stable".
    """

    group: str
    state: str
    members: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class GroupMember:
    """A member of a group.

    Attributes:
        instance_id: of a static member, else "".
        epoch: the member epoch; it lags behind the group's while the member has partitions to give up.
        assignment: what it may read now. revoking: asked back, not yet given. target: what it will have in the end.
        heard_s: seconds since its last heartbeat. behind_s: since it was asked for what it still holds; 0: for nothing.
    """

    member_id: str
    instance_id: str
    client_id: str
    host: str
    epoch: int
    topics: list[str]
    assignment: list[TopicPartition]
    revoking: list[TopicPartition]
    target: list[TopicPartition]
    heard_s: float
    behind_s: float


@dataclass(frozen=True)
class GroupOffset:
    """How far a group has come in a partition.

    Attributes:
        committed: the next record it wants, None: nothing is committed.
        start, end: of the log; None: its leader did not answer.
        member_id: who has the partition now, "" for nobody.
        metadata: the user's word beside the commit. committed_ms: when that was, ms since the epoch; 0: never.
        error: why the leader did not answer, or "".
    """

    topic: str
    partition: int
    committed: int | None
    start: int | None
    end: int | None
    member_id: str
    metadata: str = ""
    committed_ms: int = 0
    error: str = ""

    @property
    def lag(self) -> int | None:
        """Records it has yet to read; what retention has taken does not count. None: not known."""
        if self.committed is None or self.start is None or self.end is None:
            return None
        return max(0, self.end - max(self.committed, self.start))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "lag": self.lag}


@dataclass(frozen=True)
class GroupDescription:
    """A group as it is now.

    Attributes:
        state: as in GroupSummary. epoch: of the group: rises when members or partitions come and go.
        assignor: who gets what ("uniform", "range"). coordinator: broker id of the process that serves the group.
        offsets: of every partition that is committed, held by a member, or in a topic that one is subscribed to.
    """

    group: str
    state: str
    epoch: int
    assignor: str
    coordinator: int
    members: list[GroupMember]
    offsets: list[GroupOffset]

    @property
    def lag(self) -> int | None:
        """Records the group has yet to read in the partitions with a committed offset; None where one is not known."""
        known = [offset.lag for offset in self.offsets if offset.committed is not None]
        return None if any(lag is None for lag in known) else sum(lag for lag in known if lag is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        members = [
            {
                **asdict(member),
                "assignment": _names(member.assignment),
                "revoking": _names(member.revoking),
                "target": _names(member.target),
            }
            for member in self.members
        ]
        offsets = [offset.to_dict() for offset in self.offsets]
        head = {name: getattr(self, name) for name in ("group", "state", "epoch", "assignor", "coordinator", "lag")}
        return {**head, "members": members, "offsets": offsets}

    def __repr__(self) -> str:
        head = f"GroupDescription({self.group!r}, {self.state}, epoch={self.epoch}, lag={self.lag})"
        members = [f"  {m.member_id} on {m.host}: {_spans(m.assignment) or 'nothing'}" for m in self.members]
        return "\n".join([head, *members, *(f"  {_offset_line(offset)}" for offset in self.offsets)])


@dataclass(frozen=True)
class OffsetReset:
    """A committed offset that was moved, or would be. before: None: nothing was committed."""

    topic: str
    partition: int
    before: int | None
    after: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _names(partitions: list[TopicPartition]) -> list[str]:
    return [f"{tp.topic}-{tp.partition}" for tp in partitions]


def _spans(partitions: list[TopicPartition]) -> str:
    """clicks 0-3,7; flights 1."""
    topics: dict[str, list[int]] = {}
    for tp in sorted(partitions):
        topics.setdefault(tp.topic, []).append(tp.partition)
    return "; ".join(f"{topic} {number_spans(numbers)}" for topic, numbers in topics.items())


def number_spans(numbers: list[int]) -> str:
    """Sorted numbers as people write them: 0-3,7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _offset_line(offset: GroupOffset) -> str:
    if offset.error:
        return f"{offset.topic}-{offset.partition}: committed {offset.committed}; {offset.error}"
    return f"{offset.topic}-{offset.partition}: committed {offset.committed} of {offset.end}, lag {offset.lag}"
