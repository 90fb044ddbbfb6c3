"""What a produced batch must pass before it may stand in a log: it comes from outside, and all consumers read it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import (
    CorruptRecord,
    InvalidRecord,
    InvalidTopic,
    ProtocolError,
    RecordTooLarge,
    SchemaMismatch,
)
from rayqueue.protocol.ipc import IpcMessage, inflated_size
from rayqueue.protocol.messages import (
    COMPRESSION_CODES,
    COMPRESSION_MASK,
    GROUP_PRODUCER_BASE,
    NO_PRODUCER,
    ProduceBatch,
)
from rayqueue.protocol.schemas import MAX_TIMESTAMP_MS


class BatchChecks:
    """The checks of one topic's batches; what can be known beforehand is.

    Args:
        schema: the topic's log schema, `timestamp` last.
        max_bytes: largest batch, decompressed: what a few bytes say must not fill the memory of all who read them.
        key_column: "" where there is none.
        internal: the topic is the cluster's own, so that only group coordinators write to it.
    """

    def __init__(self, schema: pa.Schema, max_bytes: int, key_column: str = "", internal: bool = False) -> None:
        self._schema = schema
        self._max_bytes = max_bytes
        self._internal = internal
        self._timestamp = len(schema) - 1
        self._key = schema.get_field_index(key_column)
        self._required = [i for i, field in enumerate(schema) if not field.nullable and i != self._timestamp]

    def check(self, batch: ProduceBatch, row: pa.Buffer, message: IpcMessage, crc: int, config: TopicConfig) -> None:
        """Checks a batch against its header and the topic.

        Args:
            batch: what the producer says of it.
            row: the whole IPC message; message: its parts; crc: what the CRC should be.
            config: the topic's settings.

        Raises:
            CorruptRecord: CRC or Arrow structure is damaged.
            SchemaMismatch: it does not have the topic's schema.
            InvalidRecord: a record has no key, and the topic is compacted.
            RecordTooLarge: a record is above `max.message.bytes`.
            ProtocolError: header and batch contradict each other.
            InvalidTopic: the topic is the cluster's own, and the batch somebody else's.
        """
        if self._internal and batch.producer_id < GROUP_PRODUCER_BASE:
            raise InvalidTopic("this topic is rayqueue's own: nobody else writes to it")
        if crc != batch.crc:
            raise CorruptRecord("the batch does not match its CRC32C: it was damaged on the way; send it again")
        if batch.record_count <= 0 or message.length != batch.record_count:
            raise ProtocolError(f"the batch has {message.length} rows, its request says {batch.record_count}")
        if batch.attributes & ~COMPRESSION_MASK or batch.attributes != COMPRESSION_CODES[message.codec]:
            raise ProtocolError(f"attributes {batch.attributes} do not fit a batch compressed with {message.codec}")
        if batch.producer_id != NO_PRODUCER and (batch.producer_epoch < 0 or batch.base_sequence < 0):
            raise ProtocolError("an idempotent batch needs a producer epoch and a sequence number")
        size = inflated_size(message)
        if size > self._max_bytes:
            raise RecordTooLarge(
                f"a batch of {size} bytes (decompressed) is above socket.request.max.bytes ({self._max_bytes})"
            )
        table = self._parse(row)
        self._check_times(table.column(self._timestamp), batch)
        if config.compacted and self._key >= 0 and (missing := table.column(self._key).null_count):
            raise InvalidRecord(
                f"{missing} of {batch.record_count} records have no key, and the topic is compacted "
                f"(cleanup.policy={config.cleanup_policy}): give every record a key"
            )
        if size > config.max_message_bytes:
            _check_records(table, config.max_message_bytes)

    def _parse(self, row: pa.Buffer) -> pa.RecordBatch:
        try:
            table = pa.ipc.read_record_batch(pa.ipc.read_message(row), self._schema)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            columns = ", ".join(self._schema.names)
            raise SchemaMismatch(f"not a valid record batch of the topic's columns ({columns}): {error}") from error
        for index in self._required:
            if table.column(index).null_count:
                name = self._schema.field(index).name
                raise SchemaMismatch(f"the column {name} has nulls, the topic's schema allows none")
        return table

    def _check_times(self, times: pa.Array, batch: ProduceBatch) -> None:
        if times.null_count:
            raise SchemaMismatch("the column timestamp has nulls: give every record a time, ms since the epoch")
        stamps = memoryview(times.buffers()[1])[: 8 * len(times)].cast("q")
        if len(stamps) == 1:
            low = high = stamps[0]
        else:
            array = np.asarray(stamps)
            low, high = int(array.min()), int(array.max())
        if low < 0 or high > MAX_TIMESTAMP_MS:
            raise ProtocolError(f"timestamps are ms since 1970, up to the year 2255, not {low} to {high}")
        if (low, high) != (batch.min_timestamp, batch.max_timestamp):
            raise ProtocolError("the batch's timestamps do not lie between those that its request says")


def _check_records(table: pa.RecordBatch, limit: int) -> None:
    """Finds a record above the limit: exactly for binary columns, by the average for nested ones."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        kind = column.type
        if pa.types.is_binary(kind) or pa.types.is_string(kind):
            sizes += np.diff(np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4))
        elif pa.types.is_large_binary(kind) or pa.types.is_large_string(kind):
            sizes += np.diff(np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, column.offset * 8))
        else:
            sizes += column.nbytes // len(column)
    largest = int(sizes.max())
    if largest > limit:
        raise RecordTooLarge(
            f"a record of {largest} bytes is above the topic's max.message.bytes ({limit}): raise it with "
            "`rayqueue topic alter-config`, or send less in one record"
        )
