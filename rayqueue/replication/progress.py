"""A follower as its leader sees it: how far it holds the log, and when it last held all of it."""

from __future__ import annotations

NOTHING = -1  # it has acked nothing under this leader


class Progress:
    """One incarnation of one follower, under one leader epoch. A follower that comes anew is one of which nothing is
    known: it may have lost what it had acked.

    Attributes:
        incarnation: only this one is fed, and only its acks count.
        end: below it the follower holds all the leader has. Invariant: NOTHING <= end <= the leader's written end.
        fed: it is pushed to.
        caught_up_ms: when it was last known to hold all the leader had (KIP-16, as Kafka counts it today).
    """

    __slots__ = ("_acked_ms", "_leader_end", "caught_up_ms", "end", "fed", "incarnation")

    def __init__(self, incarnation: str, now_ms: int) -> None:
        self.incarnation = incarnation
        self.end = NOTHING
        self.fed = False
        self.caught_up_ms = now_ms
        self._acked_ms = now_ms  # of the previous ack
        self._leader_end = 2**63  # the leader's end at the previous ack

    def begins(self, offset: int) -> None:
        """It is fed from `offset` on: it has no more than what is below."""
        self.fed = True
        self.end = min(self.end, offset)

    def acked(self, end: int, leader_end: int, now_ms: int) -> None:
        """It holds everything below `end`."""
        self.end = max(self.end, end)
        if self.end >= leader_end:
            self.caught_up_ms = now_ms
        elif self.end >= self._leader_end:
            self.caught_up_ms = max(self.caught_up_ms, self._acked_ms)
        self._acked_ms, self._leader_end = now_ms, leader_end

    def leader_wrote(self, old_end: int, now_ms: int) -> None:
        """The leader's log goes on beyond `old_end`: until now this follower may have held all of it. Nothing tells so
        before: a follower of a partition without traffic has nothing to ack."""
        if self.end >= old_end:
            self.caught_up_ms = now_ms

    def lags_from_ms(self, leader_end: int, lag_time_max_ms: int) -> int | None:
        """When it counts as lagging, unless it acks before; None while it holds all."""
        return None if self.end >= leader_end else self.caught_up_ms + lag_time_max_ms
