"""The fetch machine, pure: cursors, the streams they are subscribed on, and what to do next.

Events come in through `on_...` and the user's moves; `plan` turns the state into effects. Planning is idempotent: a
second call without an event between yields nothing.

A cursor's way (transitions are in `_place`):

    position unknown --LookUp--> known --leader known, stream open--> subscribed --pause, full--> parked
         ^                         ^                                     |  ^                        |
         |                         +--- closed, not leader, stale -------+  +--- resume, drained ----+
         +--- offset out of range, buffer drained (auto.offset.reset) ---+
"""

from __future__ import annotations

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetch_events import FetchEvents
from rayqueue.client.fetch_state import held_range
from rayqueue.client.streams import (
    SILENCE_MAX_MS,
    SILENCE_MS,
    Close,
    Effect,
    Endpoint,
    LookUp,
    Open,
    Refresh,
    Send,
    Stream,
    Warn,
)
from rayqueue.errors import BrokerNotAvailable, OffsetOutOfRange
from rayqueue.protocol.messages import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    FetchPartition,
    FetchRequest,
    OffsetQuery,
)

# A position that somebody else finds out: nothing is asked of the leader before it is moved there.
COMMITTED = "committed"

_QUERIES = {
    "earliest": (EARLIEST_TIMESTAMP,),
    "latest": (LATEST_TIMESTAMP,),
    "none": (EARLIEST_TIMESTAMP, LATEST_TIMESTAMP),
}


