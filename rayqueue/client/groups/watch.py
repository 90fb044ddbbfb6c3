"""What the group's thread looks after beside the membership: users that do not poll, and waiting that has a reason."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetcher import Fetcher
from rayqueue.client.fetching.offset_queries import query_offsets
from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.client.groups.member import Phase
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
        what = "it leaves the group until the next poll" if self._leave else "it stays a member"
        log.warning(
            "group %r: poll was not called for %.0f s (max.poll.interval.ms), %s; %s",
            member.group_id, (now_ms - polled_ms) / 1000, what, self._lag(),
        )  # fmt: skip
        if self._leave:
            self.left = True
            session.step_out()
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
    """Finds out why a member that is in has nothing to read, and says it.

    Attributes:
        text: why, or "".
    """

    def __init__(self, calls: CoordinatorCalls) -> None:
        self.text = ""
        self.session: GroupSession | None = None
        self._calls = calls
        self._since_ms: int | None = None
        self._ask_ms = 0
        self._logged = ""

    def __call__(self, now_ms: int) -> int:
        session = self.session
        if session is None or session.machine.phase is not Phase.IN or session.machine.held:
            self._since_ms, self.text = None, ""
            return now_ms + LOOK_MS
        if self._since_ms is None:
            self._since_ms, self._ask_ms = now_ms, now_ms + WAIT_MS
        if now_ms >= self._ask_ms:
            self._ask_ms = now_ms + ASK_EVERY_MS
            member = session.machine.member
            try:
                request = DescribeGroupRequest(member.group_id)
                group = self._calls.call("describe_group", request, DescribeGroupResponse, ASK_S)
                self.text = why_nothing(group, member.member_id)
            except RayQueueError as error:
                self.text = f"and its coordinator does not say why: {error}"
            if self.text != self._logged:
                self._logged = self.text
                log.warning("group %r: member %s has nothing to read, %s", member.group_id, member.member_id, self.text)
        return min(self._ask_ms, now_ms + LOOK_MS)


def why_nothing(group: DescribeGroupResponse, member_id: str) -> str:
    """Why a member holds nothing, from the group's description."""
    mine = next((member for member in group.members if member.member_id == member_id), None)
    if mine is None:
        return "for the group does not know it (any more): it will join anew"
    awaited = set(_partitions(mine.target)) - set(_partitions(mine.holds))
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
