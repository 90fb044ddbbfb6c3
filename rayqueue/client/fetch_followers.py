"""Reading from a follower: one in sync that lies on this host, where the leader does not (KIP-392). Pure.

Its segments are mapped, and it tells its high watermark over a stream of its own; the leader's stream is read until
that one is open, so nobody waits for a follower. A cursor goes back to the leader at once when the follower refuses it,
is gone or silent, does not have its offset, or cannot be read; after a while the follower is tried again, ever later.

Only the leader knows the log's range. So an offset above the follower's high watermark is waited for, and one below its
log's start is asked of the leader: each replica deletes old segments in its own time.
"""

from __future__ import annotations

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetch_state import FetchState
from rayqueue.client.streams import Effect, Endpoint, Open, Send, Stream
from rayqueue.protocol.messages import FetchRequest

ASK_MS = 300  # a follower that is read from is asked so often whether it lives
SILENT_MS = 1_000  # one that does not answer for so long is left
AGAIN_MS = 5_000  # a follower that was left is tried again after so long, then after twice that
AGAIN_MS_MAX = 300_000
REMOTE_MAX = 1_024


class FetchFollowers(FetchState):
    """Which follower to read from, and when not to."""

    def _nearer(self, cursor: Cursor) -> Endpoint | None:
        """A follower in sync whose segments can be mapped, or perhaps can; None where the leader's can as well."""
        if not self.limits.mapped or cursor in self._left or cursor.leader_epoch <= cursor.unmappable_epoch:
            return None
        followers = self.leaders.followers(cursor.topic_id, cursor.partition)
        if not followers:
            return None
        leader, _ = self.leaders.of(cursor.topic_id, cursor.partition)
        if leader is None or self._may_be_local(leader):
            return None
        return next((one for one in followers if self._may_be_local(one)), None)

    def _may_be_local(self, endpoint: Endpoint) -> bool:
        stream = self._streams.get(endpoint)
        if stream is not None and stream.opened:
            return stream.local
        return endpoint not in self._remote and self.limits.near(endpoint.host)

    def _opened_remote(self, endpoint: Endpoint) -> None:
        """Its files cannot be read here, whatever its address looks like."""
        if len(self._remote) >= REMOTE_MAX:
            self._remote.clear()
        self._remote.add(endpoint)

    def _approach(self, cursor: Cursor, nearer: Endpoint, effects: list[Effect]) -> Stream | None:
        """The follower's stream, if it is open; else the cursor is placed again when it is."""
        found = self._streams.get(nearer)
        if found is None:
            found = self._streams[nearer] = Stream(nearer)
            effects.append(Open(nearer))
        if found.opened:
            return found
        found.waiting[cursor] = None
        return None

    # --- time --------------------------------------------------------------------------------------------------

    def _followers_deadline_ms(self) -> int | None:
        """When `_look_after_followers` has something to do."""
        due = [at for at in self._left.values() if at is not None]
        for stream in self._following:
            due.append(stream.ask_ms if stream.asked_ms is None else stream.asked_ms + SILENT_MS)
        return min(due, default=None)

    def _silent_followers(self, now_ms: int) -> list[Endpoint]:
        """Those that were asked whether they live, and have not answered in time."""
        return [s.endpoint for s in self._following if s.asked_ms is not None and now_ms >= s.asked_ms + SILENT_MS]

    def _look_after_followers(self, now_ms: int) -> list[Effect]:
        """Asks those that are read from whether they live, and tries those again that were left."""
        effects: list[Effect] = []
        for stream in list(self._following):
            read = self._streams.get(stream.endpoint) is stream and any(c.following for c in stream.cursors.values())
            if not read:
                del self._following[stream]
                stream.asked_ms = None
            elif stream.asked_ms is None and now_ms >= stream.ask_ms:
                stream.asked_ms, stream.ask_ms = now_ms, now_ms + ASK_MS
                effects.append(Send(stream.endpoint, FetchRequest([], [], 0)))
        for cursor, again_ms in list(self._left.items()):
            if again_ms is None:
                self._left[cursor] = now_ms + min(AGAIN_MS << min(cursor.left, 10), AGAIN_MS_MAX)
                cursor.left += 1
            elif now_ms >= again_ms:
                del self._left[cursor]
                self._dirty[cursor] = None
        return effects
