"""The leader of a partition: gives batches their offsets, and acks them when the promise of their acks holds.

::

    Produce --> refused (duplicate in flight waits, sequence gap, fenced epoch, offline) --> Reply
            --> Append ... Written --> [Flush ... Flushed] --> HighWatermark, Reply

One replica (this version): the high watermark is the end of what is written, or, with ``flush.messages=1``, of what
is flushed. acks=1 is answered when written, acks=all at the high watermark.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import OutOfOrderSequence, ProducerFenced
from rayqueue.protocol.messages import LOG_APPEND_TIME, NO_PRODUCER, NO_TIMESTAMP, BatchHeader, ProduceBatch
from rayqueue.replication import events as ev
from rayqueue.replication.producer_state import ProducerStates


class Waiting(NamedTuple):
    """An ack that is due once `last_offset` is covered: by the write (acks=1), or by the high watermark."""

    last_offset: int
    reply: ev.Reply
    acks: int


class Leader:
    """One partition's leader under one leader epoch. Deterministic: no clock, no I/O, no threads.

    Args:
        leader_epoch: the epoch it leads under.
        log_end: next offset to give.
        config: the topic's settings.
        producers: rebuilt from the log.
        flushed_end: below it the log is on stable storage; None: all of it. With `flush.messages=1` it must be all:
            what is below the high watermark is acked again to whoever asks.
    """

    def __init__(
        self,
        leader_epoch: int,
        log_end: int,
        config: TopicConfig,
        producers: ProducerStates,
        flushed_end: int | None = None,
    ) -> None:
        self.leader_epoch = leader_epoch
        self.log_end = log_end  # next offset; Invariant: written_end <= log_end
        self.written_end = log_end  # Invariant: flushed_end <= written_end
        self.flushed_end = log_end if flushed_end is None else min(flushed_end, log_end)
        self.high_watermark = log_end  # Invariant: high_watermark <= written_end, and it never falls
        self.producers = producers
        self.offline = ""  # why nothing can be appended any more
        self._config = config
        self._waiting: deque[Waiting] = deque()  # in order of last_offset, but for duplicates, which may be earlier
        self._flushing = False
        self._flush_due = False  # asked for while another was under way
        self._flush_deadline_ms: int | None = None
        self._must_flush_to = 0  # acks below this offset wait for `Flushed`

    def configure(self, config: TopicConfig) -> None:
        """New settings; they count from the next batch on."""
        self._config = config

    def restore(self, producers: ProducerStates) -> None:
        """After `Recover`: the producers as the log now has them."""
        self.producers = producers

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is wanted: the flush that `flush.ms` asks for."""
        return self._flush_deadline_ms

    def step(self, event: ev.Event, now_ms: int, wall_ms: int) -> list[ev.Effect]:
        """Takes an event and says what to do."""
        match event:
            case ev.Produce():
                return self._produce(event, wall_ms)
            case ev.Written():
                return self._written(now_ms)
            case ev.Rolled():
                return self._flush()
            case ev.Flushed(end=end):
                return self._flushed(end)
            case ev.Tick():
                return self._tick(now_ms)
            case ev.WriteFailed(message=message):
                return self._write_failed(message)
            case ev.LogFailed(message=message):
                return self._go_offline(message)

    # --- produce ---------------------------------------------------------------------------------------------------

    def _produce(self, event: ev.Produce, wall_ms: int) -> list[ev.Effect]:
        batch = event.batch
        refusal = self._refusal(event)
        if refusal is not None:
            return [refusal]
        if batch.producer_id != NO_PRODUCER:
            try:
                seen = self.producers.check(
                    batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.record_count
                )
            except (OutOfOrderSequence, ProducerFenced) as error:
                return [ev.Reply(event.ref, -1, error=type(error).__name__, message=str(error))]
            if seen is not None:
                by_log = self._config.message_timestamp_type == "LogAppendTime"
                reply = ev.Reply(event.ref, seen.base_offset, seen.timestamp if by_log else NO_TIMESTAMP)
                return self._ack_when_due(Waiting(seen.last_offset, reply, event.acks))
        header = self._header(batch, wall_ms)
        self.log_end = header.last_offset + 1
        self.producers.append(header, wall_ms)
        appended_at = wall_ms if header.attributes & LOG_APPEND_TIME else NO_TIMESTAMP
        self._waiting.append(
            Waiting(header.last_offset, ev.Reply(event.ref, header.base_offset, appended_at), event.acks)
        )
        return [ev.Append(event.ref, header)]

    def _refusal(self, event: ev.Produce) -> ev.Reply | None:
        if self.offline:
            return ev.Reply(event.ref, -1, error="StorageError", message=self.offline)
        epoch = event.batch.leader_epoch
        if epoch > self.leader_epoch:
            return ev.Reply(
                event.ref, -1, error="NotLeaderOrFollower", message=f"this replica led in {self.leader_epoch}"
            )
        if event.acks == -1 and self._config.min_insync_replicas > 1:
            message = f"min.insync.replicas is {self._config.min_insync_replicas}, in sync is 1"
            return ev.Reply(event.ref, -1, error="NotEnoughReplicas", message=message)
        return None

    def _header(self, batch: ProduceBatch, wall_ms: int) -> BatchHeader:
        attributes, low, high = batch.attributes, batch.min_timestamp, batch.max_timestamp
        if self._config.message_timestamp_type == "LogAppendTime":
            attributes, low, high = attributes | LOG_APPEND_TIME, wall_ms, wall_ms
        return BatchHeader(
            self.log_end,
            self.log_end + batch.record_count - 1,
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

    def _ack_when_due(self, waiting: Waiting) -> list[ev.Effect]:
        """Answers a duplicate at once when the first one's offset is covered; else it waits like the first one."""
        if waiting.last_offset < self._covered(waiting.acks):
            return [waiting.reply]
        self._waiting.append(waiting)
        return []

    # --- written, flushed ------------------------------------------------------------------------------------------

    def _written(self, now_ms: int) -> list[ev.Effect]:
        self.written_end = self.log_end
        effects: list[ev.Effect] = []
        unflushed = self.written_end - self.flushed_end
        if unflushed >= self._config.flush_messages:
            self._must_flush_to = self.written_end
            effects += self._flush()
        elif unflushed and self._flush_deadline_ms is None and self._config.flush_ms < 2**62:
            self._flush_deadline_ms = now_ms + self._config.flush_ms
        return effects + self._advance()

    def _flush(self) -> list[ev.Effect]:
        """One at a time: what is written meanwhile goes into the next."""
        self._flush_deadline_ms = None
        if self._flushing:
            self._flush_due = True
            return []
        self._flushing = True
        return [ev.Flush()]

    def _flushed(self, end: int) -> list[ev.Effect]:
        self._flushing = False
        self.flushed_end = max(self.flushed_end, min(end, self.written_end))
        effects: list[ev.Effect] = []
        if self._flush_due:
            self._flush_due = False
            effects += self._flush()
        return effects + self._advance()

    def _tick(self, now_ms: int) -> list[ev.Effect]:
        if self._flush_deadline_ms is None or now_ms < self._flush_deadline_ms:
            return []
        return self._flush()

    def _covered(self, acks: int) -> int:
        """The offset below which a batch with these acks may be answered."""
        return self.high_watermark if acks == -1 else self._durable_end()

    def _durable_end(self) -> int:
        """The end of what is as durable as the topic asks before an ack."""
        if self._must_flush_to > self.flushed_end:
            return self.flushed_end
        return self.written_end

    def _advance(self) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        end = self._durable_end()
        if end > self.high_watermark:
            self.high_watermark = end
            effects.append(ev.HighWatermark(end))
        waiting = self._waiting
        while waiting and waiting[0].last_offset < self._covered(waiting[0].acks):
            effects.append(waiting.popleft().reply)
        return effects

    # --- failures --------------------------------------------------------------------------------------------------

    def _write_failed(self, message: str) -> list[ev.Effect]:
        """None of the unwritten batches was seen by anyone; their offsets are given again."""
        kept, failed = deque[Waiting](), []
        for item in self._waiting:
            if item.last_offset < self.written_end:
                kept.append(item)
            else:
                failed.append(ev.Reply(item.reply.ref, -1, error="StorageError", message=message))
        self._waiting = kept
        self.log_end = self.written_end
        return [*failed, ev.Recover()]

    def _go_offline(self, message: str) -> list[ev.Effect]:
        self.offline = message
        self._flush_deadline_ms = None
        failed: list[ev.Effect] = [
            ev.Reply(item.reply.ref, -1, error="StorageError", message=message) for item in self._waiting
        ]
        self._waiting.clear()
        return failed

    def resign(self, error: str, message: str) -> list[ev.Effect]:
        """The partition is led elsewhere, or gone: whoever waits is told to look again."""
        failed: list[ev.Effect] = [ev.Reply(item.reply.ref, -1, error=error, message=message) for item in self._waiting]
        self._waiting.clear()
        return failed

    def validate(self) -> None:
        """Every invariant; called after each event in tests."""
        assert self.flushed_end <= self.written_end <= self.log_end
        assert self.high_watermark <= self.written_end
        self.producers.validate()
