"""What the group's thread looks after beside the membership: users that do not poll, and waiting that has a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetcher import Fetcher
from rayqueue.client.fetching.offset_queries import query_offsets
from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.client.groups.member_effects import Phase
from rayqueue.client.groups.session import GroupSession
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import (
    AssignedTopic,
    DescribeGroupRequest,
    DescribeGroupResponse,
    MemberDescription,
)
from rayqueue.protocol.messages import LATEST_TIMESTAMP

log = logging.getLogger("rayqueue.consumer")

ASK_S = 1.0
WAIT_MS = 5_000  # nobody asks why when it takes less
ASK_EVERY_MS = 10_000
SHOWN_MAX = 5
LOOK_MS = 1_000


class Nudge:
    """Has the reader look around now and then, however many records it has in hand."""

    def __init__(self, wake: Callable[[], None], every_ms: int, now_ms: int) -> None:
        self._wake = wake
        self._every_ms = every_ms
        self._next_ms = now_ms + every_ms

    def __call__(self, now_ms: int) -> int:
        if now_ms >= self._next_ms:
            self._next_ms = now_ms + self._every_ms
            self._wake()
        return self._next_ms


class PollWatch:
    """Warns when `poll` is not called for long, with the lag; leaves the group where that is configured.

    Attributes:
        polled_ms: when the reader looked around last; it does at every call, or every other time within `Nudge`.
        left: it has left the group, and is to come back at the next poll.
    """

    def __init__(self, client: ClusterClient, machine: Fetcher, interval_ms: int, leave: bool, now_ms: int) -> None:
        self.polled_ms = now_ms
        self.left = False
        self.session: GroupSession | None = None
        self._client = client
        self._machine = machine
        self._interval_ms = interval_ms
        self._leave = leave
        self._warned_ms = -1  # of which poll

    def __call__(self, now_ms: int) -> int:
        polled_ms, session = self.polled_ms, self.session
        if session is None or session.machine.phase not in (Phase.IN, Phase.JOINING) or polled_ms == self._warned_ms:
            return now_ms + self._interval_ms
        if now_ms < polled_ms + self._interval_ms:
            return polled_ms + self._interval_ms
        self._warned_ms = polled_ms
        member = session.machine.member
        lag = self._lag()
        leaves = self._leave and self.polled_ms == polled_ms  # it may have polled while the lag was asked for
        what = "it leaves the group until the next poll" if leaves else "it stays a member"
        log.warning(
            "group %r: poll was not called for %.0f s (max.poll.interval.ms), %s; %s",
            member.group_id, (now_ms - polled_ms) / 1000, what, lag,
        )  # fmt: skip
        if leaves:
            session.step_out()
            self.left = True  # only now: a poll that takes it joins again, which needs us to be out
        return now_ms + self._interval_ms

    def _lag(self) -> str:
        cursors = [cursor for cursor in list(self._machine.cursors.values()) if cursor.position is not None]
        questions = [(cursor.topic, cursor.partition, LATEST_TIMESTAMP) for cursor in cursors]
        try:
            ends = query_offsets(self._client, questions, ASK_S) if questions else []
        except RayQueueError as error:
            return f"its lag cannot be told ({error})"
        lags = {
            f"{cursor.topic}-{cursor.partition}": max(0, end.offset - (cursor.position or 0))
            for cursor, end in zip(cursors, ends, strict=True)
        }
        most = sorted(lags.items(), key=lambda item: -item[1])[:SHOWN_MAX]
        parts = ", ".join(f"{name}: {lag}" for name, lag in most)
        return f"lag {sum(lags.values())} records in {len(lags)} partitions ({parts}{', ...' if len(lags) > 5 else ''})"


class WaitingWatch:
    """Finds out what a member waits for: why it has nothing to read, and, when asked, whether it is to have more.

    Args:
        wake: called when there is an answer to `settled`.

    Attributes:
        text: why it has nothing to read, or "".
    """

    def __init__(self, calls: CoordinatorCalls, wake: Callable[[], None]) -> None:
        self.text = ""
        self.session: GroupSession | None = None
        self._calls = calls
        self._wake = wake
        self._since_ms: int | None = None
        self._ask_ms = 0
        self._logged = ""
        self._asked = False  # by `settled`
        self._settled_epoch = -1

    def settled(self) -> bool:
        """Whether the member holds all that the group means it to have; the answer comes later."""
        assert self.session is not None
        machine = self.session.machine
        with self.session.lock:
            if machine.phase is Phase.IN and machine.epoch == self._settled_epoch and not machine.changes():
                return True
        self._asked = True
        self.session.ring()
        return False

    def __call__(self, now_ms: int) -> int:
        session = self.session
        if session is None or session.machine.phase is not Phase.IN:
            self._since_ms, self.text = None, ""
            return now_ms + LOOK_MS
        if session.machine.held:
            self._since_ms, self.text = None, ""
        elif self._since_ms is None:
            self._since_ms, self._ask_ms = now_ms, now_ms + WAIT_MS
        late = self._since_ms is not None and now_ms >= self._ask_ms
        if late or self._asked:
            self._ask(session, late, now_ms)
        return now_ms + LOOK_MS

    def _ask(self, session: GroupSession, late: bool, now_ms: int) -> None:
        member, epoch = session.machine.member, session.machine.epoch
        self._ask_ms = now_ms + ASK_EVERY_MS
        try:
            request = DescribeGroupRequest(member.group_id)
            group = self._calls.call("describe_group", request, DescribeGroupResponse, ASK_S)
        except RayQueueError as error:
            why = f"and its coordinator does not say why: {error}"
        else:
            why = why_nothing(group, member.member_id)
            mine = next((one for one in group.members if one.member_id == member.member_id), None)
            if mine is not None and group.state != "Assigning" and mine.member_epoch == epoch and not _awaited(mine):
                self._settled_epoch = epoch
        finally:
            self._calls.close()
        if self._asked:
            self._asked = False
            self._wake()
        if late:
            self.text = why
            if why != self._logged:
                self._logged = why
                log.warning("group %r: member %s has nothing to read, %s", member.group_id, member.member_id, why)


def _awaited(mine: MemberDescription) -> set[tuple[str, int]]:
    return set(_partitions(mine.target)) - set(_partitions(mine.holds))


def why_nothing(group: DescribeGroupResponse, member_id: str) -> str:
    """Why a member holds nothing, from the group's description."""
    mine = next((member for member in group.members if member.member_id == member_id), None)
    if mine is None:
        return "for the group does not know it (any more): it will join anew"
    awaited = _awaited(mine)
    if not awaited:
        held = sum(len(topic.partitions) for member in group.members for topic in member.target)
        if not held:
            return f"for there are no partitions of {', '.join(sorted(mine.topics)) or 'its topics'} (yet)"
        return f"for {len(group.members)} members share {held} partitions: it takes over when one of them goes"
    lines = []
    for member in group.members:
        if member is not mine:
            lines += _blocks(member, awaited)
    if not lines:
        return f"it is about to take {len(awaited)} partitions"
    return "waiting for " + "; ".join(lines[:SHOWN_MAX])


def _blocks(member: MemberDescription, awaited: set[tuple[str, int]]) -> list[str]:
    theirs = sorted(awaited & {*_partitions(member.holds), *_partitions(member.revoking)})
    if not theirs:
        return []
    names = ", ".join(f"{topic}-{partition}" for topic, partition in theirs[:SHOWN_MAX])
    more = ", ..." if len(theirs) > SHOWN_MAX else ""
    since = f", asked to give it up {member.behind_ms / 1000:.0f} s ago" if member.behind_ms else ""
    return [f"{names}{more} held by member {member.member_id} ({member.client_id} on {member.host}{since})"]


def _partitions(topics: list[AssignedTopic]) -> list[tuple[str, int]]:
    return [(topic.topic, partition) for topic in topics for partition in topic.partitions]
