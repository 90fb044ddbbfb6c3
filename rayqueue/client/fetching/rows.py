"""Opened batches seen as records: Python values, made a column at a time when the first record asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

import pyarrow as pa

from rayqueue.client.deserializers import Deserializer
from rayqueue.client.fetching.chunk import Run
from rayqueue.client.fetching.layout import TopicLayout
from rayqueue.errors import SerializationError
from rayqueue.message import LazyMessage, Message
from rayqueue.protocol.small_batches import Records
from rayqueue.types import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME

_UNMADE = object()


class Rows:
    """The records of a run.

    Attributes:
        topic, partition: where they stand. base_offset: of row 0.
        leader_epoch: under which they were written. timestamp_type: TIMESTAMP_CREATE_TIME or _LOG_APPEND_TIME.
        values, keys, headers, timestamps: by row; made once, all rows together (0.07 us a value).
    """

    def __init__(
        self,
        layout: TopicLayout,
        partition: int,
        run: Run,
        value_deserializer: Deserializer | None,
        key_deserializer: Deserializer | None,
    ) -> None:
        self.topic = layout.topic
        self.partition = partition
        self.base_offset = run.base_offset
        self.leader_epoch = run.leader_epoch
        self.timestamp_type = TIMESTAMP_LOG_APPEND_TIME if run.append_time else TIMESTAMP_CREATE_TIME
        self._layout = layout
        self._batches = run.batches
        self._value_deserializer = value_deserializer
        self._key_deserializer = key_deserializer
        self._lazy = layout.typed or value_deserializer is not None or key_deserializer is not None
        if run.records is not None:
            self._take(run.records)

    def _take(self, records: Records) -> None:
        """The columns are there as they are wanted: nothing is left to be made when the first record asks."""
        keys, values, headers, self.timestamps = records
        read_value, read_key = self._value_deserializer, self._key_deserializer
        self.keys = keys if read_key is None else Made(self, keys, read_key, "key")
        self.values = values if read_value is None else Made(self, values, read_value, "value")
        self.headers = [[] for _ in values] if headers is None else headers

    def messages(self, start: int, stop: int) -> Iterator[Message]:
        """Rows [start, stop) as messages. Each is made, in C, when it is taken."""
        rows = range(start, stop)
        if self._lazy:
            return map(LazyMessage, repeat(self), rows)
        return map(Message, repeat(self), rows, self.keys[start:stop], self.values[start:stop])

    def offset_of(self, row: int) -> int:
        """The offset of a row."""
        return self.base_offset + row

    @cached_property
    def values(self) -> Any:
        """bytes | None, or what the deserializer makes; on a typed topic a dict."""
        if self._layout.typed:
            return pa.Table.from_batches(self._batches).select(self._layout.value_columns).to_pylist()
        values = self._column("value")
        return values if self._value_deserializer is None else Made(self, values, self._value_deserializer, "value")

    @cached_property
    def keys(self) -> Any:
        """bytes | None, or what the deserializer makes; on a typed topic its key column's value."""
        if self._layout.typed:
            name = self._layout.key_column
            return self._column(name) if name else [None] * sum(batch.num_rows for batch in self._batches)
        keys = self._column("key")
        return keys if self._key_deserializer is None else Made(self, keys, self._key_deserializer, "key")

    @cached_property
    def headers(self) -> list[list[tuple[str, bytes | None]]]:
        """(name, value) pairs, in order; [] where there are none."""
        if self._layout.typed:
            return [[] for batch in self._batches for _ in range(batch.num_rows)]
        return [pairs or [] for pairs in self._column("headers")]

    @cached_property
    def timestamps(self) -> Sequence[int]:
        """ms since the epoch."""
        found: list[int] = []
        for batch in self._batches:
            found += batch.column("timestamp").view(pa.int64()).to_pylist()
        return found

    def _column(self, name: str) -> list[Any]:
        found: list[Any] = []
        for batch in self._batches:
            column = batch.column(name)
            found += [None] * len(column) if column.null_count == len(column) else column.to_pylist()
        return found


class SparseRows(Rows):
    """The records of a run with holes. The row of a message is its offset's distance from `base_offset`, as it is where
    there are no holes: so who moves on after a message need not know. `_places` has it by the run's row."""

    def __init__(
        self,
        layout: TopicLayout,
        partition: int,
        run: Run,
        value_deserializer: Deserializer | None,
        key_deserializer: Deserializer | None,
    ) -> None:
        super().__init__(layout, partition, run, value_deserializer, key_deserializer)
        assert run.offsets is not None
        self._places: list[int] = (run.offsets - run.base_offset).tolist()
        self._row_at = {place: row for row, place in enumerate(self._places)}

    def messages(self, start: int, stop: int) -> Iterator[Message]:
        """Rows [start, stop) as messages."""
        places = self._places[start:stop]
        if self._lazy:
            return map(LazyMessage, repeat(self), places)
        return map(Message, repeat(self), places, self.keys.rows[start:stop], self.values.rows[start:stop])

    def offset_of(self, row: int) -> int:
        """The offset of the run's row."""
        return self.base_offset + self._places[row]

    @cached_property
    def values(self) -> Any:
        """See Rows."""
        return _Placed(super().values, self._row_at)

    @cached_property
    def keys(self) -> Any:
        """See Rows."""
        return _Placed(super().keys, self._row_at)

    @cached_property
    def headers(self) -> Any:
        """See Rows."""
        return _Placed(super().headers, self._row_at)

    @cached_property
    def timestamps(self) -> Any:
        """See Rows."""
        return _Placed(super().timestamps, self._row_at)


class _Placed:
    """A column of rows, each found by its place."""

    __slots__ = ("_row_at", "rows")

    def __init__(self, rows: Any, row_at: dict[int, int]) -> None:
        self.rows = rows
        self._row_at = row_at

    def __getitem__(self, place: int) -> Any:
        return self.rows[self._row_at[place]]


def rows_of(
    layout: TopicLayout,
    partition: int,
    run: Run,
    value_deserializer: Deserializer | None,
    key_deserializer: Deserializer | None,
) -> Rows:
    """A run's records."""
    kind = Rows if run.offsets is None else SparseRows
    return kind(layout, partition, run, value_deserializer, key_deserializer)


class Made:
    """What a deserializer makes of a column: each once, when it is asked for."""

    __slots__ = ("_deserialize", "_made", "_raw", "_rows", "_what")

    def __init__(self, rows: Rows, raw: list[bytes | None], deserialize: Deserializer, what: str) -> None:
        self._rows = rows
        self._raw = raw
        self._made: list[Any] = [_UNMADE] * len(raw)
        self._deserialize = deserialize
        self._what = what

    def __getitem__(self, row: int) -> Any:
        made = self._made[row]
        if made is _UNMADE:
            made = self._made[row] = self._make(row)
        return made

    def _make(self, row: int) -> Any:
        raw = self._raw[row]
        if raw is None:
            return None
        try:
            return self._deserialize(raw)
        except Exception as error:
            rows = self._rows
            raise SerializationError(
                f"the {self._what} deserializer failed on {rows.topic}-{rows.partition} "
                f"offset {rows.offset_of(row)} ({len(raw)} bytes): {error}"
            ) from error
