"""The roles of draining a backlog that confluent-kafka plays, as rayqueue's (`rayqueue.perf.drain`).

The pace, and what "caught up" means, are the same code. Acks come by callbacks on a thread that sits in `poll`, so that
an ack is noted when it comes and not when the next record is due.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from benchmarks.peers.kafka_clients import METADATA_TIMEOUT_S, Receiving, Sending, ipc_stream, value_of
from rayqueue.perf.drain import Found, Pace, catch_up
from rayqueue.perf.payload import random_values, touch, touch_all, values_table

POLL_S = 0.1
NUM_MESSAGES = 1000
# `consume` waits out its timeout when fewer messages come than it was asked for: what is fresh must not grow old in it.
CONSUME_WAIT_S = 0.02

Acked: TypeAlias = Callable[[Exception | None], None]


class Pacer:
    """A producer that keeps to a pace."""

    def __init__(self, client: Mapping[str, Any], topic: str, **tuning: Any) -> None:
        """See `Sending`."""
        self._sending = Sending(client, **{"message_max_bytes": client["message_bytes_max"], **tuning})
        self._topic = topic
        self._pace: Pace | None = None
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="poll", daemon=True)
        self._poller.start()

    def batches(self, rows: int, value_bytes: int, rate: float) -> None:
        """Begins to produce tables of `rows` values, one a message, `rate` records a second, until `stop`."""
        table = values_table(rows, value_bytes)
        self._warm(ipc_stream(table))
        self._pace = Pace(lambda acked: self._produce(ipc_stream(table), acked), rate / rows)

    def rows(self, group: int, value_bytes: int, rate: float) -> None:
        """Begins to produce records one by one; the last one of each `group` is the one whose ack is timed."""
        values = random_values(group, value_bytes)
        produce_waiting = self._sending.produce_waiting

        def send(acked: Acked) -> None:
            for value in values[:-1]:
                produce_waiting(self._topic, value)
            self._produce(values[-1], acked)

        self._warm(values[0])
        self._pace = Pace(send, rate / group)

    def _warm(self, value: bytes | pa.Buffer) -> None:
        self._sending.produce_waiting(self._topic, value)
        self._sending.flush()

    def _produce(self, value: bytes | pa.Buffer, acked: Acked) -> None:
        """Produces one record, and tells of its ack."""
        sending = self._sending

        def delivered(error: KafkaError | None, message: Message) -> None:
            sending.on_delivery(error, message)
            acked(None if error is None else KafkaException(error))

        sending.produce_waiting(self._topic, value, delivered)

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._sending.producer.poll(POLL_S)

    def stop(self) -> list[tuple[int, float]]:
        """Ends the producing; see `Pace.stop`."""
        assert self._pace is not None, "nothing was begun"
        pace, self._pace = self._pace, None
        return pace.stop(self._sending.flush)

    def close(self) -> None:
        """Closes the producer, and ends the producing if nobody did."""
        if self._pace is not None:
            self.stop()
        self._closing.set()
        self._poller.join()
        self._sending.close()


class Drainer:
    """A consumer of a topic of one partition, which begins behind and catches up."""

    def __init__(self, client: Mapping[str, Any], topic: str, num_messages: int = NUM_MESSAGES, **tuning: Any) -> None:
        """See `Receiving`; `num_messages`: of one `consume`."""
        self._receiving = Receiving(client, topic, **tuning)
        self._topic = topic
        self._num_messages = num_messages

    def arrow(self, behind: int, rows: int, timeout_s: float) -> dict[str, Any]:
        """Reads messages that hold `rows` records each, from `behind` records before the end until it has caught up.

        Returns, raises: as `rayqueue.perf.drain.catch_up`, in records.
        """
        found = self._drain(behind // rows, timeout_s, self._table)
        return {**found, "records": found["records"] * rows}

    def rows(self, behind: int, timeout_s: float) -> dict[str, Any]:
        """The same of single records, by `consume`."""
        return self._drain(behind, timeout_s, self._messages)

    def _drain(self, behind: int, timeout_s: float, read: Callable[[], Found | None]) -> dict[str, Any]:
        consumer = self._receiving.consumer
        _, end = consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=METADATA_TIMEOUT_S)
        start = end - behind
        self._receiving.settle()
        begin = partial(consumer.assign, [TopicPartition(self._topic, 0, start)])
        found = catch_up(begin, read, start, end, timeout_s)
        self._receiving.rest()
        return found

    def _table(self) -> Found | None:
        message = self._receiving.consumer.poll(POLL_S)
        if message is None:
            return None
        table = pa.ipc.open_stream(pa.py_buffer(value_of(message))).read_all()
        return message.offset(), message.offset(), 1, message.timestamp()[1], touch(table["value"])

    def _messages(self) -> Found | None:
        messages = self._receiving.consumer.consume(self._num_messages, CONSUME_WAIT_S)
        if not messages:
            return None
        total = touch_all([value_of(message) for message in messages])
        newest = messages[-1]
        return messages[0].offset(), newest.offset(), len(messages), newest.timestamp()[1], total

    def close(self) -> None:
        """Closes the consumer."""
        self._receiving.close()
