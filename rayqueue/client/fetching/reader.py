"""Handing records out: one at a time, as lists, as tables, or by iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import pyarrow as pa

from rayqueue.client.cursor import Cursor
from rayqueue.client.deserializers import deserializer
from rayqueue.client.fetching.arguments import timeout_of
from rayqueue.client.fetching.assignment import Assignment
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.guard import Guard
from rayqueue.client.fetching.layout import DEFAULT_TABLE_SCHEMA, TopicLayout
from rayqueue.client.fetching.rows import Rows, rows_of
from rayqueue.client.fetching.tables import Stretch, TableBuilder
from rayqueue.client.io.interrupts import Uninterrupted
from rayqueue.errors import RayQueueError
from rayqueue.message import Message

# Opened at a time for messages: their values become Python objects together.
_ROWS_BYTES = 1024 * 1024
# A table holds about so much when nobody says how many records it should have.
_TABLE_BYTES = 8 << 20
_SHARE_BYTES = 1 << 20


def _all_columns(_: TopicLayout) -> None:
    return None


class Reader:
    """Reads what the engine has. It holds one run of opened rows "in hand", of one partition.

    The position of a partition is always that of the next record not yet handed out, whichever way they leave.
    """

    def __init__(self, engine: Engine, assignment: Assignment) -> None:
        self._engine = engine
        self._machine = engine.machine
        self._assignment = assignment
        self._value_deserializer = deserializer(engine.config.value_deserializer, "value")
        self._key_deserializer = deserializer(engine.config.key_deserializer, "key")
        self._tables = TableBuilder()
        self._kept_error: RayQueueError | None = None
        # In hand: messages of `_cursor` to be handed out, up to the offset before `_end`. The next one is at the
        # cursor's position, unless an interrupt came when one had been taken and the position not yet moved: so what
        # is in hand is let go then, and opened anew from the position.
        self._hand: Iterator[Message] = iter(())
        self._cursor: Cursor | None = None
        self._after = 0  # what added to the row of a message gives the offset after it
        self._end = 0
        self._next = 0  # where to go on once all of it is handed out; beyond `_end` where records were compacted away
        self._drops = 0
        self._inbox = engine.inbox
        self._given: dict[Cursor, int | None] = {}  # positions before the last `consume` or `table`

    # --- ways out ----------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None) -> Message | None:
        """The next record; None when there is none in time (`timeout` as the user gave it)."""
        try:
            message = None if self._inbox.events else next(self._hand, None)
            if message is None:
                self._given = {}
                if not self._await(timeout_of(timeout), self._grab):
                    return None
                message = next(self._hand)
            self._cursor.position = self._after + message._row  # type: ignore[union-attr]
        except BaseException:
            self.let_go()
            raise
        return message

    def consume(self, count: int, timeout_s: float | None) -> list[Message]:
        """Up to `count` records, as soon as there are any."""
        found: list[Message] = []
        before: dict[Cursor, int | None] = {}
        self._given = before
        try:
            if self._holds(count) or self._await(timeout_s, self._grab):
                self._take(found, count, before)
            self._settle_hand()
        except BaseException:
            self._put_back(before)
            raise
        return found

    def _holds(self, count: int) -> bool:
        """Whether so many are in hand and nothing has happened: then, as in `poll`, there is no need to look around."""
        cursor = self._cursor
        if cursor is None or cursor.position is None or self._inbox.events:
            return False
        return cursor.position + count <= self._end

    def _take(self, found: list[Message], count: int, before: dict[Cursor, int | None]) -> None:
        try:
            while len(found) < count and self._grab():
                cursor = self._cursor
                assert cursor is not None
                before.setdefault(cursor, cursor.position)
                found += islice(self._hand, count - len(found))
                cursor.position = self._after + found[-1]._row
        except RayQueueError as error:
            self._kept_error = error  # what was taken before it is handed out first

    def table(
        self,
        max_records: int | None,
        timeout_s: float | None,
        columns: tuple[str, ...] | None,
        until: Callable[[], bool] | None = None,
    ) -> pa.Table:
        """What is there, of topics of one kind; empty when there is nothing in time."""
        self.let_go()
        found: list[Stretch] = []
        before: dict[Cursor, int | None] = {}
        self._given = before
        try:

            def gathered() -> bool:  # of what there is, all may have been compacted away
                if self._engine.anything():
                    self._gather(found, max_records, columns, before)
                return bool(found)

            self._await(timeout_s, gathered, until)
            self._engine.perform()
            if not found:
                return self.empty_table(columns)
            tables = [self._tables.table(stretch, columns) for stretch in found]
            whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        except BaseException:
            self._put_back(before)
            raise
        return whole

    def _gather(
        self,
        found: list[Stretch],
        max_records: int | None,
        columns: tuple[str, ...] | None,
        before: dict[Cursor, int | None],
    ) -> None:
        engine = self._engine
        kind: bytes | None = None
        left = max_records
        budget = _TABLE_BYTES
        share = max(_SHARE_BYTES, budget // max(1, len(self._machine.ring.ready())))

        def stored(layout: TopicLayout) -> tuple[str, ...] | None:
            return layout.project(columns).stored

        def same_kind(cursor: Cursor) -> bool:
            return kind is None or engine.layout(cursor).kind == kind

        try:
            while budget > _TABLE_BYTES // 8 and left != 0:
                turn = engine.next_turn(stored, min(share, budget), same_kind)
                if turn is None:
                    return
                cursor, layout, run, start, stop = turn
                cursor.consumed_epoch = run.leader_epoch
                before.setdefault(cursor, cursor.position)
                kind = layout.kind
                if left is not None:
                    stop = min(stop, start + left)
                    left -= stop - start
                stretch = found[-1] if found else None
                first, partition = cursor.position or 0, cursor.partition
                if stretch is None or not stretch.goes_on_with(layout, partition, run, first):
                    stretch = Stretch(layout, partition, first)
                    found.append(stretch)
                stretch.add(run, start, stop)
                after = run.after_row(stop)
                budget -= run.size * (after - first) // (run.next_offset - run.base_offset)
                self._machine.advance(cursor, after)
        except RayQueueError as error:
            if not found:
                raise
            self._kept_error = error

    def empty_table(self, columns: tuple[str, ...] | None) -> pa.Table:
        """No rows, in the schema of the first topic assigned."""
        cursor = next(iter(self._machine.cursors.values()), None)
        if cursor is not None:
            return _empty(self._engine.layout(cursor).project(columns).schema)
        schema = DEFAULT_TABLE_SCHEMA
        return _empty(schema if columns is None else pa.schema([schema.field(name) for name in columns]))

    def messages(self, batch: int, until: Callable[[], bool] | None, guard: Guard) -> Iterator[Message]:
        """Records one after another; looks around for other partitions after each `batch` of them."""
        inbox = self._inbox
        while True:
            with guard:
                if not self._await(None, self._grab, until):
                    return
            hand, cursor, after = self._hand, self._cursor, self._after
            assert cursor is not None
            self._given = {}
            try:
                for message in islice(hand, batch):
                    cursor.position = after + message._row
                    yield message
                    if self._hand is not hand or inbox.events:
                        break  # the user has moved, or there is news
            except KeyboardInterrupt:
                with guard:
                    self.let_go()
                raise

    # --- waiting -----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Takes in what has happened; callbacks run here, errors come out here."""
        self._engine.turn()
        try:
            self._assignment.follow()
            if self._assignment.tell():
                self._engine.perform()
        finally:
            cursor = self._cursor
            if cursor is not None and (cursor.drops != self._drops or cursor.paused or cursor.error is not None):
                self._forget_hand()
        error = self._kept_error
        if error is not None:
            self._kept_error = None
            raise error
        error = self._machine.error()
        if error is not None:
            raise type(error)(*error.args)

    def _await(
        self, timeout_s: float | None, ready: Callable[[], bool], until: Callable[[], bool] | None = None
    ) -> bool:
        """Waits until `ready`; False when time is out, or when `until` says that nothing more will come."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self.turn()
            if ready():
                return True
            if until is not None and until():
                return False
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self._engine.perform()  # looking for records may have shown that something is to be done
            self._engine.wait(left)

    def await_positions(self, timeout_s: float, keys: list[tuple[str, int]] | None = None) -> None:
        """Waits until the positions (of all) are known, or time is out. Errors are left for the next poll."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._engine.turn()
            cursors = self._machine.cursors
            open_ones = [
                cursor
                for key in (cursors if keys is None else keys)
                if (cursor := cursors.get(key)) is not None and cursor.position is None and cursor.error is None
            ]
            left = deadline - time.monotonic()
            if not open_ones or left <= 0 or self._machine.fatal is not None:
                return
            self._engine.wait(left)

    # --- the hand ----------------------------------------------------------------------------------------------

    def _grab(self) -> bool:
        """Whether there are rows in hand, after taking the next ones if there were none."""
        if self._in_hand():
            return True
        self._settle_hand()
        if not self._engine.anything():
            return False
        turn = self._engine.next_turn(_all_columns, _ROWS_BYTES, records=True)
        if turn is None:
            return False
        cursor, layout, run, start, stop = turn
        rows: Rows | None = run.rows
        if rows is None:
            rows = rows_of(layout, cursor.partition, run, self._value_deserializer, self._key_deserializer)
            run.rows = rows
        self._hand = rows.messages(start, stop)
        self._after, self._next = rows.base_offset + 1, run.after_row(stop)
        self._end = self._next if run.offsets is None else int(run.offsets[stop - 1]) + 1
        self._cursor, self._drops = cursor, cursor.drops
        cursor.consumed_epoch = run.leader_epoch
        return True

    def _in_hand(self) -> bool:
        cursor = self._cursor
        return cursor is not None and cursor.position is not None and cursor.position < self._end

    def _settle_hand(self) -> None:
        """Once all in hand is handed out: gives its credit back."""
        cursor = self._cursor
        if cursor is not None and not self._in_hand():
            if cursor.position == self._end and cursor.drops == self._drops:
                cursor.position = self._next
            self.let_go()
            self._engine.perform()

    def let_go(self) -> None:
        """Puts down what is in hand; what was not handed out stays in the buffer."""
        cursor = self._cursor
        if cursor is not None and cursor.position is not None and cursor.drops == self._drops:
            self._machine.advance(cursor, cursor.position)
        self._forget_hand()

    def take_back(self, back_to: Callable[[Cursor, int], int]) -> None:
        """What the last call handed out counts as not handed out: its user could not make use of it.

        Args:
            back_to: where a cursor goes whose last hand-out began at an offset: its user may have made use of some.
        """
        cursor, before = self._cursor, dict(self._given)
        if not before and cursor is not None and cursor.position is not None and cursor.position >= self._after:
            before[cursor] = cursor.position - 1  # by `poll`, or by iteration
        for one, position in before.items():
            if position is not None:
                before[one] = back_to(one, position)
        self._put_back(before)
        self._given = {}

    def _put_back(self, before: dict[Cursor, int | None]) -> None:
        """What was taken and did not get out, since Ctrl-C came, is fetched again: these were the positions."""
        with Uninterrupted():
            self.let_go()
            for cursor, position in before.items():
                if position is not None and self._machine.cursors.get(cursor.key) is cursor:
                    self._machine.seek(cursor, position)

    def _forget_hand(self) -> None:
        self._hand, self._cursor = iter(()), None


def _empty(schema: pa.Schema) -> pa.Table:
    """No rows. (`Schema.empty_table` imports pandas, for a second.)"""
    return pa.Table.from_batches([], schema)
