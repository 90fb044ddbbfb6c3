"""A topic of ten columns, of which a reader wants some: a typed topic, read by columns or record by record.

The data is made from seeds, so that a reader can check what it got: batch i is `columns_table(rows, i % DISTINCT)`.
Lengths of strings are multiples of 4, so that sums do not depend on how tables are cut (`payload.touch`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayqueue.admin import AdminClient
from rayqueue.consumer import Consumer
from rayqueue.message import Message
from rayqueue.perf.payload import SUM_BELOW, touch
from rayqueue.producer import Producer

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
        ("amount", pa.float64()),
        ("distance", pa.float32()),
        ("number", pa.int32()),
        ("level", pa.int8()),
        ("flag", pa.bool_()),
        ("code", pa.string()),
        ("name", pa.string()),
        ("token", pa.string()),
    ]
)
# What readers ask for, by how many columns it is.
COLUMNS: dict[int, list[str]] = {1: ["amount"], 3: ["at", "amount", "code"], 10: SCHEMA.names}
DISTINCT = 4
BATCHES_WAITING_MAX = 64
ACK_TIMEOUT_S = 60.0
SILENCE_MAX_S = 30.0
NUM_MESSAGES = 500


def columns_table(rows: int, seed: int) -> pa.Table:
    """Ten columns of random values: about 95 bytes a row that do not compress much."""
    random = np.random.default_rng(seed)
    words = random.integers(2, 5, rows)
    values = [
        pa.array(random.integers(0, 1 << 62, rows)),
        pa.array(random.integers(0, 1 << 50, rows)).cast(SCHEMA.field("at").type),
        pa.array(random.random(rows)),
        pa.array(random.random(rows, dtype=np.float32)),
        pa.array(random.integers(-(1 << 31), 1 << 31, rows, dtype=np.int32)),
        pa.array(random.integers(-128, 128, rows, dtype=np.int8)),
        pa.array(random.integers(0, 2, rows).astype(bool)),
        _strings(random, np.full(rows, 4)),
        _strings(random, words * 4),
        _strings(random, np.full(rows, 32)),
    ]
    return pa.Table.from_arrays(values, schema=SCHEMA)


def _strings(random: np.random.Generator, lengths: Any) -> pa.Array:
    """Random letters a to z, of these lengths."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=ends[1:])
    letters = random.integers(97, 123, int(ends[-1]), dtype=np.uint8)
    return pa.Array.from_buffers(pa.string(), len(lengths), [None, pa.py_buffer(ends), pa.py_buffer(letters)])


