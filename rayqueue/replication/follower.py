"""A follower of a partition: finds where its log and the leader's part, cuts its own there, and appends what it is fed.

::

    IDLE  (nobody leads)
    WAITING --deadline--> ASKED --Fed--> FED --Fed, Written, Flushed--> FED
       ^                    |             |
       |                    |-- Diverged, OutOfRange --> CUTTING --Truncated--> ASKED
       |                    |                            `------ CutFailed --> WAITING
       `-- refused, lost ---'             `-- lost, write failed, what does not continue the log --> WAITING

`Follow` says where the log ends and of which epoch its last batch is. The leader answers with batches, or with where
the logs part; then the follower cuts and asks anew, until its log is the beginning of the leader's (KIP-101, KIP-279,
asked for as in KIP-595). The high watermark has no part in it: what is above it may be committed all the same.

An ack is what the follower holds durably, and it is said only in state FED: the leader has compared the logs then.
"""

from __future__ import annotations

from enum import Enum

from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication import events as ev
from rayqueue.replication.flushing import Flushing
from rayqueue.replication.leader_epochs import NO_EPOCH
from rayqueue.replication.limits import Limits
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates

NOTHING = -1


class State(Enum):
    """Where the follower stands with its leader; see the module."""

    IDLE = "idle"
    WAITING = "waiting"
    ASKED = "asked"
    FED = "fed"
    CUTTING = "cutting"


