"""Committing by itself: what was handed out before the last poll, now and then, on revoke and on close."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

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


class _Asked(NamedTuple):
    """The last commit of a partition that was asked for, and where its cursor stood then."""

    offset: int
    position: int
    drops: int


class AutoCommit:
    """The reader's; where it is not enabled it commits nothing.

    It is called at the start of a poll, when every position is that after what former calls have handed out. Positions
    that nobody has read from are committed too: else a group that begins at the latest record would begin anew, at a
    later one, when a partition moves on.

    It hears from the committer of all commits, also of those by hand, and sets none of them back by itself.

    Attributes:
        cursors: those that are read, by whatever key.
    """

    def __init__(self, committer: Committer, enabled: bool, interval_ms: int, now_ms: int) -> None:
        self.enabled = enabled
        self._committer = committer
        self._interval_ms = interval_ms
        self._due_ms = now_ms + interval_ms
        self.cursors: Mapping[tuple[str, int], Cursor] = {}
        self._done: dict[tuple[bytes, int], int] = {}  # what is known to be committed
        self._asked: dict[tuple[bytes, int], _Asked] = {}
        self._under_way: Future[None] | None = None
        self._warn_ms = 0
        committer.on_asked, committer.on_done = self._note_asked, self._note_done

    def started(self, cursor: Cursor, committed: int) -> None:
        """A partition is read from where it was committed."""
        self._done[_key(cursor)] = committed

    def forget(self, cursor: Cursor) -> None:
        """It is not read any more."""
        self._done.pop(_key(cursor), None)
        self._asked.pop(_key(cursor), None)

    def back_to(self, cursor: Cursor, before: int) -> int:
        """Where to go back to, by an error, from behind what was handed out last, which began at `before`: not to
        before what was committed of it, nor beyond where the cursor stands."""
        asked = self._asked.get(_key(cursor))
        if asked is None or (cursor.position, cursor.drops) != (asked.position, asked.drops):
            return before  # it was read on, or moved by the user, since
        return min(max(before, asked.offset), asked.position)

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
        done.add_done_callback(lambda future: self._ended(future, now_ms))

    def _ended(self, future: Future[None], now_ms: int) -> None:
        error = future.exception()
        if error is not None and now_ms >= self._warn_ms:
            self._warn_ms = now_ms + _WARN_EVERY_MS
            log.warning("committing offsets failed, and is tried again: %s", error)

    def finish(self, cursors: Iterable[Cursor]) -> None:
        """Commits before the cursors are given up. What cannot be committed is read again by who reads on."""
        changed = self._changed(cursors) if self.enabled else {}
        if not changed:
            return
        try:
            self._committer.commit(list(changed.values()))
        except RayQueueError as error:
            names = ", ".join(f"{cursor.topic}-{cursor.partition}" for cursor in list(changed)[:10])
            log.warning("the last offsets of %s are not committed, so records are read again: %s", names, error)

    def _note_asked(self, offsets: Sequence[CommittedOffset]) -> None:
        wanted = {(one.topic_id, one.partition): one.offset for one in offsets}
        for cursor in self.cursors.values():
            offset = wanted.get(_key(cursor))
            if offset is not None and cursor.position is not None:
                self._asked[_key(cursor)] = _Asked(offset, cursor.position, cursor.drops)

    def _note_done(self, offsets: Sequence[CommittedOffset]) -> None:
        self._done.update(((one.topic_id, one.partition), one.offset) for one in offsets)

    def _changed(self, cursors: Iterable[Cursor]) -> dict[Cursor, CommittedOffset]:
        return {
            cursor: offset_of(cursor)
            for cursor in cursors
            if cursor.position is not None
            and self._done.get(_key(cursor)) != cursor.position
            and not self._is_behind(cursor, cursor.position)
        }

    def _is_behind(self, cursor: Cursor, position: int) -> bool:
        """More was committed by hand than was handed out, and the cursor has not gone back since."""
        asked = self._asked.get(_key(cursor))
        return asked is not None and asked.position <= position < asked.offset


def _key(cursor: Cursor) -> tuple[bytes, int]:
    return cursor.topic_id, cursor.partition
