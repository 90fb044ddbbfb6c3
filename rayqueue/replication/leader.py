"""The leader of a partition: gives batches their offsets, feeds followers, and acks when the promise of the acks holds.

::

    Produce --> refused (duplicate waits, sequence gap, fenced, too few in sync, offline) --> Reply
            --> Append ... Written --> [Flush ... Flushed] --> durable here --> Reply (acks 0 and 1)
    FetchFrom --> Feed ... FetchAcked --> durable there ----'
                                                             `--> HighWatermark, Reply (acks=all)

The high watermark is the least of what the maximal ISR holds durably (`in_sync`): the leader's own `durable_end` and
what each follower acked under this epoch. It stands while the committed ISR is below `min.insync.replicas` (KIP-966),
and never falls. A new leader's may be behind the true one, which is at most its log's end when it took over: so whoever
joins the ISR must hold the log up to there (`epoch_start`), and what the log's end is is not told before the high
watermark has passed it (KIP-207).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import OutOfOrderSequence, ProducerFenced
from rayqueue.protocol.messages import (
    GROUP_PRODUCER_BASE,
    LOG_APPEND_TIME,
    NO_PRODUCER,
    NO_TIMESTAMP,
    BatchHeader,
    ProduceBatch,
)
from rayqueue.replication import events as ev
from rayqueue.replication.flushing import Flushing
from rayqueue.replication.in_sync import InSync
from rayqueue.replication.leader_epochs import NO_EPOCH
from rayqueue.replication.limits import Limits
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates
from rayqueue.replication.progress import Progress


class Waiting(NamedTuple):
    """An ack that is due once `last_offset` is covered."""

    last_offset: int
    reply: ev.Reply


class Leader:
    """One partition's leader, from its election to its end. Deterministic: no clock, no I/O, no threads.

    Args:
        broker_id: its own.
        assignment: it leads under its leader epoch.
        log, flushing: the replica's.
        config: the topic's settings.
    """

    def __init__(
        self,
        broker_id: int,
        assignment: ev.Assignment,
        log: LogFacts,
        flushing: Flushing,
        config: TopicConfig,
        limits: Limits,
        now_ms: int,
    ) -> None:
        self.leader_epoch = assignment.leader_epoch
        self.epoch_start = log.log_end
        self.followers: dict[int, Progress] = {}  # all other replicas
        self.in_sync = InSync(broker_id, assignment.isr, assignment.partition_epoch)
        self._broker_id = broker_id
        self._assignment = assignment
        self._log = log
        self._flushing = flushing
        self._config = config
        self._limits = limits
        # In order of last_offset, but for duplicates, which may be earlier: those wait longer than they must.
        self._until_durable: deque[Waiting] = deque()  # acks 0 and 1
        self._until_committed: deque[Waiting] = deque()  # acks=all
        self._know_followers(now_ms)

    def start(self) -> list[ev.Effect]:
        """What to do on taking over."""
        return self.advance()

    def configure(self, config: TopicConfig) -> None:
        """New settings; they count from the next batch on."""
        self._config = config

    @property
    def committed_in_epoch(self) -> bool:
        """Whether all that the log held when this leadership began is known to be committed (KIP-207)."""
        return self._log.high_watermark >= self.epoch_start

    # --- produce ---------------------------------------------------------------------------------------------------

    def produce(self, event: ev.Produce, wall_ms: int) -> list[ev.Effect]:
        """Refuses a batch, recognises it, or gives it its offsets."""
        batch, log = event.batch, self._log
        refusal = self._refusal(event)
        if refusal is not None:
            return [refusal]
        if batch.producer_id != NO_PRODUCER:
            try:
                seen = log.producers.check(
                    batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.record_count
                )
            except (OutOfOrderSequence, ProducerFenced) as error:
                return [ev.Reply(event.ref, -1, error=type(error).__name__, message=str(error))]
            if seen is not None:
                by_log = self._config.message_timestamp_type == "LogAppendTime"
                reply = ev.Reply(event.ref, seen.base_offset, seen.timestamp if by_log else NO_TIMESTAMP)
                return self._ack_when_due(event.acks, Waiting(seen.last_offset, reply))
        header = self._header(batch, wall_ms)
        log.append(header, wall_ms)
        appended_at = wall_ms if header.attributes & LOG_APPEND_TIME else NO_TIMESTAMP
        waiting = Waiting(header.last_offset, ev.Reply(event.ref, header.base_offset, appended_at))
        (self._until_committed if event.acks == -1 else self._until_durable).append(waiting)
        return [ev.Append(event.ref, header)]

    def _refusal(self, event: ev.Produce) -> ev.Reply | None:
        epoch = event.batch.leader_epoch
        if epoch > self.leader_epoch:
            message = f"this replica led in {self.leader_epoch}"
            return ev.Reply(event.ref, -1, error="NotLeaderOrFollower", message=message)
        if epoch < self.leader_epoch and event.batch.producer_id >= GROUP_PRODUCER_BASE:
            # A group coordinator serves what it does under a leader epoch: under another one somebody else may.
            message = f"this replica leads in {self.leader_epoch}, the batch is of {epoch}"
            return ev.Reply(event.ref, -1, error="FencedLeaderEpoch", message=message)
        needed, there = self._config.min_insync_replicas, len(self.in_sync.committed)
        if event.acks == -1 and there < needed:
            message = f"min.insync.replicas is {needed}, in sync is {there}"
            return ev.Reply(event.ref, -1, error="NotEnoughReplicas", message=message)
        return None

    def _header(self, batch: ProduceBatch, wall_ms: int) -> BatchHeader:
        attributes, low, high = batch.attributes, batch.min_timestamp, batch.max_timestamp
        if self._config.message_timestamp_type == "LogAppendTime":
            attributes, low, high = attributes | LOG_APPEND_TIME, wall_ms, wall_ms
        log_end = self._log.log_end
        return BatchHeader(
            log_end,
            log_end + batch.record_count - 1,
            batch.record_count,
            self.leader_epoch,
            batch.producer_id,
            batch.producer_epoch,
            batch.base_sequence,
            low,
            high,
            attributes,
            0,
        )

    def _ack_when_due(self, acks: int, waiting: Waiting) -> list[ev.Effect]:
        """Answers a duplicate at once when the first one's offset is covered; else it waits like the first one."""
        queue, covered = self._until_durable, self._flushing.durable_end
        if acks == -1:
            queue, covered = self._until_committed, self._log.high_watermark
        if waiting.last_offset < covered:
            return [waiting.reply]
        queue.append(waiting)
        return []

    # --- what holds ------------------------------------------------------------------------------------------------

    def written(self, old_end: int, now_ms: int) -> list[ev.Effect]:
        """The log has grown from `old_end` on."""
        for follower in self.followers.values():
            follower.leader_wrote(old_end, now_ms)
        return self.advance()

    def advance(self) -> list[ev.Effect]:
        """Moves the high watermark as far as it may, and answers who has waited for that."""
        effects: list[ev.Effect] = []
        durable = self._flushing.durable_end
        committed = self._committed_end(durable)
        if committed > self._log.high_watermark:
            self._log.high_watermark = committed
            effects.append(ev.HighWatermark(committed))
        waiting, committed = self._until_committed, self._log.high_watermark
        while waiting and waiting[0].last_offset < committed:
            effects.append(waiting.popleft().reply)
        waiting = self._until_durable
        while waiting and waiting[0].last_offset < durable:
            effects.append(waiting.popleft().reply)
        return effects

    def _committed_end(self, durable: int) -> int:
        """The offset below which every replica that may be in sync holds the log."""
        maximal = self.in_sync.maximal
        if len(self.in_sync.committed) < min(self._config.min_insync_replicas, len(self._assignment.replicas)):
            return self._log.high_watermark
        if len(maximal) == 1:
            return durable
        for one in maximal:
            if one != self._broker_id:
                durable = min(durable, self.followers[one].end)
        return durable

    # --- followers -------------------------------------------------------------------------------------------------

    def fetch_from(self, event: ev.FetchFrom) -> list[ev.Effect]:
        """A follower wants to be fed."""
        follower = self.followers.get(event.follower)
        if follower is None:
            return [_refuse(event, "NotLeaderOrFollower")]
        if event.leader_epoch < self.leader_epoch:
            return [_refuse(event, "FencedLeaderEpoch")]
        if event.leader_epoch > self.leader_epoch or event.incarnation != follower.incarnation:
            # One of the two has not read yet what the metadata log says; an incarnation that is gone never will.
            return [_refuse(event, "UnknownLeaderEpoch")]
        refusal = self._divergence(event)
        if refusal is not None:
            follower.fed = False
            return [refusal]
        follower.begins(event.offset)
        return [ev.Feed(event.follower, event.incarnation, event.offset)]

    def _divergence(self, event: ev.FetchFrom) -> ev.RefuseFetch | None:
        """Where a follower's log is not the beginning of this one (KIP-101, KIP-279, asked for as in KIP-595). One that
        has to begin anew, above what is deleted here, is told what that says of its producers."""
        log = self._log
        empty = event.last_epoch == NO_EPOCH
        if event.offset < log.log_start or (empty and event.offset > log.log_end):
            return _refuse(event, "OffsetOutOfRange", end=log.log_start, producers=log.producers.below(log.log_start))
        epoch, end = log.epochs.end_of(event.last_epoch, log.log_end)
        if empty or (epoch == event.last_epoch and end >= event.offset):
            return None
        if epoch != NO_EPOCH:
            return _refuse(event, "", epoch, end)
        end = max(end, log.log_start)
        return _refuse(event, "", epoch, end, log.producers.below(end))

    def fetch_acked(self, event: ev.FetchAcked, now_ms: int) -> list[ev.Effect]:
        """A follower holds the log up to `end`. What an incarnation acked under this epoch stays true of it, however
        late it is heard; of another epoch, or another incarnation, it may not be: they may have lost it."""
        follower = self.followers.get(event.follower)
        if follower is None or not self._counts(event, follower):
            return []
        follower.acked(min(event.end, self._log.written_end), self._log.written_end, now_ms)
        if event.follower in self.in_sync.maximal:
            return self.advance()
        return self.review(now_ms)

    def _counts(self, event: ev.FetchAcked, follower: Progress) -> bool:
        return event.leader_epoch == self.leader_epoch and event.incarnation == follower.incarnation

    def fetch_ended(self, event: ev.FetchEnded) -> list[ev.Effect]:
        """A follower's stream is gone."""
        follower = self.followers.get(event.follower)
        if follower is not None and follower.incarnation == event.incarnation:
            follower.fed = False
        return []

    # --- the ISR ---------------------------------------------------------------------------------------------------

    def reassign(self, assignment: ev.Assignment, now_ms: int) -> list[ev.Effect]:
        """The metadata log says more under the same leader epoch."""
        self._assignment = assignment
        if assignment.partition_epoch > self.in_sync.partition_epoch:
            self.in_sync.commit(assignment.isr, assignment.partition_epoch)
        stopped = self._know_followers(now_ms)
        return [*stopped, *self.advance(), *self.review(now_ms)]

    def _know_followers(self, now_ms: int) -> list[ev.Effect]:
        """Takes the followers from the assignment, each by its incarnation."""
        assignment, effects = self._assignment, list[ev.Effect]()
        known, self.followers = self.followers, {}
        for one in {*assignment.replicas, *assignment.isr} - {self._broker_id}:
            incarnation = assignment.incarnations.get(one, "")
            follower = known.get(one)
            if follower is not None and follower.incarnation == incarnation:
                self.followers[one] = known.pop(one)
            else:
                self.followers[one] = Progress(incarnation, now_ms)
        for one, gone in known.items():
            if gone.fed:
                effects.append(ev.StopFeeding(one, gone.incarnation))
        return effects

    def review(self, now_ms: int) -> list[ev.Effect]:
        """Proposes another ISR where it should be another."""
        if not self.in_sync.may_propose(now_ms):
            return []
        wanted = self._wanted(now_ms)
        if not self.in_sync.wants(wanted):
            return []
        self.in_sync.propose(wanted)
        incarnations = self._assignment.incarnations
        isr = [(one, incarnations.get(one, "")) for one in sorted(wanted)]
        return [ev.ProposeIsr(isr, self.leader_epoch, self.in_sync.partition_epoch)]

    def _wanted(self, now_ms: int) -> frozenset[int]:
        """Who ought to be in sync: members that do not lag, and others that may join."""
        wanted = {self._broker_id}
        for one, follower in self.followers.items():
            lags_from_ms = follower.lags_from_ms(self._log.written_end, self._limits.lag_time_max_ms)
            lags = lags_from_ms is not None and now_ms >= lags_from_ms
            if not lags and (one in self.in_sync.committed or self._may_join(follower)):
                wanted.add(one)
        return frozenset(wanted)

    def _may_join(self, follower: Progress) -> bool:
        """Whether it holds all that is committed, also what was before this leader and it has not heard of."""
        return follower.fed and follower.end >= max(self._log.high_watermark, self.epoch_start)

    def refused(self, event: ev.IsrRefused, now_ms: int) -> list[ev.Effect]:
        """The coordinator does not take the proposal."""
        self.in_sync.refuse(event.partition_epoch, now_ms + self._limits.backoff_ms)
        return []

    # --- deadlines, failures, the end ------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When a member of the ISR will lag, or a refused proposal may be made anew."""
        in_sync, end, lag_ms = self.in_sync, self._log.written_end, self._limits.lag_time_max_ms
        if in_sync.outstanding or in_sync.retry_ms is not None:
            return in_sync.retry_ms
        if not self.followers:  # asked after each batch
            return None
        first: int | None = None
        for one in in_sync.maximal:
            due = None if one == self._broker_id else self.followers[one].lags_from_ms(end, lag_ms)
            if due is not None and (first is None or due < first):
                first = due
        return first

    def tick(self, now_ms: int) -> list[ev.Effect]:
        """A deadline may have passed, or the topic's settings have changed."""
        return self.advance() + self.review(now_ms)

    def write_failed(self, message: str) -> list[ev.Effect]:
        """None of the unwritten batches was seen by anyone; their offsets are given again. The log is cut already."""
        effects: list[ev.Effect] = []
        for queue in (self._until_durable, self._until_committed):
            for _ in range(len(queue)):
                item = queue.popleft()
                if item.last_offset < self._log.log_end:
                    queue.append(item)
                else:
                    effects.append(ev.Reply(item.reply.ref, -1, error="StorageError", message=message))
        return effects

    def end(self, error: str, message: str) -> list[ev.Effect]:
        """The leadership is over: whoever waits is told, and no follower is fed any more."""
        effects: list[ev.Effect] = []
        for queue in (self._until_durable, self._until_committed):
            effects += [ev.Reply(item.reply.ref, -1, error=error, message=message) for item in queue]
            queue.clear()
        for one, follower in self.followers.items():
            if follower.fed:
                follower.fed = False
                effects.append(ev.StopFeeding(one, follower.incarnation))
        return effects

    def validate(self) -> None:
        """Every invariant."""
        self.in_sync.validate()
        assert self._flushing.durable_end >= self._log.high_watermark or self._log.high_watermark <= self.epoch_start
        for follower in self.followers.values():
            assert follower.end <= self._log.written_end


def _refuse(
    event: ev.FetchFrom, error: str, epoch: int = -1, end: int = -1, producers: ProducerStates | None = None
) -> ev.RefuseFetch:
    return ev.RefuseFetch(event.follower, event.incarnation, error, epoch, end, producers)
