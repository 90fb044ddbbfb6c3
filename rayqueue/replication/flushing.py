"""When the log is flushed (`flush.messages`, `flush.ms`, a segment's end), and which of it counts as durable.

Leader and followers alike: what a follower acks is as durable as what its leader acks (design.md: fsync before ack, on
followers too).
"""

from __future__ import annotations

from rayqueue.config.topic import TopicConfig
from rayqueue.replication import events as ev
from rayqueue.replication.log_facts import LogFacts


class Flushing:
    """The flushes of one log, one at a time: what is written meanwhile goes into the next.

    Attributes:
        durable_end: below it the log is as durable as the topic asks before an ack: written, or flushed where a flush
            is due at each so many messages. Invariants: at most written_end; falls only with a truncation.
        deadline_ms: when `flush.ms` asks for a flush, or None.
    """

    def __init__(self, log: LogFacts, config: TopicConfig) -> None:
        self.deadline_ms: int | None = None
        self._log = log
        self._config = config
        self._under_way = False
        self._due = False  # asked for while another was under way
        self._void = False  # the log was truncated while a flush was under way: its result is of another log
        # Acks below this offset wait for `Flushed`. What a process before us wrote may not be durable yet.
        self._must_flush_to = log.written_end if config.flush_messages == 1 else 0
        self.durable_end = log.flushed_end if self._must_flush_to else log.written_end

    def configure(self, config: TopicConfig) -> None:
        """New settings; they count from the next batch on."""
        self._config = config

    def start(self) -> list[ev.Effect]:
        """When the log has just been opened."""
        return self.flush() if self._must_flush_to > self._log.flushed_end else []

    def written(self, now_ms: int) -> list[ev.Effect]:
        """The log was written to."""
        log, config = self._log, self._config
        unflushed = log.written_end - log.flushed_end
        effects: list[ev.Effect] = []
        if unflushed >= config.flush_messages:
            self._must_flush_to = log.written_end
            effects = self.flush()
        elif unflushed and self.deadline_ms is None and config.flush_ms < 2**62:
            self.deadline_ms = now_ms + config.flush_ms
        self._settle()
        return effects

    def flush(self) -> list[ev.Effect]:
        """Asks for a flush."""
        self.deadline_ms = None
        if self._under_way:
            self._due = True
            return []
        self._under_way = True
        return [ev.Flush()]

    def flushed(self, end: int) -> list[ev.Effect]:
        """The flush under way is done."""
        self._under_way = False
        if not self._void:
            self._log.flushed_end = max(self._log.flushed_end, min(end, self._log.written_end))
            self._settle()
        due, self._due, self._void = self._due or self._void, False, False
        return self.flush() if due else []

    def tick(self, now_ms: int) -> list[ev.Effect]:
        """A deadline may have passed."""
        return self.flush() if self.deadline_ms is not None and now_ms >= self.deadline_ms else []

    def truncated(self) -> None:
        """The log was cut: what is flushed of it is what was known to be."""
        end = self._log.log_end
        self._must_flush_to = min(self._must_flush_to, end)
        self.durable_end = min(self.durable_end, end)
        self._void = self._under_way
        self._settle()

    def stop(self) -> None:
        """The log has failed: no fsync is tried again."""
        self.deadline_ms = None

    def _settle(self) -> None:
        log = self._log
        end = log.flushed_end if self._must_flush_to > log.flushed_end else log.written_end
        self.durable_end = max(self.durable_end, end)

    def validate(self) -> None:
        """Every invariant."""
        assert self.durable_end <= self._log.written_end
        assert self._under_way or not (self._due or self._void)
