"""The roles of reading some of ten columns that confluent-kafka plays, as rayqueue's (`rayqueue.perf.columns`).

By columns: a message is an Arrow IPC stream; all of it is fetched, and the columns are picked afterwards. By rows: a
message is a JSON document, as Kafka's users have them; the time is whole microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.peers.kafka_clients import Lifeline, Receiving, Sending, ipc_stream, settings, value_of
from rayqueue.perf.columns import SCHEMA, batches, check_equal, plain_rows, touch_columns
from rayqueue.perf.payload import SUM_BELOW

ADMIN_TIMEOUT_S = 30.0
NUM_MESSAGES = 1000


class ColumnsIn:
    """Makes a topic and fills it."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        """The topic must not exist."""
        self._client = client
        self._topic = topic
        self._admin = AdminClient(settings(client, Lifeline(client["bootstrap_servers"])))

    def fill(self, rows: int, count: int, by_row: bool) -> int:
        """Creates the topic and writes `count` batches of `rows` records; returns their bytes in Arrow's memory.

        Args:
            by_row: a JSON document a record, else an IPC stream a batch.
        """
        size = 0
        self._admin.create_topics([NewTopic(self._topic, 1, 1)])[self._topic].result(ADMIN_TIMEOUT_S)
        sending = Sending(self._client, message_max_bytes=self._client["message_bytes_max"])
        try:
            for table in batches(rows, count):
                size += table.nbytes
                values = [json.dumps(row).encode() for row in plain_rows(table)] if by_row else [ipc_stream(table)]
                for value in values:
                    sending.produce_waiting(self._topic, value)
                    sending.producer.poll(0)
            sending.flush()
        finally:
            sending.close()
        return size

    def drop(self) -> None:
        """Deletes the topic."""
        self._admin.delete_topics([self._topic])[self._topic].result(ADMIN_TIMEOUT_S)

    def close(self) -> None:
        """An AdminClient has nothing to close."""


class ColumnsOut:
    """A reader of the topic, from its beginning at each call."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Receiving`."""
        self._receiving = Receiving(client, topic, **tuning)

    def read(self, columns: list[str], records: int) -> dict[str, float]:
        """Fetches so many records whole, picks these columns, and touches every byte of them.

        Returns:
            seconds, and the sum.
        """
        total = 0
        self._receiving.settle()
        began = time.perf_counter()
        for table in self._tables(records):
            total += touch_columns(table.select(columns))
        took = time.perf_counter() - began
        self._receiving.rest()
        return {"seconds": took, "sum": total % SUM_BELOW}

    def check(self, rows: int, count: int) -> None:
        """Reads everything and raises AssertionError unless it is what was written, in order."""
        check_equal(list(self._tables(rows * count)), rows, count)
        self._receiving.rest()

    def _tables(self, records: int) -> Iterator[pa.Table]:
        self._receiving.rewind()
        seen = 0
        while seen < records:
            table = pa.ipc.open_stream(pa.py_buffer(value_of(self._receiving.poll()))).read_all()
            seen += table.num_rows
            yield table

    def read_rows(self, columns: list[str], records: int) -> dict[str, float]:
        """Reads JSON documents, `consume(1000)` at a time, and looks at these columns of each.

        Returns:
            seconds, and the sum of the column `amount`.
        """
        total = 0.0
        amount = columns.index("amount")
        self._receiving.settle()
        began = time.perf_counter()
        for messages in self._messages(records):
            for message in messages:
                row = json.loads(value_of(message))
                total += [row[name] for name in columns][amount]
        took = time.perf_counter() - began
        self._receiving.rest()
        return {"seconds": took, "sum": total}

    def check_rows(self, rows: int, count: int) -> None:
        """As `check`, of JSON documents."""
        found = [json.loads(value_of(message)) for messages in self._messages(rows * count) for message in messages]
        check_equal([pa.Table.from_pylist(found, schema=SCHEMA)], rows, count)
        self._receiving.rest()

    def _messages(self, records: int) -> Iterator[list[Message]]:
        self._receiving.rewind()
        seen = 0
        while seen < records:
            # Never more than there are: it would wait for them until its timeout.
            messages = self._receiving.consume(min(NUM_MESSAGES, records - seen))
            seen += len(messages)
            yield messages

    def close(self) -> None:
        """Closes the consumer."""
        self._receiving.close()
