"""How a topic's log looks as a table: which columns there are and where they come from."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.messages import TopicInfo
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, TIMESTAMP_TYPE, deserialize_schema

PLACE = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", TIMESTAMP_TYPE, nullable=False),
    ]
)
_DEFAULT_ORDER = ("key", "headers", "value")
_COMPUTED = frozenset({"topic", "partition", "offset"})


class TopicLayout:
    """A topic's columns.

    Attributes:
        topic: its name. typed: whether it has columns of its own. key_column: the one that is the key, or "".
        plain: whether its batches have the default schema.
        log_schema: of the batches in the log.
        table_schema: topic, partition, offset, timestamp, then key, headers, value or the typed columns.
        value_columns: the columns of a typed topic's value.
        kind: tables of topics of one kind can be joined.
    """

    def __init__(self, info: TopicInfo) -> None:
        self.topic = info.name
        self.typed = info.typed
        self.key_column = info.key_column
        self.log_schema = deserialize_schema(info.schema) if info.schema else DEFAULT_SCHEMA
        self.plain = not self.typed and self.log_schema.equals(DEFAULT_SCHEMA)
        if self.typed:
            self.value_columns = [name for name in self.log_schema.names if name != "timestamp"]
        else:
            self.value_columns = list(_DEFAULT_ORDER)
        self.table_schema = pa.schema([*PLACE, *(self.log_schema.field(name) for name in self.value_columns)])
        self.kind = info.schema if self.typed else b""
        self._projections: dict[tuple[str, ...] | None, Projection] = {}

    def project(self, columns: Sequence[str] | None) -> Projection:
        """The wanted columns, in the order given; None for all.

        Raises:
            SchemaMismatch: the topic has no such column.
        """
        key = None if columns is None else tuple(columns)
        found = self._projections.get(key)
        if found is None:
            found = self._projections[key] = Projection(self, key)
        return found


class Projection:
    """Some columns of a topic.

    Attributes:
        schema: of the resulting table. stored: the columns read from the log, in any order; None: all it has.
    """

    def __init__(self, layout: TopicLayout, columns: tuple[str, ...] | None) -> None:
        names = layout.table_schema.names
        if columns is None:
            columns = tuple(names)
        missing = [name for name in columns if name not in names]
        if missing:
            raise SchemaMismatch(
                f"topic {layout.topic!r} has no column {', '.join(map(repr, missing))}; "
                f"its columns are {', '.join(names)}"
            )
        self.schema = pa.schema([layout.table_schema.field(name) for name in columns])
        stored = tuple(name for name in columns if name not in _COMPUTED)
        self.stored = None if len(stored) == len(layout.log_schema) else stored


DEFAULT_TABLE_SCHEMA = pa.schema([*PLACE, *(DEFAULT_SCHEMA.field(name) for name in _DEFAULT_ORDER)])
