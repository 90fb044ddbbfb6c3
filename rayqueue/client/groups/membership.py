"""All that a consumer with a group has beside its reader: the session, the committer, and what looks after both."""

from __future__ import annotations

import socket
import uuid

from rayqueue.client.fetcher import COMMITTED
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.inbox import GroupNews
from rayqueue.client.groups.auto_commit import AutoCommit
from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.client.groups.committer import Committer, Standing
from rayqueue.client.groups.member_effects import Member
from rayqueue.client.groups.session import GroupSession, now_ms
from rayqueue.client.groups.watch import Nudge, PollWatch, WaitingWatch
from rayqueue.config.clients import ConsumerConfig

_LEAVE_MS = 3_000


class Membership:
    """What a consumer is in its group.

    Attributes:
        subscribed: it is, or wants to be, a member; else it commits as nobody in particular.
    """

    def __init__(self, engine: Engine) -> None:
        config, client, inbox = engine.config, engine.client, engine.inbox
        assert config.group_id is not None
        self.group_id = config.group_id
        self.subscribed = False
        self._machine = engine.machine
        self.member = _member(engine)

        def wake() -> None:
            inbox.put(GroupNews())

        now = now_ms()
        self.polls = PollWatch(
            client, engine.machine, config.max_poll_interval_ms, config.max_poll_interval_action == "leave", now
        )

        def calls() -> CoordinatorCalls:
            return CoordinatorCalls(client, self.group_id, config.client_id, lambda: self.session.coordinator_epoch)

        self.waiting = WaitingWatch(calls(), wake)
        every_ms = max(1, config.max_poll_interval_ms // 3)
        if config.enable_auto_commit:
            every_ms = min(every_ms, config.auto_commit_interval_ms)
        chores = (Nudge(wake, every_ms, now), self.polls, self.waiting)
        self.session = self.polls.session = self.waiting.session = GroupSession(client, self.member, wake, chores)
        self.committer = Committer(calls(), self.group_id, self.standing, config.request_timeout_ms / 1000)
        self.auto = AutoCommit(self.committer, config.enable_auto_commit, config.auto_commit_interval_ms, now)

    def standing(self) -> Standing:
        """As whom offsets are committed."""
        return Standing(self.member.member_id, self.session.reading_epoch) if self.subscribed else Standing("", 0)

    def describe(self) -> str:
        """Where it stands, in words."""
        if not self.subscribed:
            return f"group {self.group_id!r}, not a member"
        why = f", {self.waiting.text}" if self.waiting.text else ""
        unknown = sum(cursor.reset == COMMITTED for cursor in list(self._machine.cursors.values()))
        if unknown:
            why += f", {unknown} partitions wait to hear from the coordinator what is committed"
        return f"group {self.group_id!r}: {self.session.describe()}{why}"

    def close(self) -> None:
        """Leaves the group, ends threads and connections."""
        self.session.close()
        self.committer.close()


def _member(engine: Engine) -> Member:
    config: ConsumerConfig = engine.config
    leaves = config.max_poll_interval_action == "leave"
    return Member(
        group_id=config.group_id or "",
        member_id=str(uuid.uuid4()),
        instance_id=config.group_instance_id or "",
        host=socket.gethostname(),
        client_id=config.client_id,
        assignor=config.partition_assignment,
        session_timeout_ms=config.session_timeout_ms,
        rebalance_timeout_ms=config.max_poll_interval_ms if leaves else 0,
        heartbeat_interval_ms=config.heartbeat_interval_ms,
        answer_timeout_ms=min(config.request_timeout_ms, max(1, config.session_timeout_ms // 3)),
        leave_timeout_ms=min(_LEAVE_MS, config.request_timeout_ms),
        backoff_ms=lambda failures: int(engine.client.backoff(failures) * 1000),
    )