class Fetcher(FetchEvents):
    """The machine: the user's moves, and planning."""

    # --- the user's moves --------------------------------------------------------------------------------------

    def assign(self, topic: str, topic_id: bytes, partition: int, start: int | str) -> Cursor:
        """Adds a partition that starts at an offset, or by a reset ("earliest", "latest", "none", "by_duration:<ms>"),
        or where it will be moved to (COMMITTED)."""
        cursor = Cursor(topic, topic_id, partition)
        self.cursors[cursor.key] = cursor
        self.seek(cursor, start)
        return cursor

    def revoke(self, key: tuple[str, int]) -> None:
        """Drops a partition."""
        cursor = self.cursors.pop(key)
        self._unsubscribe(cursor)
        cursor.drop_buffer()
        self._forget_mapping(cursor)
        self._dirty.pop(cursor, None)
        self._leaderless.pop(cursor, None)
        self._left.pop(cursor, None)
        self._sweep = True

    def seek(self, cursor: Cursor, start: int | str) -> None:
        """Moves a cursor to an offset, or by a reset."""
        self._unsubscribe(cursor)
        cursor.unmappable_epoch = -1
        self._left.pop(cursor, None)
        if isinstance(start, int):
            cursor.move_to(start)
        else:
            cursor.move_by_reset(start)
        self._changed(cursor)

    def pause(self, cursor: Cursor) -> None:
        """Hands out nothing of the partition; what is buffered stays, and no more is asked for."""
        if not cursor.paused:
            if cursor.stream is not None:
                cursor.stream.window.held -= cursor.charged
            cursor.paused = True
            self._changed(cursor)

    def resume(self, cursor: Cursor) -> None:
        """Goes on where `pause` stopped."""
        if cursor.paused:
            if cursor.stream is not None:
                cursor.stream.window.held += cursor.charged
            cursor.paused = False
            self._changed(cursor)

    def limit(self, cursor: Cursor, end: int | None) -> None:
        """Hands out nothing at or above `end`."""
        cursor.limit = end
        self._changed(cursor)

    def advance(self, cursor: Cursor, position: int) -> None:
        """Everything below `position` has been handed out."""
        freed = cursor.advance(position)
        stream = cursor.stream
        if stream is not None and freed and not cursor.paused:
            stream.window.held -= freed
            self._touched[stream] = None
        if cursor.parked or cursor.reset_after_drain:
            self._dirty[cursor] = None

    # --- planning ----------------------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When `plan` has something to do without a further event."""
        times = [self.leaders.next_deadline_ms(), self._listen_ms]
        if self._left or self._following:
            times.append(self._followers_deadline_ms())
        return min((at for at in times if at is not None), default=None)

    def plan(self, now_ms: int) -> list[Effect]:
        """What to do now, in order."""
        effects, self._effects = self._effects, []
        if self._left or self._following:
            for endpoint in self._silent_followers(now_ms):
                effects.append(Close(endpoint))
                self.on_closed(endpoint, BrokerNotAvailable("a follower is silent"), now_ms)
            effects += self._look_after_followers(now_ms)
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            lookups: dict[Endpoint, list[Cursor]] = {}
            for cursor in dirty:
                self._place(cursor, now_ms, lookups, effects)
            effects += [self._look_up(endpoint, cursors) for endpoint, cursors in lookups.items()]
            effects += self._effects
            self._effects = []
        if self._touched:
            touched, self._touched = self._touched, {}
            for stream in touched:
                effects += self._talk(stream)
        if self._sweep:
            self._sweep = False
            effects += self._close_idle()
        if self._listen_ms is not None and self._listen_ms <= now_ms:
            self._listen(now_ms)
        due = self.leaders.next_deadline_ms()
        if due is not None and due <= now_ms:
            self.leaders.asking = True
            effects.append(Refresh(self.leaders.asks, self.leaders.index))
        return effects

    def _listen(self, now_ms: int) -> None:
        """Asks for metadata where a stream has been silent for long; says when to look again."""
        self._listen_ms = None
        for stream in self._streams.values():
            if not stream.opened:
                continue
            if stream.heard_ms is None:
                stream.heard_ms = now_ms
            # An election takes up to 3 s when the coordinator is lost with the leader: until then, every second.
            while (due_ms := stream.heard_ms + stream.patience_ms) <= now_ms:
                self.leaders.ask_by(now_ms)
                stream.patience_ms += min(max(stream.patience_ms // 2, SILENCE_MS), SILENCE_MAX_MS)
            self._listen_ms = due_ms if self._listen_ms is None else min(self._listen_ms, due_ms)

    def _close_idle(self) -> list[Effect]:
        idle = [s for s in self._streams.values() if not s.cursors and not s.waiting]
        for stream in idle:
            del self._streams[stream.endpoint]
        return [Close(stream.endpoint) for stream in idle]

    def _place(self, cursor: Cursor, now_ms: int, lookups: dict[Endpoint, list[Cursor]], effects: list[Effect]) -> None:
        if self.cursors.get(cursor.key) is not cursor:
            return
        if cursor.error is not None:
            self._unsubscribe(cursor)
            return
        if cursor.reset_after_drain and not cursor.buffer and not self._reset(cursor):
            return
        if cursor.position is None:
            if cursor.resolving is None and cursor.reset != COMMITTED and (endpoint := self._leader(cursor, now_ms)):
                lookups.setdefault(endpoint, []).append(cursor)
            return
        wants = cursor.wants_data and not self._full(cursor)
        if wants and not cursor.following and (nearer := self._nearer(cursor)):
            near_stream = self._approach(cursor, nearer, effects)
            if near_stream is not None:
                self._unsubscribe(cursor)
                self._subscribe(near_stream, cursor)
                return
        stream = cursor.stream
        if stream is not None:
            if wants and cursor.parked:
                stream.leave(cursor)
                self._subscribe(stream, cursor)
            elif not wants and not cursor.parked and cursor.subscription is not None:
                stream.remove.append(cursor.subscription)
                cursor.parked = True
                self._touched[stream] = None
        elif wants and (endpoint := self._leader(cursor, now_ms)):
            found = self._streams.get(endpoint)
            if found is None:
                found = self._streams[endpoint] = Stream(endpoint)
                effects.append(Open(endpoint))
            if found.opened:
                self._subscribe(found, cursor)
            else:
                found.waiting[cursor] = None

    def _full(self, cursor: Cursor) -> bool:
        """A partition alone on its stream is bounded by the credit; among others by the partition's own bound."""
        if cursor.parked:
            return cursor.buffered * 2 > self.limits.partition_bytes
        shared = cursor.stream is not None and len(cursor.stream.cursors) > 1
        return shared and cursor.buffered >= self.limits.partition_bytes

    def _reset(self, cursor: Cursor) -> bool:
        """Applies `auto.offset.reset` to a cursor whose offset the leader does not have; False: it has failed."""
        if self.limits.reset == "none":
            self.fail(cursor, OffsetOutOfRange(f"offset {cursor.position} is not in {held_range(cursor)}"))
            return False
        self._effects.append(
            Warn(f"offset {cursor.position} is not in {held_range(cursor)}; auto.offset.reset={self.limits.reset}")
        )
        cursor.unmappable_epoch = -1
        cursor.move_by_reset(self.limits.reset)
        return True

    def _look_up(self, endpoint: Endpoint, cursors: list[Cursor]) -> LookUp:
        self._numbers += 1
        asked = self._lookups[self._numbers] = []
        queries = []
        for cursor in cursors:
            cursor.resolving = self._numbers
            timestamps = self._queries(cursor.reset or "none")
            asked.append((cursor, len(timestamps)))
            for timestamp in timestamps:
                queries.append(OffsetQuery(cursor.topic_id, cursor.partition, timestamp, cursor.leader_epoch))
        return LookUp(self._numbers, endpoint, queries)

    def _queries(self, reset: str) -> tuple[int, ...]:
        name, _, duration_ms = reset.partition(":")
        if not duration_ms:
            return _QUERIES[name]
        return max(0, self.limits.wall_ms() - int(duration_ms)), LATEST_TIMESTAMP

    def _leader(self, cursor: Cursor, now_ms: int) -> Endpoint | None:
        """The leader's address; unknown or older than one already seen: wait for fresh metadata."""
        leader, epoch = self.leaders.of(cursor.topic_id, cursor.partition)
        if leader is not None and epoch >= cursor.leader_epoch:
            cursor.leader_epoch = epoch
            return leader
        self._leaderless[cursor] = None
        wait = self.limits.backoff_ms(cursor.attempts - 1) if cursor.attempts else 0
        cursor.attempts += 1
        self.leaders.ask_by(now_ms + wait)
        return None

    def _subscribe(self, stream: Stream, cursor: Cursor) -> None:
        self._numbers += 1
        cursor.subscription, cursor.stream = self._numbers, stream
        stream.cursors[self._numbers] = cursor
        mapped = self.limits.mapped and stream.local and cursor.leader_epoch > cursor.unmappable_epoch
        leader, _ = self.leaders.of(cursor.topic_id, cursor.partition)
        if mapped and leader is not None and leader.broker_id != stream.endpoint.broker_id:
            cursor.following = True
            self._following[stream] = None
        if not mapped:
            self._forget_mapping(cursor)
        stream.add.append(
            FetchPartition(
                self._numbers, cursor.topic_id, cursor.partition, cursor.fetch_offset, cursor.leader_epoch, mapped
            )
        )
        self._touched[stream] = None

    def _talk(self, stream: Stream) -> list[Effect]:
        if not stream.opened or self._streams.get(stream.endpoint) is not stream:
            return []
        limits = self.limits
        bound = min(limits.stream_bytes, max(1, len(stream.cursors)) * limits.partition_bytes)
        credit = stream.window.grant(bound)
        if not (credit or stream.add or stream.remove):
            return []
        request = FetchRequest(stream.add, stream.remove, credit)
        stream.add, stream.remove = [], []
        return [Send(stream.endpoint, request)]