class Follower:
    """One partition's follower, under one leader epoch.

    Args:
        leader, leader_epoch: whom it follows; NO_LEADER: nobody.
        log, flushing: the replica's.

    Attributes:
        faults: how often the leader has fed what does not continue the log.
    """

    def __init__(self, leader: int, leader_epoch: int, log: LogFacts, flushing: Flushing, limits: Limits) -> None:
        self.leader = leader
        self.leader_epoch = leader_epoch
        self.state = State.IDLE
        self.faults = 0
        self._log = log
        self._flushing = flushing
        self._limits = limits
        self._deadline_ms = 0  # in WAITING
        self._acked = NOTHING  # since `Follow`
        self._leader_high_watermark = NOTHING  # as last fed
        self._leader_log_start = NOTHING
        self._held_back: ev.Fed | None = None  # in CUTTING: what is to be appended to the emptied log
        self._given: ProducerStates | None = None  # in CUTTING: what is known of producers below the emptied log
        self._missed = False  # in CUTTING: and there was more on that stream, which is not held back

    def start(self) -> list[ev.Effect]:
        """What to do on becoming a follower."""
        return [] if self.leader == ev.NO_LEADER else self._follow()

    def _follow(self) -> list[ev.Effect]:
        log = self._log
        assert log.settled
        self.state = State.ASKED
        self._acked = self._leader_high_watermark = self._leader_log_start = NOTHING
        return [ev.Follow(self.leader, self.leader_epoch, log.log_end, log.last_epoch)]

    def _wait(self, now_ms: int) -> list[ev.Effect]:
        self.state = State.WAITING
        self._deadline_ms = now_ms + self._limits.backoff_ms
        return []

    def _fault(self, now_ms: int) -> list[ev.Effect]:
        """What comes over the wire may be wrong: begin anew."""
        self.faults += 1
        return [*self._wait(now_ms), ev.Unfollow()]

    def next_deadline_ms(self) -> int | None:
        """When to ask again; not while a write is under way."""
        return self._deadline_ms if self.state is State.WAITING and self._log.settled else None

    def tick(self, now_ms: int) -> list[ev.Effect]:
        """A deadline may have passed."""
        deadline_ms = self.next_deadline_ms()
        return self._follow() if deadline_ms is not None and now_ms >= deadline_ms else []

    # --- what the leader says --------------------------------------------------------------------------------------

    def step(self, event: ev.FollowerEvent, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        """Takes what came from the leader's stream."""
        if not self._of_my_epoch(event.leader_epoch) or self.state not in (State.ASKED, State.FED):
            self._missed = self.state is State.CUTTING
            return []
        match event:
            case ev.Fed():
                return self._fed(event, now_ms, wall_ms)
            case ev.Diverged(epoch=epoch, end=end):
                self._given = event.producers if epoch == NO_EPOCH else None
                return self._diverged(epoch, end, now_ms)
            case ev.OutOfRange(log_start=start, log_end=end):
                self._given = event.producers
                return self._out_of_range(start, end, now_ms)
            case ev.FeedRefused() | ev.FeedLost():
                return self._wait(now_ms)

    def _of_my_epoch(self, leader_epoch: int) -> bool:
        """Whoever led before may still be heard, and does not know that it is over."""
        return leader_epoch == self.leader_epoch

    def _fed(self, event: ev.Fed, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        self.state = State.FED
        log, effects = self._log, list[ev.Effect]()
        for header, ref in zip(event.headers, event.refs, strict=True):
            if not self._continues(header):
                if self._begins_before(header):
                    return self._begin_at(header.base_offset, event)
                return [*effects, *self._fault(now_ms)]
            log.append(header, wall_ms)
            effects.append(ev.Append(ref, header))
        self._leader_high_watermark = max(self._leader_high_watermark, event.high_watermark)
        self._leader_log_start = max(self._leader_log_start, event.log_start)
        return effects + self.advance()

    def _continues(self, header: BatchHeader) -> bool:
        fits = header.base_offset == self._log.log_end <= header.last_offset + 1
        return fits and self._log.epochs.last <= header.leader_epoch <= self.leader_epoch

    def _begins_before(self, header: BatchHeader) -> bool:
        """A log's start may lie inside of a batch (records were deleted up to there): an empty log that was told to
        begin at this start has to begin with the whole batch."""
        log = self._log
        return log.log_start == log.log_end and header.base_offset < log.log_end <= header.last_offset

    def _begin_at(self, start: int, event: ev.Fed) -> list[ev.Effect]:
        self.state = State.CUTTING
        self._held_back, self._missed, self._given = event, False, self._log.producers
        return [ev.ResetLog(start)]

    def _diverged(self, epoch: int, end: int, now_ms: int) -> list[ev.Effect]:
        """Cuts what is above where the leader's `epoch` ends; or, where this log has nothing of that epoch, above where
        its newest one before ends, and asks for that one: the leader's end may lie inside of a batch here (KIP-279).

        A leader that has none of these epochs has deleted all before its `end`: this log begins there anew, and no
        lower, for if it were to lead it must not give the offsets below again.

        All below this log's own start was committed. A leader that does not have it came from an unclean election: what
        it holds there is not what was deleted here, and of the records that it gets acked some may lie there. So this
        log, which is in no ISR by then, begins from 0: with all that the leader has.
        """
        log = self._log
        if self.state is State.FED or not log.settled:
            return self._fault(now_ms)  # it has been feeding this log
        mine, my_end = log.epochs.end_of(epoch, log.log_end)
        if epoch == NO_EPOCH:
            if not 0 <= end <= log.log_end or log.last_epoch == NO_EPOCH:
                return self._fault(now_ms)
            self.state = State.CUTTING
            return [ev.ResetLog(end)]
        end = min(end, my_end) if mine == epoch else my_end
        if not 0 <= end < log.log_end:
            return self._fault(now_ms)
        self.state = State.CUTTING
        return [ev.Truncate(end) if end >= log.log_start else ev.ResetLog(0)]

    def _out_of_range(self, log_start: int, log_end: int, now_ms: int) -> list[ev.Effect]:
        """The leader's log begins beyond the end of this one; or this one is empty, and begins beyond the leader's. It
        must be its machine that says so: it knows the producers of what is deleted, by which a retry is recognised."""
        log = self._log
        before, beyond = log.log_end < log_start, log.log_end > log_end and log.last_epoch == NO_EPOCH
        if not (before or beyond) or not log.settled or self._given is None:
            return self._wait(now_ms)  # the leader's log has changed meanwhile
        self.state = State.CUTTING
        return [ev.ResetLog(log_start)]

    def truncated(self, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        """The log is cut: ask again."""
        held_back, self._held_back = self._held_back, None
        if self.state is not State.CUTTING:
            return []
        if self._given is not None:
            self._log.producers = self._given
        if held_back is None:
            return self._follow()
        effects = self._fed(held_back, now_ms, wall_ms)
        if self._missed and self._held_back is None:
            effects += [*self._wait(now_ms), ev.Unfollow()]
        return effects

    def cut_failed(self, now_ms: int) -> list[ev.Effect]:
        """The log could not be cut: ask again later, where the logs part will be told anew."""
        self._held_back = None
        return [*self._wait(now_ms), ev.Unfollow()] if self.state is State.CUTTING else []

    # --- what holds ------------------------------------------------------------------------------------------------

    def advance(self) -> list[ev.Effect]:
        """Acks what holds now, and takes over the leader's watermarks as far as this log goes."""
        if self.state is not State.FED:
            return []
        log, durable, effects = self._log, self._flushing.durable_end, list[ev.Effect]()
        if durable > self._acked:
            self._acked = durable
            effects.append(ev.AckFetch(self.leader_epoch, durable))
        committed = min(self._leader_high_watermark, durable)
        if committed > log.high_watermark:
            log.high_watermark = committed
            effects.append(ev.HighWatermark(committed))
        start = min(self._leader_log_start, log.high_watermark)
        if start > log.log_start:
            log.log_start = start
            effects.append(ev.AdvanceStart(start))
        return effects

    # --- failures, the end -----------------------------------------------------------------------------------------

    def write_failed(self, now_ms: int) -> list[ev.Effect]:
        """Nothing was appended: what comes next on the stream would leave a gap."""
        return self.end() + self._wait(now_ms) if self.leader != ev.NO_LEADER else []

    def end(self) -> list[ev.Effect]:
        """It follows no more."""
        subscribed = self.state is not State.IDLE  # in WAITING too: a refusal ends no subscription of the shell's
        self.state = State.IDLE
        return [ev.Unfollow()] if subscribed else []

    def validate(self) -> None:
        """Every invariant."""
        assert (self.state is State.IDLE) or self.leader != ev.NO_LEADER
        assert self._acked <= self._flushing.durable_end
        assert self._held_back is None or self.state is State.CUTTING
