"""The members' sessions: who was heard when, what each was told on its exchange, and who is behind.

heard ── session_timeout_ms without a heartbeat ─────────────────────────────▶ out
    └──── its exchange ends, and no other comes ── disconnect_grace_ms ──────▶ out   (a static member that said that
                                                                                      it is away: not)
asked to give up ── rebalance_timeout_ms and it has not ─────────────────────▶ out   (0: it is warned of, once)
"""

from __future__ import annotations

from rayqueue.groups.config import GroupConfig
from rayqueue.groups.records import Member
from rayqueue.groups.state import Holding
from rayqueue.groups.timers import Timers

Id = tuple[str, str]  # group id, member id


class Session:
    """Of one member.

    Attributes:
        told: the member epoch whose assignment was said last on its present exchange, -1: none.
        behind_ms: since when it has been giving up what it was asked for; None: it is not.
    """

    __slots__ = ("behind_ms", "heard_ms", "is_static", "timeout_ms", "told")

    def __init__(self, heard_ms: int) -> None:
        self.heard_ms = heard_ms
        self.timeout_ms = 0
        self.is_static = False
        self.told = -1
        self.behind_ms: int | None = None


class Sessions:
    """Those of all members of the shard.

    Invariants: a session has a deadline (kind "session"); a member that is behind had one of kind "behind".
    """

    def __init__(self, config: GroupConfig, timers: Timers) -> None:
        self._config = config
        self._timers = timers
        self._all: dict[Id, Session] = {}

    def __getitem__(self, member: Id) -> Session:
        return self._all[member]

    def clear(self) -> None:
        """Nobody has one; the caller clears the timers."""
        self._all.clear()

    def heard(self, member: Id, record: Member, now_ms: int) -> Session:
        """The member has said something, or is to have all its time from now on."""
        session = self._all.get(member)
        if session is None:
            session = self._all[member] = Session(now_ms)
        session.heard_ms, session.timeout_ms, session.is_static = (
            now_ms,
            record.session_timeout_ms,
            bool(record.instance_id),
        )
        self._timers.set(("session", *member), now_ms + session.timeout_ms)
        return session

    def reopened(self, member: Id) -> None:
        """It has another exchange, on which nothing was said yet."""
        session = self._all.get(member)
        if session is not None:
            session.told = -1

    def lost(self, member: Id, now_ms: int) -> None:
        """Its exchange has ended, and it has no other. A static member may come back within its session (KIP-345)."""
        session = self._all.get(member)
        if session is None:
            return
        session.told = -1
        grace_ms = self._config.disconnect_grace_ms
        if grace_ms >= 0 and not session.is_static:
            key = ("session", *member)
            deadline = self._timers.deadline_of(key)
            assert deadline is not None
            self._timers.set(key, min(deadline, now_ms + grace_ms))

    def changed(self, member: Id, record: Member, holding: Holding, now_ms: int) -> None:
        """What the member holds has changed."""
        session = self._all[member]
        if not holding.revoking:
            session.behind_ms = None
            self._timers.drop(("behind", *member))
        elif session.behind_ms is None:
            session.behind_ms = now_ms
            self._timers.set(("behind", *member), now_ms + (record.rebalance_timeout_ms or self._config.behind_warn_ms))

    def ended(self, member: Id) -> None:
        """It is no member any more."""
        if self._all.pop(member, None) is not None:
            self._timers.drop(("session", *member))
            self._timers.drop(("behind", *member))

    def stood_still(self, now_ms: int) -> None:
        """We heard nobody for a while: what members have said meanwhile is still to be read."""
        for member, session in self._all.items():
            key = ("session", *member)
            deadline = self._timers.deadline_of(key)
            assert deadline is not None
            self._timers.set(key, max(deadline, now_ms + min(session.timeout_ms, self._config.stall_grace_ms)))

    def times(self, now_ms: int, group_id: str, member_id: str) -> tuple[int, int]:
        """Since when it was not heard, and since when it is behind, in ms ago."""
        session = self._all[group_id, member_id]
        return now_ms - session.heard_ms, now_ms - session.behind_ms if session.behind_ms is not None else 0

    def validate(self, members: set[Id]) -> None:
        """Asserts the invariants."""
        assert self._all.keys() == members
        assert all(self._timers.deadline_of(("session", *member)) is not None for member in members)
