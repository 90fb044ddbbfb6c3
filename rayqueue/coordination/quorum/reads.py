"""Linearizable reads: who answers one must know that nobody else led before it began (Raft, section 8).

A round is a number in every message to the peers, which they echo. When a majority has echoed a number that was made
after a read came, no other leader had been elected by then, so what was committed here at that time is all there was.
Reads that come while a round is under way share the next one: one round, however many reads.
"""

from __future__ import annotations

from rayqueue.coordination.quorum.events import Dropped, Effect, ReadReady


class Reads:
    """Reads that wait.

    Attributes:
        round: of the round under way, or of the last one.
    """

    def __init__(self, reads_max: int) -> None:
        self._reads_max = reads_max
        self.round = 0
        self._asking: list[int] = []  # tokens the round under way is for
        self._index = 0  # what was committed when it began
        self._next: list[int] = []

    def add(self, token: int) -> Effect | None:
        """A read; refused when too many wait."""
        if len(self._asking) + len(self._next) >= self._reads_max:
            return Dropped(token, "too many reads wait")
        self._next.append(token)
        return None

    def begin(self, commit: int) -> bool:
        """Starts a round for all reads that wait; False: one is under way, or nobody waits."""
        if self._asking or not self._next:
            return False
        self.round += 1
        self._asking, self._next, self._index = self._next, [], commit
        return True

    def confirmed(self) -> list[Effect]:
        """A majority has echoed the round."""
        ready: list[Effect] = [ReadReady(token, self._index) for token in self._asking]
        self._asking = []
        return ready

    @property
    def is_asking(self) -> bool:
        """Whether a round is under way."""
        return bool(self._asking)

    def drop(self, reason: str) -> list[Effect]:
        """All that wait are over."""
        dropped: list[Effect] = [Dropped(token, reason) for token in self._asking + self._next]
        self._asking, self._next = [], []
        return dropped
