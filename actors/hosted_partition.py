"""A partition replica inside a replica actor: its log, its machine, and the hands that perform the machine's effects.

All methods but the read-only ones run on the actor's loop. Other threads read `high_watermark` and `log`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from rayqueue.actors.batch_checks import BatchChecks
from rayqueue.config.topic import TopicConfig
from rayqueue.errors import RayQueueError, StorageError
from rayqueue.protocol.ipc import build_header
from rayqueue.protocol.messages import BatchHeader, LogDescription
from rayqueue.replication import events as ev
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates
from rayqueue.replication.replica import Replica
from rayqueue.storage.files import OsFiles
from rayqueue.storage.index import batch_header
from rayqueue.storage.log import Log, LogBatch

log = logging.getLogger(__name__)

Listener = Callable[["HostedPartition"], None]


class HostedPartition:
    """One replica, leading.

    Args:
        files: the file system.
        directory: where its segments lie, or will lie.
        topic, topic_id, partition: which it is.
        schema: the topic's log schema.
        config: the topic's settings.
        broker_id: its own.
        assignment: what the metadata log says of it.
        now_ms, wall_ms: now.
        max_batch_bytes: largest batch taken, decompressed.
        reply: takes the machine's `Reply`s.
        request_flush: called when an fsync is due; answer with `flushed` or `flush_failed`.
    """

    def __init__(
        self,
        files: OsFiles,
        directory: Path,
        *,
        topic: str,
        topic_id: bytes,
        partition: int,
        schema: pa.Schema,
        config: TopicConfig,
        broker_id: int,
        assignment: ev.Assignment,
        now_ms: int,
        wall_ms: int,
        max_batch_bytes: int,
        reply: Callable[[ev.Reply], None],
        request_flush: Callable[[HostedPartition], None],
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.schema = schema
        self.checks = BatchChecks(schema, max_batch_bytes)
        self.config = config
        self.directory = directory
        self.listeners: tuple[Listener, ...] = ()
        self.closed = ""  # the error name with which late callers are refused
        self._reply = reply
        self._request_flush = request_flush
        self._pending: list[tuple[Any, BatchHeader]] = []
        self.log = Log.open(files, str(directory), schema, config)
        if config.flush_messages == 1 and self.log.flushed_offset < self.log.log_end_offset:
            # The process before us may have died between write and fsync. A duplicate of such a batch would be acked
            # as one that is durable, so first it is made so.
            self.log.flush()
        self.replica = Replica(broker_id, self._facts(assignment, wall_ms), config)
        self.high_watermark = self.replica.high_watermark
        self.step(ev.Assign(assignment), now_ms, wall_ms)

    def __repr__(self) -> str:
        replica = self.replica
        return f"HostedPartition({self.topic}-{self.partition}, epoch {replica.leader_epoch}, end {replica.log_end})"

    def _facts(self, assignment: ev.Assignment, wall_ms: int) -> LogFacts:
        """The log as it was opened. What is committed is not known, unless this replica is the only one."""
        start, end = self.log.log_start_offset, self.log.log_end_offset
        committed = end if len(assignment.replicas) == 1 else start
        epochs = LeaderEpochs(self.log.leader_epochs)
        return LogFacts(start, end, end, self.log.flushed_offset, committed, epochs, self._producers(wall_ms))

    def _producers(self, wall_ms: int) -> ProducerStates:
        """What the log says of its producers: the latest snapshot, and the index entries after it."""
        states = ProducerStates()
        start = self.log.log_start_offset
        snapshot = self.log.latest_snapshot()
        if snapshot is not None and snapshot[0] <= self.log.log_end_offset:
            try:
                states.load(snapshot[1])
                start = max(start, snapshot[0])
            except msgspec.DecodeError as error:
                log.warning(
                    "%s: a producer snapshot is damaged, reading the whole index instead: %s", self.topic, error
                )
        for entries in self.log.entries_from(start):
            states.replay((batch_header(entry) for entry in entries), wall_ms)
        return states

    # --- the machine's hands -----------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether batches wait for `write`."""
        return bool(self._pending)

    def step(self, event: ev.Event, now_ms: int, wall_ms: int) -> None:
        """Steps the machine and performs its effects; appends wait for `write`."""
        self._perform(self.replica.step(event, now_ms, wall_ms), wall_ms)

    def _perform(self, effects: Iterable[ev.Effect], wall_ms: int) -> None:
        for effect in effects:
            match effect:
                case ev.Append():
                    self._pending.append((effect.ref, effect.header))
                case ev.Reply():
                    self._reply(effect)
                case ev.HighWatermark(offset=offset):
                    self.high_watermark = offset
                    self.notify()
                case ev.Flush():
                    self._request_flush(self)
                case ev.Recover():
                    self._restore(wall_ms)
                case ev.Resign(leader_epoch=epoch):
                    reason = self.replica.offline
                    log.error("%s-%d cannot lead on in epoch %d: %s", self.topic, self.partition, epoch, reason)

    def _restore(self, wall_ms: int) -> None:
        try:
            self.replica.restore(self._producers(wall_ms))
        except RayQueueError as error:
            # The log did not only refuse a write, it is offline: this partition fails, the others here go on.
            self.step(ev.LogFailed(str(error)), 0, wall_ms)

    def write(self, now_ms: int, wall_ms: int) -> None:
        """Writes all waiting batches in one go: the group of the group commit."""
        pending, self._pending = self._pending, []
        batches = []
        for item, header in pending:
            raw, header.crc = build_header(item.message, header, item.body_crc)
            batches.append(LogBatch(header, raw, item.message.body))
        try:
            rolled = self.log.append(batches, wall_ms)
        except RayQueueError as error:
            log.error("%s-%d: append failed: %s", self.topic, self.partition, error)
            self.step(ev.WriteFailed(str(error)), now_ms, wall_ms)
            return
        self.step(ev.Written(), now_ms, wall_ms)
        if rolled:
            self._after_roll(now_ms, wall_ms)

    def _after_roll(self, now_ms: int, wall_ms: int) -> None:
        """Closed segments are made durable, and the producers' state is kept beside them."""
        try:
            self.log.write_snapshot(self.log.log_end_offset, self.replica.producers.dump())
        except StorageError as error:
            # The batches are in the log, and from the log the state is read again: only a longer recovery is lost.
            log.warning("%s-%d: no producer snapshot: %s", self.topic, self.partition, error)
        self.step(ev.Rolled(), now_ms, wall_ms)
        self._enforce_retention(wall_ms)

    def notify(self) -> None:
        """Tells the fetch sessions that the high watermark or the log start has moved."""
        for listener in self.listeners:
            listener(self)

    # --- life --------------------------------------------------------------------------------------------------------

    def assign(self, assignment: ev.Assignment, now_ms: int, wall_ms: int) -> None:
        """Takes what the metadata log says of it now."""
        self.step(ev.Assign(assignment), now_ms, wall_ms)
        self.notify()

    def configure(self, config: TopicConfig) -> None:
        """Takes new settings."""
        self.config = config
        self.replica.configure(config)
        self.log.update_config(config)

    def retain(self, wall_ms: int, producer_expiry_ms: int) -> None:
        """Retention, and forgetting idle producers."""
        self.replica.producers.expire(wall_ms - producer_expiry_ms)
        self._enforce_retention(wall_ms)

    def _enforce_retention(self, wall_ms: int) -> None:
        try:
            if self.log.enforce_retention(wall_ms, self.high_watermark):
                self.notify()
        except StorageError as error:
            log.error("%s-%d: retention failed: %s", self.topic, self.partition, error)

    def delete_before(self, offset: int) -> int:
        """Deletes records before `offset`; the new log start."""
        start = self.log.delete_before(offset)
        self.notify()
        return start

    def resign(self, error: str, message: str, delete: bool) -> None:
        """Stops serving: whoever waits gets the error; the log is closed, or deleted with the topic."""
        self._pending.clear()
        self.closed = error
        self._perform(self.replica.resign(error, message), 0)
        self.notify()
        if delete:
            self.log.delete()
        else:
            self.log.close()

    def describe(self) -> LogDescription:
        """What lies on disk."""
        return LogDescription(
            self.topic_id,
            self.partition,
            str(self.directory),
            self.log.size_bytes,
            self.log.segment_count,
            self.log.log_start_offset,
            self.log.log_end_offset,
            self.high_watermark,
            self.replica.leader_epoch,
        )
