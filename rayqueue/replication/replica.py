"""One partition's replica on one broker: which role it plays, from what the metadata log says.

::

    (no role) --Assign--> leader <--Assign, a higher leader epoch--> follower
        ^                   |                                          |
        `---- LogFailed, resign: for good -----------------------------'

A role lives for one leader epoch, and is made anew by the next, also when the broker stays the same; what goes on is
the log (`LogFacts`), its flushes (`Flushing`) and its high watermark. Under the same leader epoch a higher partition
epoch changes the ISR, and nothing else.

Where Kafka is the model: KIP-101 and KIP-279 (divergence by leader epoch), KIP-497 (ISR by compare-and-set on the
partition epoch), KIP-903 (each member by its incarnation), KIP-966 (a high watermark that stands below
min.insync.replicas), KIP-207 (what a new leader may tell). Where we differ, and why: a follower says what it holds
(`FetchAcked`) instead of implying it by where it fetches, so that it can be fed ahead of its fsync; and an addition to
the ISR that was refused still counts until the partition epoch has moved (`in_sync`).
"""

from __future__ import annotations

from rayqueue.config.topic import TopicConfig
from rayqueue.replication import events as ev
from rayqueue.replication.flushing import Flushing
from rayqueue.replication.follower import Follower, State
from rayqueue.replication.leader import Leader
from rayqueue.replication.limits import Limits
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates


