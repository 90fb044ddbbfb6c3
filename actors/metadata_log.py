"""The metadata log on the coordinator's disk: a storage log whose records' values are encoded metadata records.

One batch a command, so that a command is there whole or not at all; an index of the metadata log is an offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc
from rayqueue.protocol.batches import decode
from rayqueue.protocol.messages import NO_EPOCH, NO_PRODUCER, NO_SEQUENCE, BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import FileSystem
from rayqueue.storage.log import Log, LogBatch

_CONFIG = TopicConfig.parse({"retention.ms": -1, "segment.ms": 2**62, "segment.bytes": 64 * 1024 * 1024})
_READ_BYTES = 4 * 1024 * 1024


class MetadataLog:
    """An open metadata log; one thread uses it.

    Attributes:
        records: all of it, as encoded. Those it was opened with are durable.
        command_ends: the index after the last record of each command, ascending.
    """

    def __init__(self, files: FileSystem, directory: Path) -> None:
        """Opens and recovers the log, and makes durable what it found: what the process before wrote, but died before
        it had flushed, is there to stay once somebody was told of it.

        Raises:
            StorageError: the disk failed. CorruptRecord: a record before the tail is damaged.
        """
        self._log = Log.open(files, str(directory), DEFAULT_SCHEMA, _CONFIG)
        self._log.flush()
        self.records: list[bytes] = []
        self.command_ends: list[int] = []
        end = self._log.log_end_offset
        while len(self.records) < end:
            part = self._log.read(len(self.records), _READ_BYTES, end)
            if part is None:
                raise CorruptRecord(f"the metadata log in {directory} ends at {len(self.records)}, not at {end}")
            for batch in decode(part.data, part.entries, DEFAULT_SCHEMA):
                self.records += batch.column("value").to_pylist()
                self.command_ends.append(len(self.records))

    def append(self, records: Sequence[bytes], epoch: int, wall_ms: int) -> None:
        """Writes records as one batch; durable after `flush`.

        Args:
            epoch: of the coordinator.

        Raises:
            StorageError: the disk failed or is full; the log must be opened anew.
        """
        count, base = len(records), self._log.log_end_offset
        columns = [
            pa.nulls(count, pa.binary()),
            pa.array(records, pa.binary()),
            pa.nulls(count, DEFAULT_SCHEMA.field("headers").type),
            pa.array([wall_ms] * count, DEFAULT_SCHEMA.field("timestamp").type),
        ]
        message = ipc.split_message(pa.RecordBatch.from_arrays(columns, schema=DEFAULT_SCHEMA).serialize())
        header = BatchHeader(
            base, base + count - 1, count, epoch, NO_PRODUCER, NO_EPOCH, NO_SEQUENCE, wall_ms, wall_ms, 0, 0
        )
        raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
        self._log.append([LogBatch(header, raw, message.body)], wall_ms)
        self.records += records
        self.command_ends.append(len(self.records))

    def flush(self) -> int:
        """Makes what was appended durable; the index up to which it is."""
        return self._log.flush()

    def close(self) -> None:
        """Closes the log's files."""
        self._log.close()
