"""Which processes are there: a process with a watch stream is, one without gets a deadline by which it must have one.

A stream ends when its connection breaks, or when the process says nothing for a second (`actors.watch_hub`). That is no
proof of death, and none is needed: nothing that is safe rests on it. A leader that is passed over although it lives
learns so from the metadata log, and its followers refuse its epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rayqueue.coordination.state import ClusterState

# A broker whose watch stream is gone so long does not count as alive: nothing new is placed on it.
BROKER_SESSION_MS = 6_000
# A replica actor that has just registered, or that a new coordinator has not heard of yet, must open its stream in
# this time; one of which it knows when it was last heard, in this time from then on. (Each tries again after a third of
# a second at the latest.) With a node go its coordinator, which may be the active one, and leaders: until others lead
# it takes this, or an election and INHERITED_GRACE_MS, whatever is longer.
ACTOR_SESSION_MS = 1_500
# One whose stream broke has this long to open another, which takes some 10 ms.
ACTOR_GRACE_MS = 100
# So long has, at a new coordinator, one that has been silent for as long as a session: it may have just come back.
INHERITED_GRACE_MS = 300

Process = tuple[int, int]  # broker id, slot; slot -1 is the broker itself
BROKER = -1


class Sessions:
    """See the module.

    Invariant (after `refresh`): a process that counts as there has a stream or a deadline, never both; one that does
    not has no deadline.
    """

    def __init__(self, state: ClusterState, now_ms: int, silent_ms: Mapping[str, int] | None = None) -> None:
        """silent_ms: by incarnation, since when a process has not been heard of, as far as that is known."""
        self._state = state
        self._streams: Counter[str] = Counter()  # by incarnation; there may be several for a moment
        self._deadlines: dict[Process, int] = {}
        self._incarnations: dict[Process, str] = {}  # whose deadline it is
        self._lenient_ms = now_ms  # until then streams end for what is not their processes' fault
        self.refresh(now_ms)
        for key, incarnation in self._incarnations.items():
            silent = (silent_ms or {}).get(incarnation)
            if silent is not None and key[1] != BROKER:
                self._deadlines[key] = now_ms + max(INHERITED_GRACE_MS, ACTOR_SESSION_MS - silent)

    def is_watching(self, incarnation: str) -> bool:
        """Whether the process of this incarnation has a stream open."""
        return incarnation in self._streams

    def started(self, incarnation: str) -> None:
        """A stream was opened."""
        self._streams[incarnation] += 1

    def ended(self, incarnation: str, now_ms: int) -> None:
        """One of its streams has ended."""
        self._streams[incarnation] -= 1
        if self._streams[incarnation] > 0:
            return
        del self._streams[incarnation]
        for (broker_id, slot), actor in self._state.replica_actors.items():
            if actor.incarnation == incarnation and (broker_id, slot) not in self._state.lost:
                self._set((broker_id, slot), incarnation, max(now_ms + ACTOR_GRACE_MS, self._lenient_ms))

    def stalled(self, now_ms: int) -> None:
        """The coordinator stood still, and many will have left it: they have as long as after its start."""
        self._lenient_ms = now_ms + ACTOR_SESSION_MS
        for process, deadline in self._deadlines.items():
            self._deadlines[process] = max(deadline, self._lenient_ms)

    def refresh(self, now_ms: int) -> None:
        """Deadlines for those that now lack a stream; none for those that have one, or are gone."""
        state = self._state
        wanted: dict[Process, tuple[str, int]] = {}
        for broker_id, broker in state.brokers.items():
            if state.alive[broker_id] and not self.is_watching(broker.incarnation):
                wanted[broker_id, BROKER] = broker.incarnation, BROKER_SESSION_MS
        for key, actor in state.replica_actors.items():
            if key not in state.lost and not self.is_watching(actor.incarnation):
                wanted[key] = actor.incarnation, ACTOR_SESSION_MS
        for key in [key for key in self._deadlines if key not in wanted]:
            del self._deadlines[key], self._incarnations[key]
        for key, (incarnation, session_ms) in wanted.items():
            if self._incarnations.get(key) != incarnation:
                self._set(key, incarnation, now_ms + session_ms)

    def _set(self, key: Process, incarnation: str, deadline_ms: int) -> None:
        self._deadlines[key] = deadline_ms
        self._incarnations[key] = incarnation

    def expired(self, now_ms: int) -> list[Process]:
        """Processes whose deadline has passed; they count as gone from now on, once the caller has recorded it."""
        return sorted(key for key, deadline in self._deadlines.items() if now_ms >= deadline)

    def next_deadline_ms(self) -> int | None:
        """The first deadline; None: there is none."""
        return min(self._deadlines.values(), default=None)

    def validate(self) -> None:
        """Asserts the invariant."""
        assert all(count > 0 for count in self._streams.values())
        for broker_id, broker in self._state.brokers.items():
            waits = self._state.alive[broker_id] and not self.is_watching(broker.incarnation)
            assert ((broker_id, BROKER) in self._deadlines) == waits
        for key, actor in self._state.replica_actors.items():
            waits = key not in self._state.lost and not self.is_watching(actor.incarnation)
            assert (key in self._deadlines) == waits
