"""The producer."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from datetime import datetime
from threading import get_ident
from time import time_ns
from types import TracebackType
from typing import Any

import numpy as np

from rayqueue.client.accumulator import RECORD_OVERHEAD, Chunk
from rayqueue.client.io.dicts import Encoding
from rayqueue.client.io.future import BatchFuture, Receipt, RecordFuture
from rayqueue.client.io.pipeline import Pipeline
from rayqueue.client.io.producer_batches import TablePiece
from rayqueue.client.io.records import Delivery, Headers, OnDelivery, header_pairs, timestamp_ms
from rayqueue.client.io.tables import as_table, check_sizes, fit_table, pieces, too_large
from rayqueue.client.io.topics import ProducerTopic, call_partitioner
from rayqueue.client.serializers import serializer
from rayqueue.config.clients import ProducerConfig
from rayqueue.config.settings import merge
from rayqueue.errors import SchemaMismatch, UnknownTopicOrPartition

_NS_PER_MS = 1_000_000
_INTERRUPTED_FLUSH_S = 3.0
_SMALL = 64 * 1024  # a connection with nothing on its way takes so much at once, even if nobody reads it


def _wait_s(timeout: Any) -> float | None:
    """A timeout in seconds; None: for ever, for which confluent-kafka has -1."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.integer, np.floating)):
        raise TypeError(f"timeout is a number of seconds, or None for as long as it takes, not {timeout!r}")
    return float(timeout) if timeout >= 0 else None


