"""The roles of full speed that confluent-kafka plays: rows and Arrow batches in, rows and Arrow batches out.

A producer polls after every `produce` and waits in `poll` when its queue is full (BufferError), as the documentation
advises; each record's delivery is counted by a callback. A batch of Arrow is one message that holds an IPC stream (the
steelman: Kafka as the transport of Arrow), written into a buffer that `produce` takes without another copy in Python,
and opened without one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException

from benchmarks.peers.kafka_clients import QUEUE_FULL_WAIT_S, Receiving, Sending, ipc_stream, value_of, values_of
from rayqueue.perf.payload import SUM_BELOW, random_values, touch, touch_all, values_table

DISTINCT = 1000
NUM_MESSAGES = 1000


class RowsIn:
    """One producer that sends records one by one, each with its delivery callback."""

    def __init__(self, client: Mapping[str, Any], poll_every: int = 1, **tuning: Any) -> None:
        """See `Sending`; `poll_every`: records between two calls of `poll`, 1 as the documentation advises."""
        self._sending = Sending(client, **tuning)
        self._poll_every = poll_every

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        """Produces until time or records are used up, and waits for every ack.

        Args:
            topic: gets one record more, before the time begins: it connects, and warms the path.

        Returns:
            records acked, and the seconds from the first call to the last ack.
        """
        sending, values = self._sending, random_values(DISTINCT, value_bytes)
        sending.produce_waiting(topic, values[0])
        sending.flush()
        groups = [values[start : start + self._poll_every] for start in range(0, DISTINCT, self._poll_every)]
        sending.acked = sent = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent < records_max:
            count = min(DISTINCT, records_max - sent)
            self._produce(topic, groups if count == DISTINCT else [values[:count]])
            sent += count
        sending.flush()
        took = time.perf_counter() - began
        if sending.acked != sent:
            raise AssertionError(f"kafka: {sent} records sent, {sending.acked} acked")
        return {"records": sent, "seconds": took}

    def _produce(self, topic: str, groups: list[list[bytes]]) -> None:
        sending = self._sending
        produce, poll, on_delivery = sending.producer.produce, sending.producer.poll, sending.on_delivery
        for group in groups:
            for value in group:
                try:
                    produce(topic, value, on_delivery=on_delivery)
                except BufferError:
                    sending.produce_waiting(topic, value)
            poll(0)

    def close(self) -> None:
        """Closes the producer."""
        self._sending.close()


class RowsInBatches(RowsIn):
    """The same by `produce_batch`, which takes a list of records and saves most of Python's part in each.

    Its list of messages is made once and given again and again: what a user's own would cost is not counted.
    """

    def __init__(self, client: Mapping[str, Any], batch: int = DISTINCT, **tuning: Any) -> None:
        """See `Sending`; `batch`: records of one call."""
        super().__init__(client, batch, **tuning)
        self._messages: dict[bytes, list[dict[str, Any]]] = {}  # by the first value of a group, of random bytes

    def _produce(self, topic: str, groups: list[list[bytes]]) -> None:
        sending = self._sending
        for group in groups:
            messages = self._messages.get(group[0], [])
            if len(messages) != len(group):
                messages = self._messages[group[0]] = [{"value": value} for value in group]
            left = messages
            while sending.producer.produce_batch(topic, left, on_delivery=sending.on_delivery) < len(left):
                left = [message for message in left if _not_queued(message)]
                sending.producer.poll(QUEUE_FULL_WAIT_S)
                sending.lifeline.check()
            sending.producer.poll(0)


def _not_queued(message: dict[str, Any]) -> bool:
    """Whether there was no room for it; raises KafkaException when that is not why."""
    error = message.pop("_error", None)
    if error is not None and error.code() != KafkaError._QUEUE_FULL:
        raise KafkaException(error)
    return error is not None


class BatchesIn:
    """One producer that sends Arrow tables, an IPC stream a message."""

    def __init__(self, client: Mapping[str, Any], **tuning: Any) -> None:
        """See `Sending`."""
        room = {"message_max_bytes": client["message_bytes_max"]}
        self._sending = Sending(client, **{**room, **tuning})

    def run(
        self,
        topic: str,
        rows: int,
        value_bytes: int,
        seconds: float,
        bytes_max: float = math.inf,
        records_max: float = math.inf,
    ) -> dict[str, float]:
        """Produces one table of `rows` values again and again until time, bytes or records are used up.

        Args:
            topic: gets one batch more, before the time begins: it connects, and warms the path.

        Returns:
            records acked, and the seconds from the first call to the last ack. Each message is serialized anew.
        """
        sending, table = self._sending, values_table(rows, value_bytes)
        sending.produce_waiting(topic, ipc_stream(table))
        sending.flush()
        sending.acked = messages = sent = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent * value_bytes < bytes_max and sent < records_max:
            part = table if sent + rows <= records_max else table.slice(0, int(records_max - sent))
            sending.produce_waiting(topic, ipc_stream(part))
            sending.producer.poll(0)
            messages += 1
            sent += part.num_rows
        sending.flush()
        took = time.perf_counter() - began
        if sending.acked != messages:
            raise AssertionError(f"kafka: {messages} messages sent, {sending.acked} acked")
        return {"records": sent, "seconds": took}

    def close(self) -> None:
        """Closes the producer."""
        self._sending.close()


class RowsOut:
    """A reader of records, `consume(1000)` at a time."""

    def __init__(self, client: Mapping[str, Any], topic: str, num_messages: int = NUM_MESSAGES, **tuning: Any) -> None:
        """See `Receiving`; `num_messages`: of one `consume`."""
        self._receiving = Receiving(client, topic, **tuning)
        self._num_messages = num_messages

    def run(self, records: int) -> dict[str, float]:
        """Reads the topic from its beginning until `records` are there, and touches all their values.

        Returns:
            records, seconds, and the sum of the values (`payload.touch_all`).
        """
        receiving = self._receiving
        seen = total = 0
        receiving.settle()
        began = time.perf_counter()
        receiving.rewind()
        while seen < records:
            # Never more than there are: it would wait for them until its timeout.
            messages = receiving.consume(min(self._num_messages, records - seen))
            total += touch_all(values_of(messages))
            seen += len(messages)
        took = time.perf_counter() - began
        receiving.rest()
        return {"records": seen, "seconds": took, "sum": total % SUM_BELOW}

    def close(self) -> None:
        """Closes the consumer."""
        self._receiving.close()


class ArrowOut:
    """A reader of messages that hold Arrow IPC streams, which it opens without a copy."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Receiving`."""
        self._receiving = Receiving(client, topic, **tuning)

    def run(self, records: int) -> dict[str, float]:
        """Reads the topic from its beginning until `records` rows are there, and touches every byte of their values.

        Returns:
            records, seconds, and the sum of the values (`payload.touch`).
        """
        receiving = self._receiving
        seen = total = 0
        receiving.settle()
        began = time.perf_counter()
        receiving.rewind()
        while seen < records:
            table = pa.ipc.open_stream(pa.py_buffer(value_of(receiving.poll()))).read_all()
            if seen + table.num_rows > records:
                table = table.slice(0, records - seen)
            total += touch(table["value"])
            seen += table.num_rows
        took = time.perf_counter() - began
        receiving.rest()
        return {"records": seen, "seconds": took, "sum": total % SUM_BELOW}

    def close(self) -> None:
        """Closes the consumer."""
        self._receiving.close()
