"""Where consumed records go: text or JSON lines on a stream, or a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from rayqueue.cli.record_format import Render, Row, textual
from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.schemas import RESERVED_COLUMNS

# The key column of a topic by its name, "" where it has none.
KeyColumn = Callable[[str], str]


class Sink(Protocol):
    """Takes tables as `Consumer.consume_arrow` gives them."""

    def write(self, table: pa.Table) -> None:
        """Writes the table's records and flushes."""

    def finish(self) -> None:
        """All is written, or the user has had enough: what was written stays."""

    def abandon(self) -> None:
        """Something failed: leave nothing half done."""


class LineSink:
    """Records on a stream of bytes, each rendered by itself."""

    def __init__(
        self, stream: IO[bytes], render: Render, close: bool = False, key_column: KeyColumn | None = None
    ) -> None:
        """close: whether `finish` closes the stream. key_column: asked about typed topics."""
        self._key_column = key_column
        self._stream = stream
        self._render = render
        self._close = close

    def write(self, table: pa.Table) -> None:
        self._stream.write(b"".join([self._render(row) for row in rows(table, self._key_column)]))
        self._stream.flush()

    def finish(self) -> None:
        if self._close:
            self._stream.close()

    def abandon(self) -> None:
        self.finish()


class ParquetSink:
    """One Parquet file. It appears under its name when it is whole; until then it is called `<name>.partial`."""

    def __init__(self, path: Path | None, stream: IO[bytes] | None = None) -> None:
        """path: the file; or stream: where its bytes go."""
        self._path = path
        self._partial = None if path is None else path.with_name(path.name + ".partial")
        self._stream = stream
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(str(self._partial) if self._partial else self._stream, table.schema)
            self._schema = table.schema
        if not table.schema.equals(self._schema):
            raise SchemaMismatch(
                "these topics have different columns, and a Parquet file has one schema: write one by one"
            )
        self._writer.write_table(table)

    def finish(self) -> None:
        if self._writer is None:
            self.abandon()
            return
        self._writer.close()
        self._writer = None
        if self._path is not None and self._partial is not None:
            os.replace(self._partial, self._path)

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._partial is not None:
            # It may also be there without a writer: Ctrl-C came while that was being made.
            self._partial.unlink(missing_ok=True)


def rows(table: pa.Table, key_column: KeyColumn | None = None) -> Iterator[Row]:
    """The table's records one by one; the value of a typed topic is a dict of its columns, its key one of them."""
    names = table.column_names
    columns = {name: _values(table, name) for name in ("topic", "partition", "offset", "key", "headers")}
    if key_column is not None and not _is_plain(table):
        columns["key"] = _typed_keys(table, columns["topic"], key_column)
    stamps = table["timestamp"].cast(pa.int64()).to_pylist()
    own = [name for name in names if name not in RESERVED_COLUMNS]
    values = table["value"].to_pylist() if _is_plain(table) else _objects(table.select(own))
    return map(
        Row,
        columns["topic"],
        columns["partition"],
        columns["offset"],
        stamps,
        columns["key"],
        values,
        columns["headers"],
    )


def _typed_keys(table: pa.Table, topics: list[str], key_column: KeyColumn) -> list[Any]:
    """Topics with the same columns may stand in one table, each with a key column of its own."""
    named = {topic: key_column(topic) for topic in set(topics)}
    keys = {column: table[column].to_pylist() for column in set(named.values()) if column}
    return [keys[named[topic]][row] if named[topic] else None for row, topic in enumerate(topics)]


def _objects(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a typed topic; bytes as text where they are text, so that JSON shows them as people wrote them."""
    objects: list[dict[str, Any]] = table.to_pylist()
    for name in [field.name for field in table.schema if _is_bytes(field.type)]:
        for row in objects:
            row[name] = textual(row[name])
    return objects


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _values(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def _is_plain(table: pa.Table) -> bool:
    """Whether these are records of a topic without columns of its own (a typed one may call a column `value`)."""
    own = [name for name in table.column_names if name not in RESERVED_COLUMNS]
    return own == ["value"] and pa.types.is_binary(table.schema.field("value").type)
