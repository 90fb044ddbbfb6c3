"""The members' exchanges: pushes go to the newest one, what comes through an older one is void.

A member opens another exchange when it gives up on the first: what it sent through that may be read late, even after
what it sends through the second, and must not undo it. (A join, which says "I hold nothing", would.)
"""

from __future__ import annotations

Member = tuple[str, str]  # group id, member id


class Exchanges:
    """Those of all members, whoever leads the shard: they end when their connections do.

    Invariant: the newest of a member is the highest number since it last had none open.
    """

    def __init__(self) -> None:
        self._newest: dict[Member, int] = {}
        self._open: dict[Member, set[int]] = {}

    def opened(self, member: Member, session: int) -> None:
        """One more."""
        self._open.setdefault(member, set()).add(session)
        self._newest[member] = max(session, self._newest.get(member, session))

    def closed(self, member: Member, session: int) -> bool:
        """One has ended; whether that leaves the member without."""
        there = self._open.get(member)
        if there is None or session not in there:
            return False
        was_newest = self._newest[member] == session
        there.discard(session)
        if not there:
            del self._open[member], self._newest[member]
        return was_newest

    def is_void(self, member: Member, session: int) -> bool:
        """Whether the member has a newer one than this, or has let this one end."""
        return session != 0 and self._newest.get(member) != session

    def of(self, member: Member) -> int | None:
        """The one to push to."""
        session = self._newest.get(member)
        return session if session is not None and session in self._open[member] else None

    def validate(self) -> None:
        """Asserts the invariant."""
        assert self._open.keys() == self._newest.keys()
        assert all(there and max(there) <= self._newest[member] for member, there in self._open.items())