class Replica:
    """A replica's machine. Deterministic: no clock, no I/O, no threads.

    Args:
        broker_id: its own.
        facts: the log, as it was opened.
        config: the topic's settings.

    Attributes:
        leader_epoch: the newest known, -1 before the first `Assign`.
        offline: why nothing can be read or written any more, "" while it can.
    """

    def __init__(self, broker_id: int, facts: LogFacts, config: TopicConfig, limits: Limits | None = None) -> None:
        self.broker_id = broker_id
        self.leader_epoch = -1
        self.offline = ""
        self.role: Leader | Follower | None = None
        self._partition_epoch = -1
        self._isr: list[int] = []
        self._log = facts
        self._config = config
        self._limits = limits or Limits()
        self._flushing = Flushing(facts, config)

    # --- what the shell reads --------------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        return isinstance(self.role, Leader)

    @property
    def high_watermark(self) -> int:
        """Below it all is committed, as far as is known here."""
        return self._log.high_watermark

    @property
    def log_start(self) -> int:
        """The first offset that can be read; the shell may not have come to deleting what is below it."""
        return self._log.log_start

    @property
    def log_end(self) -> int:
        """The next offset to give."""
        return self._log.log_end

    @property
    def written_end(self) -> int:
        """Below it all is in the page cache, and may be fed to followers."""
        return self._log.written_end

    @property
    def follows_in_sync(self) -> bool:
        """Whether it follows, and is in sync as far as it has heard: then it may tell consumers what is committed."""
        return isinstance(self.role, Follower) and self.broker_id in self._isr

    @property
    def committed_in_epoch(self) -> bool:
        """Whether a leader may tell where its log ends (KIP-207)."""
        return isinstance(self.role, Leader) and self.role.committed_in_epoch

    @property
    def producers(self) -> ProducerStates:
        return self._log.producers

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is wanted."""
        flush_ms, role_ms = self._flushing.deadline_ms, self.role.next_deadline_ms() if self.role else None
        if flush_ms is None or role_ms is None:
            return role_ms if flush_ms is None else flush_ms
        return min(flush_ms, role_ms)

    # --- what the shell does besides events ------------------------------------------------------------------------

    def configure(self, config: TopicConfig) -> None:
        """New settings; they count from the next event on (`Tick`, where none is due)."""
        self._config = config
        self._flushing.configure(config)
        if isinstance(self.role, Leader):
            self.role.configure(config)

    def resign(self, error: str, message: str) -> list[ev.Effect]:
        """The replica is closed, or gone: it plays no role any more."""
        role, self.role = self.role, None
        if isinstance(role, Leader):
            return role.end(error, message)
        return role.end() if role is not None else []

    # --- the transitions -------------------------------------------------------------------------------------------

    def step(self, event: ev.Event, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        """Takes an event and says what to do, in this order."""
        role = self.role
        match event:
            case ev.Produce():
                return role.produce(event, wall_ms) if isinstance(role, Leader) else [self._refuse_produce(event)]
            case ev.Written():
                return self._written(now_ms)
            case ev.FetchAcked():
                return role.fetch_acked(event, now_ms) if isinstance(role, Leader) else []
            case ev.FetchFrom():
                return role.fetch_from(event) if isinstance(role, Leader) else [self._refuse_fetch(event)]
            case ev.FetchEnded():
                return role.fetch_ended(event) if isinstance(role, Leader) else []
            case ev.IsrRefused():
                return role.refused(event, now_ms) if isinstance(role, Leader) else []
            case ev.Fed() | ev.Diverged() | ev.OutOfRange() | ev.FeedRefused() | ev.FeedLost():
                return role.step(event, now_ms, wall_ms) if isinstance(role, Follower) else []
            case ev.Assign(assignment=assignment):
                return self._assign(assignment, now_ms)
            case _:
                return self._step_log(event, now_ms, wall_ms)

    def _written(self, now_ms: int) -> list[ev.Effect]:
        log, role = self._log, self.role
        old_end, log.written_end = log.written_end, log.log_end
        effects = self._flushing.written(now_ms)
        if isinstance(role, Leader):
            return effects + role.written(old_end, now_ms)
        return effects + self._advance()

    def _step_log(self, event: ev.LogEvent, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        log, flushing, role = self._log, self._flushing, self.role
        match event:
            case ev.Flushed(end=end):
                return flushing.flushed(end) + self._advance()
            case ev.Rolled():
                return flushing.flush()
            case ev.Tick():
                return flushing.tick(now_ms) + (role.tick(now_ms) if role else [])
            case ev.WriteFailed(message=message):
                return self._write_failed(message, now_ms)
            case ev.LogFailed(message=message):
                return self._go_offline(message)
            case ev.StartMoved(log_start=start):
                log.log_start = max(log.log_start, min(start, log.high_watermark))
                return []
            case ev.Truncated():
                log.cut(event.log_start, event.log_end, event.epochs, event.producers)
                flushing.truncated()
                return role.truncated(now_ms, wall_ms) if isinstance(role, Follower) else []
            case ev.CutFailed():
                return role.cut_failed(now_ms) if isinstance(role, Follower) else []

    def _advance(self) -> list[ev.Effect]:
        return self.role.advance() if self.role else []

    def _assign(self, assignment: ev.Assignment, now_ms: int) -> list[ev.Effect]:
        known = (self.leader_epoch, self._partition_epoch)
        if (assignment.leader_epoch, assignment.partition_epoch) < known:
            return []
        if self.offline:
            return self._decline(assignment)
        self._partition_epoch, self._isr = assignment.partition_epoch, assignment.isr
        if assignment.leader_epoch == self.leader_epoch:
            return self.role.reassign(assignment, now_ms) if isinstance(self.role, Leader) else self._report(assignment)
        assert self._log.settled and not self._cutting, "told while the log was not settled"
        first, self.leader_epoch = self.leader_epoch < 0, assignment.leader_epoch
        effects = self.resign("NotLeaderOrFollower", "another leadership has begun: look again who leads")
        if first:
            effects += self._flushing.start()
        if assignment.leader == self.broker_id:
            leader = Leader(self.broker_id, assignment, self._log, self._flushing, self._config, self._limits, now_ms)
            self.role = leader
            return effects + leader.start()
        follower = Follower(assignment.leader, self.leader_epoch, self._log, self._flushing, self._limits)
        self.role = follower
        return effects + follower.start() + self._report(assignment)

    def _report(self, assignment: ev.Assignment) -> list[ev.Effect]:
        if not assignment.report:
            return []
        return [ev.ReportLogEnd(self.leader_epoch, self._log.last_epoch, self._log.log_end)]

    def _decline(self, assignment: ev.Assignment) -> list[ev.Effect]:
        """A replica whose log has failed was elected: whoever chose it did not know."""
        elected = assignment.leader == self.broker_id and assignment.leader_epoch > self.leader_epoch
        self.leader_epoch = max(self.leader_epoch, assignment.leader_epoch)
        self._partition_epoch = assignment.partition_epoch
        return [ev.Resign(assignment.leader_epoch)] if elected else []

    @property
    def _cutting(self) -> bool:
        return isinstance(self.role, Follower) and self.role.state is State.CUTTING

    # --- refusals and failures -------------------------------------------------------------------------------------

    def _refuse_produce(self, event: ev.Produce) -> ev.Reply:
        if self.offline:
            return ev.Reply(event.ref, -1, error="StorageError", message=self.offline)
        return ev.Reply(event.ref, -1, error="NotLeaderOrFollower", message="this replica does not lead")

    def _refuse_fetch(self, event: ev.FetchFrom) -> ev.RefuseFetch:
        """A follower that knows of a later epoch is ahead of us: it should ask again, not look elsewhere."""
        ahead = event.leader_epoch > self.leader_epoch and not self.offline
        error = "UnknownLeaderEpoch" if ahead else "NotLeaderOrFollower"
        return ev.RefuseFetch(event.follower, event.incarnation, error)

    def _write_failed(self, message: str, now_ms: int) -> list[ev.Effect]:
        self._log.cut_back()
        if isinstance(self.role, Leader):
            return self.role.write_failed(message)
        return self.role.write_failed(now_ms) if self.role is not None else []

    def _go_offline(self, message: str) -> list[ev.Effect]:
        """For good: what the disk holds is not known any more. A leader should be replaced."""
        if self.offline:
            return []
        self.offline = message
        self._flushing.stop()
        resigned: list[ev.Effect] = [ev.Resign(self.leader_epoch)] if self.leading else []
        return self.resign("StorageError", message) + resigned

    def validate(self) -> None:
        """Every invariant; called after each event in tests."""
        self._log.validate()
        self._flushing.validate()
        assert not (self.offline and self.role)
        if self.role is not None:
            self.role.validate()
