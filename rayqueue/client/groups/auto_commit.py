"""Committing by itself: what was handed out before the last poll, now and then, on revoke and on close."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future

from rayqueue.client.cursor import Cursor
from rayqueue.client.groups.committer import Committer
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import CommittedOffset

log = logging.getLogger("rayqueue.consumer")

_WARN_EVERY_MS = 30_000


def offset_of(cursor: Cursor) -> CommittedOffset:
    """A cursor's position as it is committed."""
    assert cursor.position is not None
    return CommittedOffset(cursor.topic_id, cursor.partition, cursor.position, cursor.consumed_epoch)


class AutoCommit:
    """The reader's; where it is not enabled it commits nothing.

    It is called at the start of a poll, when every position is that after what former calls have handed out. Positions
    that nobody has read from are committed too: else a group that begins at the latest record would begin anew, at a
    later one, when a partition moves on.
    """

    def __init__(self, committer: Committer, enabled: bool, interval_ms: int, now_ms: int) -> None:
        self.enabled = enabled
        self._committer = committer
        self._interval_ms = interval_ms
        self._due_ms = now_ms + interval_ms
        self._done: dict[Cursor, int] = {}  # what is known to be committed
        self._under_way: Future[None] | None = None
        self._warn_ms = 0

    def started(self, cursor: Cursor, committed: int) -> None:
        """A partition is read from where it was committed."""
        self._done[cursor] = committed

    def forget(self, cursor: Cursor) -> None:
        """It is not read any more."""
        self._done.pop(cursor, None)

    def look(self, cursors: Iterable[Cursor], now_ms: int) -> None:
        """Begins a commit in the background where one is due."""
        if not self.enabled or now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._interval_ms
        if self._under_way is not None and not self._under_way.done():
            return  # the coordinator is away, or slow: the next one has all of it
        changed = self._changed(cursors)
        if not changed:
            return
        done = self._under_way = self._committer.commit_later(list(changed.values()))
        done.add_done_callback(lambda future: self._ended(changed, future, now_ms))

    def _ended(self, changed: dict[Cursor, CommittedOffset], future: Future[None], now_ms: int) -> None:
        error = future.exception()
        if error is None:
            self._note(changed)
        elif now_ms >= self._warn_ms:
            self._warn_ms = now_ms + _WARN_EVERY_MS
            log.warning("committing offsets failed, and is tried again: %s", error)

    def finish(self, cursors: Iterable[Cursor]) -> None:
        """Commits before the cursors are given up. What cannot be committed is read again by who reads on."""
        changed = self._changed(cursors) if self.enabled else {}
        if not changed:
            return
        try:
            self._committer.commit(list(changed.values()))
            self._note(changed)
        except RayQueueError as error:
            names = ", ".join(f"{cursor.topic}-{cursor.partition}" for cursor in list(changed)[:10])
            log.warning("the last offsets of %s are not committed, so records are read again: %s", names, error)

    def _note(self, changed: dict[Cursor, CommittedOffset]) -> None:
        self._done.update((cursor, offset.offset) for cursor, offset in changed.items())

    def _changed(self, cursors: Iterable[Cursor]) -> dict[Cursor, CommittedOffset]:
        return {
            cursor: offset_of(cursor)
            for cursor in cursors
            if cursor.position is not None and self._done.get(cursor) != cursor.position
        }
