"""What a replica's machine knows of its log, whichever role it plays."""

from __future__ import annotations

from dataclasses import dataclass

from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.producer_state import ProducerStates


@dataclass(slots=True)
class LogFacts:
    """Made by the shell when it has opened the log; from then on the machine keeps it.

    Invariants: log_start <= high_watermark <= written_end <= log_end; flushed_end <= written_end. The high watermark
    falls only with a truncation below it (after an unclean election, or when the log is emptied).

    Attributes:
        log_start: the first offset that can be read.
        log_end: the next offset to give.
        written_end: below it all is in the page cache.
        flushed_end: below it all is on stable storage.
        high_watermark: below it all is committed. Of a log just opened: its start, unless the shell knows better; a
            replica that is the only one knows better, for it all is committed.
        epochs, producers: rebuilt from the log.
    """

    log_start: int
    log_end: int
    written_end: int
    flushed_end: int
    high_watermark: int
    epochs: LeaderEpochs
    producers: ProducerStates

    @property
    def last_epoch(self) -> int:
        """The epoch of the last batch, also where that is deleted; NO_EPOCH where nothing is known of any."""
        return self.epochs.last

    @property
    def settled(self) -> bool:
        """Whether all that is appended is written."""
        return self.log_end == self.written_end

    def append(self, header: BatchHeader, wall_ms: int) -> None:
        """A batch that is on its way into the log."""
        if header.leader_epoch > self.epochs.last:
            self.epochs.note(header.leader_epoch, header.base_offset)
        self.producers.append(header, wall_ms, self.written_end)
        self.log_end = header.last_offset + 1

    def cut_back(self) -> None:
        """What was on its way did not get there."""
        self.log_end = self.written_end
        self.epochs.truncate(self.log_end)
        self.producers.cut_back(self.log_end)

    def cut(self, log_start: int, log_end: int, epochs: LeaderEpochs, producers: ProducerStates) -> None:
        """The log after a truncation."""
        self.log_start, self.log_end, self.written_end = log_start, log_end, log_end
        self.flushed_end = min(self.flushed_end, log_end)
        self.high_watermark = max(log_start, min(self.high_watermark, log_end))
        self.epochs, self.producers = epochs, producers

    def validate(self) -> None:
        """Every invariant."""
        assert self.log_start <= self.high_watermark <= self.written_end <= self.log_end, self
        assert self.flushed_end <= self.written_end, self
        self.epochs.validate()
        self.producers.validate()