def batches(rows: int, count: int) -> Iterator[pa.Table]:
    """The batches of a topic, in order."""
    tables = [columns_table(rows, seed) for seed in range(min(DISTINCT, count))]
    for number in range(count):
        yield tables[number % DISTINCT]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as JSON can carry them: times are whole microseconds."""
    at = table.schema.get_field_index("at")
    return table.set_column(at, "at", table["at"].cast(pa.int64())).to_pylist()


def touch_columns(table: pa.Table) -> int:
    """Reads every byte of every column and returns a sum below SUM_BELOW, the same however the table is cut."""
    total = 0
    for column in table.columns:
        kind = column.type
        if pa.types.is_string(kind):
            total += touch(column)
        elif pa.types.is_boolean(kind):
            total += pc.sum(column, min_count=0).as_py()
        else:
            whole = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[kind.bit_width]
            total += sum(pc.sum(chunk.view(whole), min_count=0).as_py() for chunk in column.chunks)
    return total % SUM_BELOW


def check_equal(found: Sequence[pa.Table], rows: int, count: int) -> None:
    """Raises AssertionError unless these tables together are the batches that were written, in order."""
    read = pa.concat_tables(found).select(SCHEMA.names).cast(SCHEMA)
    if not read.equals(pa.concat_tables(list(batches(rows, count)))):
        raise AssertionError(f"{read.num_rows} rows read are not the {rows * count} that were written")


class ColumnsIn:
    """Makes the typed topic, with one replica, and fills it.

    Args:
        client: the connection's settings.
        topic: its name; it must not exist.
    """

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        self._client = client
        self._topic = topic

    def fill(self, rows: int, count: int, by_row: bool) -> int:
        """Creates the topic and writes `count` batches of `rows` records; returns their bytes in Arrow's memory.

        Args:
            by_row: record by record, each a dict, else batch by batch. The log is the same.
        """
        size = 0
        waiting: deque[Any] = deque()
        with AdminClient(**self._client) as admin:
            admin.create_topic(self._topic, 1, replication_factor=1, schema=SCHEMA)
        with Producer(**self._client) as producer:
            for table in batches(rows, count):
                size += table.nbytes
                if by_row:
                    waiting.extend(producer.produce(self._topic, row) for row in table.to_pylist())
                else:
                    waiting.append(producer.produce_batch(self._topic, table))
                while len(waiting) > (rows if by_row else BATCHES_WAITING_MAX):
                    waiting.popleft().result(ACK_TIMEOUT_S)
            for future in waiting:
                future.result(ACK_TIMEOUT_S)
        return size

    def drop(self) -> None:
        """Deletes the topic."""
        with AdminClient(**self._client) as admin:
            admin.delete_topic(self._topic)

    def close(self) -> None:
        """Nothing is open between the calls."""


class ColumnsOut:
    """A reader of the topic, from its beginning at each call.

    Args:
        client: the connection's settings.
        topic: of `ColumnsIn`.
        tuning: settings of the consumer.
    """

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        self._consumer = Consumer(topic, **{"auto_offset_reset": "earliest", **client, **tuning})

    def read(self, columns: list[str], records: int) -> dict[str, float]:
        """Reads these columns of so many records by `iter_batches(columns=)` and touches every byte of them.

        Returns:
            seconds, and the sum.
        """
        total = 0
        began = time.perf_counter()
        for table in self._tables(columns, records):
            total += touch_columns(table)
        return {"seconds": time.perf_counter() - began, "sum": total % SUM_BELOW}

    def check(self, rows: int, count: int) -> None:
        """Reads everything and raises AssertionError unless it is what was written, in order."""
        check_equal(list(self._tables(SCHEMA.names, rows * count)), rows, count)

    def check_rows(self, rows: int, count: int) -> None:
        """As `check`, record by record."""
        found = [message.value for messages in self._messages(rows * count) for message in messages]
        check_equal([pa.Table.from_pylist(found, schema=SCHEMA)], rows, count)

    def _tables(self, columns: list[str], records: int) -> Iterator[pa.Table]:
        self._consumer.seek_to_beginning()
        seen = 0
        for table in self._consumer.iter_batches(columns=columns, stop_at="latest"):
            yield table
            seen += table.num_rows
        if seen != records:
            raise AssertionError(f"{seen} of {records} records are there")

    def read_rows(self, columns: list[str], records: int) -> dict[str, float]:
        """Reads record by record with `consume(500)`; each value is a dict, of which these columns are looked at.

        Returns:
            seconds, and the sum of the column `amount`.
        """
        total = 0.0
        amount = columns.index("amount")
        began = time.perf_counter()
        for messages in self._messages(records):
            for message in messages:
                row = message.value
                total += [row[name] for name in columns][amount]
        return {"seconds": time.perf_counter() - began, "sum": total}

    def _messages(self, records: int) -> Iterator[list[Message]]:
        self._consumer.seek_to_beginning()
        seen = 0
        while seen < records:
            messages = self._consumer.consume(min(NUM_MESSAGES, records - seen), timeout=SILENCE_MAX_S)
            if not messages:
                raise TimeoutError(f"{seen} of {records} records, then nothing for {SILENCE_MAX_S:g} s")
            seen += len(messages)
            yield messages

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()
