"""The fetch machine's events: metadata, streams opened and closed, what came on them, offsets looked up. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.client.cursor import Accepted, Chunk, Cursor
from rayqueue.client.fetch_followers import FetchFollowers
from rayqueue.client.fetch_state import held_range
from rayqueue.client.streams import SILENCE_MS, Endpoint, Stream, Warn
from rayqueue.errors import (
    AuthenticationError,
    OffsetOutOfRange,
    RayQueueError,
    UnknownTopicOrPartition,
    from_wire,
)
from rayqueue.protocol.messages import PING, FetchPart, OffsetAnswer, TopicInfo

# A subscription that ended with one of these is tried again after fresh metadata. Any other error is the user's.
_RETRIED = {"NotLeaderOrFollower", "FencedLeaderEpoch", "UnknownTopicOrPartition", "BrokerNotAvailable"}


class FetchEvents(FetchFollowers):
    """Takes events in; what follows from them is for `plan` to say."""

    def on_metadata(self, topics: Iterable[TopicInfo], asked: list[str] | None, index: int, now_ms: int) -> None:
        """Fresh metadata of the topics `asked` for (None: of all); what is missing does not exist."""
        self.leaders.replace(topics, asked, index, now_ms)
        for cursor in self.cursors.values():
            if asked is None or cursor.topic in asked:
                self._check_topic(cursor, now_ms)
                self._check_leader(cursor)
        self._dirty.update(self._leaderless)
        self._leaderless.clear()
        self._dirty.update((c, None) for c in self.cursors.values() if not c.following and self._nearer(c))
        self._sweep = True

    def _check_topic(self, cursor: Cursor, now_ms: int) -> None:
        """A cursor whose topic is gone fails; it is looked for again, in case the name comes back."""
        if self.leaders.exists(cursor.topic, cursor.topic_id, cursor.partition):
            return
        self.leaders.ask_by(now_ms + self.limits.backoff_ms(20))
        if not isinstance(cursor.error, UnknownTopicOrPartition):
            text = f"topic {cursor.topic!r} was deleted: unsubscribe or unassign it, or create it again"
            self.fail(cursor, UnknownTopicOrPartition(text))

    def _check_leader(self, cursor: Cursor) -> None:
        """A cursor whose leader was passed over goes on at the next one: the old one may hang, and never say so."""
        leader, epoch = self.leaders.of(cursor.topic_id, cursor.partition)
        stream = cursor.stream
        if stream is not None and cursor.following:
            if stream.endpoint not in (leader, *self.leaders.followers(cursor.topic_id, cursor.partition)):
                self.leave_follower(cursor)  # it is in sync no more
        elif stream is not None and leader not in (None, stream.endpoint) and epoch > cursor.leader_epoch:
            self._unsubscribe(cursor)
            self._dirty[cursor] = None

    def on_refresh_failed(self, error: RayQueueError, now_ms: int) -> None:
        """No broker gave metadata."""
        leaders = self.leaders
        leaders.asking = False
        leaders.due_ms = now_ms + self.limits.backoff_ms(leaders.failures)
        leaders.failures += 1
        if isinstance(error, AuthenticationError):
            self.fatal = error
        self._effects.append(Warn(f"metadata cannot be had, trying on: {error}"))

    def on_opened(self, endpoint: Endpoint, local: bool) -> None:
        """An exchange is open."""
        stream = self._streams.get(endpoint)
        if stream is None:
            return
        stream.opened = True
        stream.local = local
        self._listen_ms = 0
        if not local:
            self._opened_remote(endpoint)
        self._dirty.update(stream.waiting)
        stream.waiting.clear()
        self._touched[stream] = None

    def on_closed(self, endpoint: Endpoint, error: RayQueueError, now_ms: int) -> None:
        """An exchange broke, or could not be opened. What was buffered is good; go on from its end elsewhere."""
        stream = self._streams.pop(endpoint, None)
        if stream is None:
            return
        self._touched.pop(stream, None)
        if isinstance(error, AuthenticationError):
            self.fatal = error
        elif not error.retriable and stream.opened is False:
            self._effects.append(Warn(f"fetching from {endpoint.host}:{endpoint.port} failed, trying on: {error}"))
        for cursor in [*stream.cursors.values(), *stream.waiting]:
            following = cursor.following or cursor.stream not in (None, stream)
            if cursor.stream is stream:
                stream.release(cursor)
                if following:
                    self.leave_follower(cursor)
            elif following:  # it reads from the leader, and only wanted to go here
                self._left[cursor] = None
                continue
            self._retry(cursor)

    def on_part(self, endpoint: Endpoint, part: FetchPart, chunk: Chunk | None, size: int, now_ms: int) -> None:
        """News of a subscription, with `size` bytes of data or without.

        Data of a subscription that has been given up is dropped (it used credit all the same). A part from an older
        leader epoch than one seen before is refused: a zombie may not have what a reader has been shown.
        """
        stream = self._streams.get(endpoint)
        if stream is None:
            return
        stream.heard_ms = now_ms
        if stream.patience_ms > SILENCE_MS:
            stream.patience_ms = SILENCE_MS
            self._listen_ms = 0  # it was not to be looked at again for long
        if size:
            stream.window.received(size)
            self._touched[stream] = None
        cursor = stream.cursors.get(part.subscription)
        if cursor is None:
            if part.subscription == PING:
                stream.asked_ms = None
            return
        if part.error:
            self._on_error(stream, cursor, part)
            return
        if part.leader_epoch < cursor.leader_epoch:
            self._give_up(cursor)
            return
        cursor.leader_epoch = part.leader_epoch
        cursor.high_watermark, cursor.log_start = part.high_watermark, part.log_start
        cursor.attempts = 0
        if part.path:
            self._on_mapped(cursor, part)
        if chunk is not None:
            self._on_data(stream, cursor, chunk)
        self.ring.offer(cursor)

    def _give_up(self, cursor: Cursor) -> None:
        """This replica is not the one to read from."""
        if cursor.following:
            self.leave_follower(cursor)
        self._unsubscribe(cursor)
        self._retry(cursor)

    def _on_data(self, stream: Stream, cursor: Cursor, chunk: Chunk) -> None:
        outcome = cursor.accept(chunk, charged=True)
        if outcome is Accepted.GAP:
            self._effects.append(Warn(f"{cursor} was sent offset {chunk.base_offset}: fetching again"))
            self._unsubscribe(cursor)
            self._retry(cursor)
        elif outcome is Accepted.APPENDED:
            if not cursor.paused:
                stream.window.held += chunk.size
            if cursor.buffered >= self.limits.partition_bytes:
                self._dirty[cursor] = None

    def _on_mapped(self, cursor: Cursor, part: FetchPart) -> None:
        """A changed directory or generation: bytes under the old mapping may not be the log's any more."""
        cut = cursor.mapping is not None
        if cursor.mapping != (part.path, part.generation):
            self._drop_mapping(cursor)
            cursor.mapping = (part.path, part.generation)
        else:
            cut = False
        if cursor.following and cursor.fetch_offset > part.high_watermark:
            if cut:  # what was read may be among what was cut: the leader knows
                self.leave_follower(cursor)
            return  # it will hear of what the leader has committed
        if 0 <= cursor.fetch_offset < part.log_start:
            self.out_of_range(cursor)
        elif cursor.fetch_offset > part.high_watermark:
            self.unmap(cursor)  # waiting to be committed, or beyond the log's end: on the stream the leader says which

    def _on_error(self, stream: Stream, cursor: Cursor, part: FetchPart) -> None:
        cursor.parked = True  # the server has ended it: nothing to remove there
        following = cursor.following
        stream.leave(cursor)
        if following or 0 <= part.leader_epoch < cursor.leader_epoch:
            if following:
                self.leave_follower(cursor)
            self._retry(cursor)
            return
        if part.error == "OffsetOutOfRange":
            cursor.high_watermark, cursor.log_start = part.high_watermark, part.log_start
            self.out_of_range(cursor)
            return
        error = from_wire(part.error, part.message)
        if part.error in _RETRIED or error.retriable:
            self._retry(cursor)
        elif part.error == "StorageError":
            self._passing.append(error)
            self._retry(cursor)
        else:
            self.fail(cursor, error)

    def on_offsets(self, number: int, answers: list[OffsetAnswer] | RayQueueError) -> None:
        """Offsets looked up, or why not. A cursor that has been moved meanwhile takes no notice."""
        at = 0
        for cursor, count in self._lookups.pop(number, []):
            mine = [] if isinstance(answers, RayQueueError) else answers[at : at + count]
            at += count
            if cursor.resolving != number:
                continue
            cursor.resolving = None
            failed = next((from_wire(answer.error, answer.message) for answer in mine if answer.error), None)
            if len(mine) < count or (failed and (failed.retriable or type(failed).__name__ in _RETRIED)):
                self._retry(cursor)
            elif failed:
                self.fail(cursor, failed)
            else:
                self._resolved(cursor, [answer.offset for answer in mine])

    def _resolved(self, cursor: Cursor, offsets: list[int]) -> None:
        if cursor.reset == "none":
            cursor.log_start, cursor.high_watermark = offsets
            self.fail(cursor, OffsetOutOfRange(f"no start is known for {held_range(cursor)}"))
            return
        cursor.attempts = 0
        cursor.reset = None
        # By a time at which nothing had been written yet: at the end.
        cursor.position = cursor.fetch_offset = offsets[0] if offsets[0] >= 0 else offsets[-1]
        self._changed(cursor)