class Producer:
    """Writes records to topics, from any process; idempotent and acked by all in-sync replicas unless told otherwise.

    Args:
        config: settings by Kafka's dotted names, such as {"linger.ms": 5}.
        **settings: the same as keyword arguments: linger_ms=5.

    Raises:
        ConfigError: a setting is unknown, malformed, or contradicts another.

    Nothing is connected before the first record. Safe for many threads. Use it in a `with` block, or `close` it: that
    waits until everything is delivered.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self._config = ProducerConfig.parse(merge(config, settings))
        self._serialize_value = serializer(self._config.value_serializer, "value")
        self._serialize_key = serializer(self._config.key_serializer, "key")
        self._encoding = Encoding(
            None if self._config.value_serializer is None else self._serialize_value,
            None if self._config.key_serializer is None else self._serialize_key,
        )
        self._pipeline = Pipeline(self._config)
        # What the hot path touches.
        self._fast = self._pipeline.fast
        self._lock = self._pipeline.lock

    # --- records ---------------------------------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> RecordFuture:
        """Sends one record, in the background.

        Args:
            topic: the topic's name.
            value: bytes, str (as UTF-8), None, or what `value_serializer` takes; on a typed topic a dict of columns.
            key: bytes, str, None, or what `key_serializer` takes. Keyed records of a key go to one partition, in order.
            partition: chosen by the caller; None: by the topic's (or the producer's own) partitioner.
            headers: pairs (or a dict) of str and bytes or str.
            timestamp: ms since the epoch, or a datetime (a naive one is local time, as always in Python); None: now.
            on_delivery: called as on_delivery(error or None, RecordMetadata) on a thread of the producer. After an
                error the metadata's offset is -1.

        Returns:
            A future; its `result()` is the RecordMetadata, or raises.

        Raises:
            UnknownTopicOrPartition: there is no such topic (the message has the command that creates it) or partition.
            RecordTooLarge, SerializationError, SchemaMismatch: the record cannot be taken; nothing was sent.
            BufferFull: `buffer.memory` stayed full for `max.block.ms`.
            BrokerNotAvailable, RequestTimeout: no broker told of the topic within `max.block.ms`.
        """
        try:
            chunk = self._fast[topic]
        except (KeyError, TypeError):
            return self._produce(topic, value, key, partition, headers, timestamp, on_delivery)
        if (
            type(value) is not bytes
            or chunk.owner != get_ident()
            or partition is not None
            or headers is not None
            or timestamp is not None
            or on_delivery is not None
        ):
            return self._produce(topic, value, key, partition, headers, timestamp, on_delivery)
        # This thread owns the chunk: see client.accumulator for why no lock is needed.
        size = len(value) + RECORD_OVERHEAD
        keys = chunk.keys
        if key is not None:
            if keys is None or type(key) is not bytes:
                return self._produce(topic, value, key)
            size += len(key)
        room = chunk.room - size
        if room < 0 or size > chunk.limit:
            return self._produce(topic, value, key)
        values = chunk.values
        index = len(values)
        try:
            if keys is not None:
                keys.append(key)
            chunk.times.append(time_ns())
            chunk.room = room
            values.append(value)
        except BaseException:
            self._take_back(chunk, index)
            raise
        if chunk.closed and self._missed(chunk, index):
            return self._produce(topic, value, key)
        return RecordFuture(chunk.receipt, index)

    send = produce

    def _produce(
        self,
        name: str,
        value: Any,
        key: Any,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> RecordFuture:
        """`produce` of all that is not plain bytes, of a chunk's first record, and when memory is short."""
        pipeline = self._pipeline
        pipeline.check_open()
        topic = pipeline.topic(name)
        time_at = time_ns() if timestamp is None else timestamp_ms(timestamp) * _NS_PER_MS
        if topic.typed:
            size, key = self._check_row(topic, value, key, headers)
        else:
            value, key = self._serialize_value(value), self._serialize_key(key)
            size = RECORD_OVERHEAD + (len(value) if value is not None else 0) + (len(key) if key is not None else 0)
        pairs = None
        if headers is not None:
            pairs = header_pairs(headers)
            size += sum(len(name.encode()) + len(data or b"") for name, data in pairs)
        if size > topic.record_max:
            raise too_large("the record", size, topic.record_max, name)
        number = self._partition(topic, key, partition)
        try:
            with self._lock:
                chunk = self._writable(topic, size)
                index = chunk.append(value, None if topic.typed else key, time_at, pairs, number, size)
                pipeline.accumulator.offer_fast(topic)
                if chunk.room <= 0:
                    pipeline.accumulator.close(topic)
            if index == 0 and chunk.room > 0 and size <= _SMALL:
                pipeline.send_now()
            elif index == 0 or chunk.room <= 0:
                pipeline.ring()
        except BaseException:
            pipeline.ring()  # Ctrl-C between a chunk's first record and this: those behind it would wake nobody
            raise
        future = RecordFuture(chunk.receipt, index)
        if on_delivery is not None:
            chunk.receipt.on_delivery(index, Delivery(on_delivery), future)
        return future

    def _writable(self, topic: ProducerTopic, size: int) -> Chunk:
        """The chunk that takes a record of `size` bytes; the caller holds the lock, which may be let go for a while."""
        pipeline = self._pipeline
        accumulator = pipeline.accumulator
        me = get_ident()
        while (chunk := accumulator.writable(topic, me, size)) is None:
            pipeline.check_not_closed()
            pipeline.reserve(size, roomy=topic.full_at)
            if topic.chunk is not None:
                continue  # another thread opened one while the lock was let go
            granted = accumulator.grant(topic, size)
            pipeline.memory.take(granted)
            receipt = Receipt(topic.name, pipeline.callbacks.run, trouble=pipeline.trouble)
            chunk = accumulator.open(topic, receipt, granted, me)
            receipt.rows = chunk.values
            pipeline.outstanding[receipt] = None
            return chunk
        return chunk

    def _missed(self, chunk: Chunk, index: int) -> bool:
        """Whether the chunk was closed before the record got in."""
        with self._lock:
            return index >= chunk.count

    def _take_back(self, chunk: Chunk, index: int) -> None:
        """Ctrl-C between two columns: the record was not taken. (If the chunk is closed, it is behind its end.)"""
        with self._lock:
            if not chunk.closed:
                chunk.truncate(index)

    def _check_row(self, topic: ProducerTopic, row: Any, key: Any, headers: Any) -> tuple[int, Any]:
        """The size and key of a typed topic's row."""
        size = RECORD_OVERHEAD + topic.checker.check(row)
        if headers is not None:
            raise SchemaMismatch(
                f"topic {topic.name!r} is typed and has no headers: leave them out, or make them a column"
            )
        own = row.get(topic.key_column) if topic.key_column is not None else None
        if key is not None and key != own:
            where = f"its key is the column {topic.key_column!r}" if topic.key_column else "it has no key column"
            raise SchemaMismatch(f"topic {topic.name!r} is typed and {where}: leave key= out")
        return size, row.get(topic.route_column) if topic.route_column is not None else None

    def _partition(self, topic: ProducerTopic, key: Any, partition: int | None) -> int:
        """The partition chosen by the caller or its own partitioner; -1: left to the topic."""
        if partition is None:
            return -1 if topic.function is None else call_partitioner(topic, key)
        if isinstance(partition, bool) or not isinstance(partition, (int, np.integer)):
            raise UnknownTopicOrPartition(f"a partition is a number from 0, not {partition!r}")
        if partition >= topic.partitions:
            self._pipeline.refresh_topic(topic)
        if not 0 <= partition < topic.partitions:
            raise UnknownTopicOrPartition(
                f"topic {topic.name!r} has partitions 0 to {topic.partitions - 1}, not {partition}: add some with "
                f"`rayqueue topic add-partitions {topic.name}`"
            )
        return int(partition)

    # --- tables ----------------------------------------------------------------------------------------------------

    def produce_batch(self, topic: str, data: Any, key_column: str | None = None) -> BatchFuture:
        """Sends many records at once, as columns.

        Args:
            topic: the topic's name.
            data: a pyarrow Table or RecordBatch, a pandas DataFrame, or a list of dicts. A typed topic has columns of
                its own; any other takes `value` and optionally `key`, `headers`, `timestamp`. Columns `topic,
                partition, offset, timestamp_type` are ignored. Values are cast where nothing is lost. A datetime
                without a zone in a dict is local time, as in `produce`; a timestamp column without one, of a table or
                DataFrame, is UTC. `value_serializer` and `key_serializer` are applied to the dicts' values and keys on
                a topic that is not typed; text and bytes columns of a table are sent as they are, others refused then.
            key_column: on a topic that is not typed, the column that holds the keys.

        Returns:
            One future; its result is a list of (partition, base_offset, count). Without keys all rows go to one
            partition, the next; with keys each to its own. Rows of `produce` calls before this one stay before them.

        Raises:
            SchemaMismatch: a column is missing, unknown, or of a type that does not fit.
            SerializationError: a serializer refused a value, or would be needed for a table; a timestamp as `produce`.
            RecordTooLarge: a row is above `max.message.bytes`; nothing was sent.
            UnknownTopicOrPartition, BufferFull: as `produce`.
        """
        pipeline = self._pipeline
        pipeline.check_open()
        state = pipeline.topic(topic)
        if state.typed and key_column is not None and key_column != state.key_column:
            raise SchemaMismatch(
                f"topic {topic!r} is typed, its key column is {state.key_column!r}, not {key_column!r}: leave "
                "key_column= out"
            )
        encoding = None if state.typed else self._encoding._replace(key_column=key_column)
        table = as_table(data, state.schema, topic, encoding)
        batch = fit_table(table, state.schema, topic, time_ns() // _NS_PER_MS, typed=state.typed, key_column=key_column)
        check_sizes(batch, state.record_max, topic)
        receipt = Receipt(topic, pipeline.callbacks.run, together=True, trouble=pipeline.trouble)
        if batch.num_rows == 0:
            receipt.place([])
            return BatchFuture(receipt)
        self._send_pieces(state, receipt, batch)
        return BatchFuture(receipt)

    def _send_pieces(self, topic: ProducerTopic, receipt: Receipt, batch: Any) -> None:
        pipeline = self._pipeline
        memory = pipeline.memory
        limit = min(self._config.max_request_size * topic.partitions, max(1, memory.limit // 4), 16 << 20)
        keyed = (
            topic.route_column is not None
            and batch.column(batch.schema.get_field_index(topic.route_column)).null_count < batch.num_rows
        )
        whole: list[int] | None = None if keyed and topic.partitioner.uses_keys else []
        explicit = None
        if topic.function is not None and keyed:
            keys = batch.column(batch.schema.get_field_index(topic.route_column)).to_pylist()
            explicit = np.array([call_partitioner(topic, key) for key in keys], dtype=np.int64)
        elif topic.function is not None:
            whole = [call_partitioner(topic, None)]
        start, rows = 0, batch.num_rows
        try:
            for piece in pieces(batch, limit):
                reserved = min(piece.nbytes + RECORD_OVERHEAD, memory.limit)
                chosen = None if explicit is None else explicit[start : start + piece.num_rows]
                with self._lock:
                    pipeline.reserve(reserved, block=start == 0)
                    memory.take(reserved)
                    pipeline.accumulator.close(topic)  # rows produced before stay before
                    pipeline.outstanding[receipt] = None
                    start += piece.num_rows
                    pipeline.accumulator.add(
                        TablePiece(
                            topic, receipt, piece, whole, chosen, reserved, start == rows, time.monotonic() * 1000
                        )
                    )
                pipeline.send_pieces(topic)
        except BaseException:
            if 0 < start < rows:
                with self._lock:
                    pipeline.accumulator.add(TablePiece(topic, receipt, None, whole, None, 0, True, -1.0))
                pipeline.ring()
            raise

    # --- the rest --------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> int:
        """Sends everything now and waits for the acks, and for the callbacks.

        Args:
            timeout: seconds; None or below 0: as long as it takes, which `delivery.timeout.ms` bounds.

        Returns:
            How many records are still undelivered.

        Raises:
            TypeError: the timeout is no number.
        """
        self._pipeline.cluster.check_process()
        return self._pipeline.flush(_wait_s(timeout))

    def poll(self, timeout: float = 0) -> int:
        """Does nothing: callbacks run by themselves. Here for those who come from confluent-kafka; returns 0."""
        return 0

    def close(self, timeout: float | None = None) -> int:
        """Flushes and ends the producer; a second call does nothing.

        Args:
            timeout: as `flush`.

        Returns:
            How many records were not delivered within `timeout` seconds; their futures fail.

        Raises:
            TypeError: the timeout is no number.
        """
        return self._pipeline.close(_wait_s(timeout))

    def __enter__(self) -> Producer:
        self._pipeline.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flushes and closes, after an exception too; after Ctrl-C it waits only a few seconds."""
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.close(_INTERRUPTED_FLUSH_S if interrupted else None)

    def __del__(self) -> None:
        pipeline = getattr(self, "_pipeline", None)
        if pipeline is None or pipeline.is_forked or pipeline.is_closed:
            return
        left = pipeline.undelivered()
        if left:
            warnings.warn(
                f"a Producer was forgotten with {left} records undelivered: close() it, or use a with block",
                ResourceWarning,
                stacklevel=2,
            )
        pipeline.close_when_flushed()

    def __reduce__(self) -> Any:
        raise TypeError("a Producer cannot be pickled: make one in the process that needs it, with the same settings")

    def __repr__(self) -> str:
        state = "closed, " if self._pipeline.is_closed else ""
        acks = "all" if self._config.acks == -1 else self._config.acks
        return f"<Producer {state}to {self._config.bootstrap_servers}, acks={acks}>"
