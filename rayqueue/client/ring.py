"""Turns, pure: of the cursors that have something to hand out, each gets its turn before one gets a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rayqueue.client.cursor import Cursor


class Ring:
    """Cursors with records, in order of their turns. A cursor that runs dry leaves when its turn comes."""

    __slots__ = ("_cursors",)

    def __init__(self) -> None:
        self._cursors: deque[Cursor] = deque()

    def offer(self, cursor: Cursor) -> None:
        """Adds a cursor that has records and is not there yet."""
        if not cursor.queued and cursor.has_records:
            cursor.queued = True
            self._cursors.append(cursor)

    def next(self, accept: Callable[[Cursor], bool] | None = None) -> Cursor | None:
        """Whose turn it is, of those accepted; None when none of them has anything."""
        cursors = self._cursors
        for _ in range(len(cursors)):
            cursor = cursors.popleft()
            if not cursor.has_records:
                cursor.queued = False
                continue
            cursors.append(cursor)
            if accept is None or accept(cursor):
                return cursor
        return None

    def __bool__(self) -> bool:
        cursors = self._cursors  # the first decides nearly always
        return bool(cursors) and (cursors[0].has_records or any(cursor.has_records for cursor in cursors))

    def ready(self) -> list[Cursor]:
        """All who have something, in turn."""
        return [cursor for cursor in self._cursors if cursor.has_records]
