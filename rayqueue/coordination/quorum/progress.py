"""What a leader knows of one peer's log, and what is under way to it.

probe     one message at a time, until the peer has said where its log is the same as ours
pipeline  up to inflight_max messages ahead of the answers
snapshot  the entry it needs is gone from our log: one part of the snapshot at a time

probe -> pipeline: an append was accepted      pipeline -> probe: one was rejected (something was lost on the way)
probe, pipeline -> snapshot: see above         snapshot -> pipeline: the peer has all of it
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from rayqueue.coordination.quorum.messages import AppendReply, Snapshot


class Mode(Enum):
    """How entries are sent."""

    PROBE = "probe"
    PIPELINE = "pipeline"
    SNAPSHOT = "snapshot"


class Progress:
    """One peer.

    Attributes:
        match: durable there and the same as ours up to this index. next: of the entry to send next.
            Invariant: match < next <= our log's end + 1.
        inflight: last index of each append under way, ascending.
        waiting: in probe mode, an answer is due; the next beat asks again.
        heard_ms: when the last answer came; at first, when we began to ask. answered: whether one came. round: the highest it has echoed.
        snapshot: the one being sent. offset: bytes of it that the peer has.
    """

    __slots__ = ("answered", "heard_ms", "inflight", "match", "mode", "next", "offset", "round", "snapshot", "waiting")

    def __init__(self, next_index: int, now_ms: int) -> None:
        self.match = 0
        self.next = next_index
        self.mode = Mode.PROBE
        self.inflight: deque[int] = deque()
        self.waiting = False
        self.heard_ms = now_ms
        self.answered = False
        self.round = 0
        self.snapshot: Snapshot | None = None
        self.offset = 0

    def accepted(self, match: int, base_index: int) -> None:
        """The peer's log is ours up to `match`; ours begins after `base_index`."""
        self.match = max(self.match, match)
        while self.inflight and self.inflight[0] <= self.match:
            self.inflight.popleft()
        self.next = max(self.next, self.match + 1)
        # Should our log begin later than the snapshot by now, the next append finds that out and begins another.
        if self.snapshot is None or self.match >= min(base_index, self.snapshot.index):
            self.mode, self.snapshot, self.waiting = Mode.PIPELINE, None, False

    def rejected(self, reply: AppendReply, next_index: int) -> bool:
        """The peer lacks what we built on; go on at `next_index`. False: an old answer that says nothing new."""
        if self.mode is Mode.SNAPSHOT or reply.prev_index <= self.match:
            return False
        if self.mode is Mode.PROBE and reply.prev_index != self.next - 1:
            return False
        self.next = max(self.match + 1, min(next_index, reply.prev_index))
        self.mode, self.waiting = Mode.PROBE, False
        self.inflight.clear()
        return True

    def begin_snapshot(self, snapshot: Snapshot) -> None:
        """From now on it gets this snapshot, from its start."""
        self.mode, self.snapshot, self.offset = Mode.SNAPSHOT, snapshot, 0
        self.inflight.clear()
        self.waiting = False

    def validate(self, end: int, inflight_max: int) -> None:
        """Asserts every invariant."""
        assert 0 <= self.match < self.next <= end + 1
        assert (self.mode is Mode.SNAPSHOT) == (self.snapshot is not None)
        if self.inflight:
            assert len(self.inflight) <= inflight_max
            assert self.match < self.inflight[0] <= self.inflight[-1] < self.next
