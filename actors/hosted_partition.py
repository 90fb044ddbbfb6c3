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
from rayqueue.actors.compacting import PartitionCompaction
from rayqueue.actors.driver import wall_ms as wall_clock_ms
from rayqueue.actors.follow_stream import FeedSubscription, Followed, FollowStream
from rayqueue.actors.fresh_batches import fresh_batches, log_batch
from rayqueue.actors.hands import Cut, Hands
from rayqueue.actors.leader_link import LeaderProcess
from rayqueue.config.names import INTERNAL_TOPICS
from rayqueue.config.topic import TopicConfig
from rayqueue.errors import RayQueueError, StorageError
from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication import events as ev
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.limits import Limits
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import ProducerStates
from rayqueue.replication.replica import Replica
from rayqueue.storage.compaction.reading import KeyColumns
from rayqueue.storage.files import OsFiles
from rayqueue.storage.index import batch_header
from rayqueue.storage.log import Log

log = logging.getLogger(__name__)

Listener = Callable[["HostedPartition"], None]


class HostedPartition:
    """One replica, leading or following. Until the first `assign` it does neither.

    Args:
        files: the file system.
        directory: where its segments lie, or will lie.
        topic, topic_id, partition: which it is.
        schema: the topic's log schema.
        columns: where its keys stand; None: it has none.
        config: the topic's settings.
        broker_id: its own.
        alone: it is the only replica.
        limits: the times its machine goes by.
        wall_ms: now.
        max_batch_bytes: largest batch taken, decompressed.
        hands: the actor's.

    Attributes:
        leader_process: whom to follow; None: not known, or itself.
        high_watermark, leading: as the machine has them; other threads may look.
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
        columns: KeyColumns | None,
        config: TopicConfig,
        broker_id: int,
        alone: bool,
        limits: Limits,
        wall_ms: int,
        max_batch_bytes: int,
        hands: Hands,
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.schema = schema
        key = columns.key if columns is not None else ""
        self.checks = BatchChecks(schema, max_batch_bytes, key, topic in INTERNAL_TOPICS)
        self.compaction = PartitionCompaction(columns)
        self.config = config
        self.directory = directory
        self.listeners: tuple[Listener, ...] = ()
        self.closed = ""  # the error name with which late callers are refused
        self.leader_process: LeaderProcess | None = None
        self._hands = hands
        # By broker and incarnation: the process before may still be ending when its successor asks.
        self._followers: dict[tuple[int, str], tuple[FollowStream, FeedSubscription]] = {}
        self._pending: list[tuple[Any, BatchHeader]] = []
        self._cutting = False  # another thread has the log: until it is done nothing is assigned and nothing retained
        self._cut_refused = False  # the last one found the disk full
        self._assigned: tuple[ev.Assignment, LeaderProcess | None] | None = None  # meanwhile
        self.log = Log.open(files, str(directory), schema, config)
        if config.flush_messages == 1 and self.log.flushed_offset < self.log.log_end_offset:
            # The process before us may have died between write and fsync. A duplicate of such a batch would be acked
            # as one that is durable, so first it is made so.
            self.log.flush()
        self.replica = Replica(broker_id, self._facts(alone, wall_ms), config, limits)
        self.high_watermark = self.replica.high_watermark
        self.leading = False

    def __repr__(self) -> str:
        replica = self.replica
        return f"HostedPartition({self.topic}-{self.partition}, epoch {replica.leader_epoch}, end {replica.log_end})"

    def _facts(self, alone: bool, wall_ms: int) -> LogFacts:
        """The log as it was opened. What is committed is known as of the last checkpoint; to the only replica, all."""
        start, end = self.log.log_start_offset, self.log.log_end_offset
        committed = end if alone else max(start, self.log.committed_offset)
        epochs = LeaderEpochs(self.log.leader_epochs)
        return LogFacts(start, end, end, self.log.flushed_offset, committed, epochs, self._producers(wall_ms))

    def _producers(self, wall_ms: int) -> ProducerStates:
        """What the log says of its producers: the latest snapshot, and the index entries after it. One from before the
        log's start lacks what was deleted since: by it a producer that went on would be refused."""
        states = ProducerStates()
        start = self.log.log_start_offset
        snapshot = self.log.latest_snapshot()
        if snapshot is not None and start <= snapshot[0] <= self.log.log_end_offset:
            try:
                states.load(snapshot[1])
                start = snapshot[0]
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
        effects = self.replica.step(event, now_ms, wall_ms)
        self.leading = self.replica.leading  # first: consumers are told no epoch that is another leader's
        self._perform(effects, now_ms, wall_ms)
        self._hands.timed(self)

    def later(self, event: ev.Event) -> None:
        """Steps the machine in another turn."""
        self._hands.later(self, event)

    def followed(self, news: Followed, now_ms: int, wall_ms: int) -> None:
        """News of a follower. One that begins anew may have another stream by now: the end of the old one is none."""
        event = news.event
        key = event.follower, event.incarnation
        match event:
            case ev.FetchFrom():
                present = self._followers.get(key)
                if present is not None and present[0].number > news.stream.number:
                    return  # read late from a stream that has been replaced: nobody listens there
                self._followers[key] = news.stream, news.subscription
            case ev.FetchEnded():
                if self._followers.get(key) != (news.stream, news.subscription):
                    return
                del self._followers[key]
            case ev.FetchAcked():
                pass
        self.step(event, now_ms, wall_ms)

    def _perform(self, effects: Iterable[ev.Effect], now_ms: int, wall_ms: int) -> None:
        for effect in effects:
            match effect:
                case ev.Append():
                    self._pending.append((effect.ref, effect.header))
                case ev.Reply():
                    self._hands.reply(effect)
                case ev.HighWatermark(offset=offset):
                    self.high_watermark = offset
                    self.log.note_committed(offset)
                    self._committed()
                case ev.Flush():
                    self._hands.flush(self)
                case ev.Feed() | ev.RefuseFetch() | ev.StopFeeding():
                    self._answer_follower(effect)
                case ev.AckFetch():
                    self._hands.ack(self, effect)
                case ev.Follow():
                    self._hands.follow(self, effect)
                case ev.Unfollow():
                    self._hands.unfollow(self)
                case ev.Truncate() | ev.ResetLog():
                    self._cutting = True
                    self._hands.cut(self, effect)
                case ev.AdvanceStart():
                    self._advance_start(now_ms, wall_ms)
                case ev.ProposeIsr():
                    self._hands.propose(self, effect)
                case ev.Resign():
                    log.error("%r cannot lead on: %s", self, self.replica.offline)
                    self._hands.resign(self, effect)
                case ev.ReportLogEnd():
                    self._hands.report(self, effect)

    def _answer_follower(self, effect: ev.Feed | ev.RefuseFetch | ev.StopFeeding) -> None:
        key = effect.follower, effect.incarnation
        if key not in self._followers:
            return  # a later stream of this follower has been refused: nothing is fed
        stream, subscription = self._followers[key]
        match effect:
            case ev.Feed(offset=offset):
                stream.feed(subscription, offset)
            case ev.RefuseFetch():
                del self._followers[key]
                stream.refuse(subscription, effect)
            case ev.StopFeeding():
                del self._followers[key]
                stream.stop(subscription)

    def cut(self, effect: Cut) -> ev.Truncated | ev.CutFailed:
        """Cuts the log back. On a thread of its own: it may take as long as writing a whole segment does.

        Raises:
            RayQueueError: the log has failed.
        """
        try:
            match effect:
                case ev.Truncate(end=end):
                    self.log.truncate(end)
                case ev.ResetLog(start=start):
                    self.log.reset(start)
        except StorageError as error:
            if not self.log.online:
                raise
            return ev.CutFailed(str(error))
        start, end = self.log.log_start_offset, self.log.log_end_offset
        log.info("%r: its log, where it and the leader's part, was cut back: it goes from %d to %d", self, start, end)
        return ev.Truncated(start, end, LeaderEpochs(self.log.leader_epochs), self._producers(wall_clock_ms()))

    def cut_done(self, event: ev.Truncated | ev.CutFailed | ev.LogFailed, now_ms: int, wall_ms: int) -> None:
        """What became of a cut; then what was assigned meanwhile counts."""
        self._cutting = False
        if self.closed:
            return
        if isinstance(event, ev.CutFailed) and not self._cut_refused:
            log.error("%r cannot follow, it is tried again: %s", self, event.message)
        self._cut_refused = isinstance(event, ev.CutFailed)
        self.step(event, now_ms, wall_ms)
        if isinstance(event, ev.Truncated) and event.log_start == event.log_end:
            self._write_deleted(event.log_start)  # as the leader told it
        self.high_watermark = self.replica.high_watermark  # it may have moved without an effect, either way
        self.log.note_committed(self.high_watermark)
        if self.dirty:
            self.write(now_ms, wall_ms)  # what was held back
        assigned, self._assigned = self._assigned, None
        if assigned is not None:
            self.assign(*assigned, now_ms, wall_ms)

    def _advance_start(self, now_ms: int, wall_ms: int) -> None:
        """Deletes what the leader has deleted. On a full disk it is left for the next round of retention."""
        try:
            self._keep_producers(self.replica.log_start)
            self.log.delete_before(self.replica.log_start)
        except RayQueueError as error:
            if not self.log.online:
                self.step(ev.LogFailed(str(error)), now_ms, wall_ms)
            else:
                log.warning("%r: records are deleted later: %s", self, error)

    def write(self, now_ms: int, wall_ms: int) -> None:
        """Writes all waiting batches in one go: the group of the group commit."""
        pending, self._pending = self._pending, []
        try:
            batches = [log_batch(ref, header) for ref, header in pending]
            rolled = self.log.append(batches, wall_ms)
        except RayQueueError as error:
            log.error("%s-%d: append failed: %s", self.topic, self.partition, error)
            self.step(ev.WriteFailed(str(error)), now_ms, wall_ms)
            if not self.log.online:  # not only this write was refused: this partition fails, the others here go on
                self.step(ev.LogFailed(str(error)), now_ms, wall_ms)
            return
        self.step(ev.Written(), now_ms, wall_ms)
        if self._followers:
            fresh = fresh_batches(batches)
            for stream, subscription in self._followers.values():
                stream.on_written(subscription, fresh)
        if rolled:
            self._after_roll(now_ms, wall_ms)

    def tell_followers(self) -> None:
        """Pushes followers what they have not been told."""
        for stream, subscription in self._followers.values():
            stream.on_news(subscription)

    def _committed(self) -> None:
        """The high watermark has moved. A follower hears of it at once where a consumer waits for that there; else with
        the next batch, or soon: a message and a wake-up for each record, of no use to anybody, would be the price."""
        for listener in self.listeners:
            listener(self)
        for stream, subscription in self._followers.values():
            if subscription.watched:
                stream.on_news(subscription)
            else:
                self._hands.tell_later(self)

    def _after_roll(self, now_ms: int, wall_ms: int) -> None:
        """Closed segments are made durable, and the producers' state is kept beside them."""
        try:
            self.log.write_snapshot(self.log.log_end_offset, self.replica.producers.dump())
        except StorageError as error:
            # The batches are in the log, and from the log the state is read again: only a longer recovery is lost.
            log.warning("%s-%d: no producer snapshot: %s", self.topic, self.partition, error)
        self.step(ev.Rolled(), now_ms, wall_ms)
        self._enforce_retention(now_ms, wall_ms)

    def notify(self) -> None:
        """Tells consumers and followers that the high watermark, the log start or the leader has moved."""
        for listener in self.listeners:
            listener(self)
        self.tell_followers()

    # --- life --------------------------------------------------------------------------------------------------------

    def assign(
        self, assignment: ev.Assignment, leader_process: LeaderProcess | None, now_ms: int, wall_ms: int
    ) -> None:
        """Takes what the metadata log says of it now; of several, while the log is cut, the last."""
        if self._cutting:
            self._assigned = assignment, leader_process
            return
        self.leader_process = leader_process
        self.step(ev.Assign(assignment), now_ms, wall_ms)
        self.notify()

    def configure(self, config: TopicConfig) -> None:
        """Takes new settings."""
        self.config = config
        self.replica.configure(config)
        self.log.update_config(config)
        self.later(ev.Tick())  # what was due under the old settings may be due earlier

    def retain(self, now_ms: int, wall_ms: int, producer_expiry_ms: int) -> None:
        """Retention, compaction, and forgetting idle producers."""
        if self._cutting:
            return
        self.replica.producers.expire(wall_ms - producer_expiry_ms)
        if not self.leading and self.log.log_start_offset < self.replica.log_start:
            self._advance_start(now_ms, wall_ms)
        self._enforce_retention(now_ms, wall_ms)
        self.compaction.begin(self, self._hands, now_ms, wall_ms)

    def _enforce_retention(self, now_ms: int, wall_ms: int) -> None:
        try:
            if self.log.enforce_retention(wall_ms, self.high_watermark, self._keep_producers):
                self._start_moved(now_ms, wall_ms)
        except StorageError as error:
            log.error("%s-%d: retention failed: %s", self.topic, self.partition, error)

    def delete_before(self, offset: int, now_ms: int, wall_ms: int) -> int:
        """Deletes records before `offset`; the new log start."""
        self._keep_producers(offset)
        start = self.log.delete_before(offset)
        self._start_moved(now_ms, wall_ms)
        return start

    def _keep_producers(self, start: int) -> None:
        """Before the records below `start` are deleted: of what they say of their producers there would be nothing
        left after a restart, and a retry of one of them would be taken again."""
        if self.log.log_start_offset < start <= self.log.log_end_offset:
            self._write_deleted(start)

    def _write_deleted(self, start: int) -> None:
        producers = self.replica.producers
        if not len(producers):
            return
        try:
            self.log.write_snapshot(start, producers.below(start).dump(), durable=True)
        except StorageError as error:
            log.warning("%s-%d: no producer snapshot of what is deleted: %s", self.topic, self.partition, error)

    def _start_moved(self, now_ms: int, wall_ms: int) -> None:
        self.step(ev.StartMoved(self.log.log_start_offset), now_ms, wall_ms)
        self.notify()

    def resign(self, error: str, message: str, delete: bool) -> None:
        """Stops serving: whoever waits gets the error; the log is closed, or deleted with the topic."""
        self._pending.clear()
        self.closed = error
        self._perform(self.replica.resign(error, message), 0, 0)
        self.leading = False
        self.notify()
        if delete:
            self.log.delete()
        else:
            self.log.close()
