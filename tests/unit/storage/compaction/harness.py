"""What the tests of compaction share: keyed batches, all records of a log, and a naive model of what is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import google_crc32c
import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.protocol import ipc
from rayqueue.protocol.batches import decode
from rayqueue.protocol.messages import COMPRESSION_CODES, SPARSE_BATCH, BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.storage.compaction.plan import Plan
from rayqueue.storage.compaction.reading import KeyColumns
from rayqueue.storage.compaction.run import Compacted, Work
from rayqueue.storage.log import Log, LogBatch
from tests.unit.storage.harness import EVERYTHING, config, serialized

COLUMNS = KeyColumns("key", ("value",))
Record = tuple["bytes | None", "bytes | None"]


def settings(**given: object) -> TopicConfig:
    return config(**{"cleanup.policy": "compact", "segment.bytes": 4096, **given})


def keyed(
    base: int,
    records: Sequence[Record],
    epoch: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    codec: str | None = None,
    timestamp: int = 1_000,
) -> LogBatch:
    """A batch of (key, value) records from `base` on; the timestamps are `timestamp` + offset."""
    count = len(records)
    rows = pa.record_batch(
        [
            pa.array([key for key, _ in records], pa.binary()),
            pa.array([value for _, value in records], pa.binary()),
            pa.array([[("n", b"%d" % (base + i))] for i in range(count)], HEADERS_TYPE),
            pa.array([timestamp + base + i for i in range(count)], TIMESTAMP_TYPE),
        ],
        schema=DEFAULT_SCHEMA,
    )
    message = ipc.split_message(serialized(rows, codec))
    attributes = COMPRESSION_CODES[codec or "none"]
    times = timestamp + base, timestamp + base + count - 1
    header = BatchHeader(base, base + count - 1, count, epoch, *producer, *times, attributes, 0)
    raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
    return LogBatch(header, raw, message.body)


def records(log: Log, schema: pa.Schema = DEFAULT_SCHEMA) -> dict[int, Record]:
    """(key, value) by offset, as they are read; what is below the log start is left out."""
    return {offset: (row["key"], row["value"]) for offset, row in all_rows(log, schema).items()}


def all_rows(log: Log, schema: pa.Schema = DEFAULT_SCHEMA) -> dict[int, dict[str, object]]:
    """All columns by offset, as they are read, checked on the way: offsets ascend and batches leave no gaps."""
    found: dict[int, dict[str, object]] = {}
    offset = log.log_start_offset
    while (piece := log.read(offset, 1 << 16, EVERYTHING)) is not None:
        assert piece.base_offset <= offset < piece.next_offset
        for entry, rows in zip(piece.entries, decode(piece.data, piece.entries, schema), strict=True):
            base, last = int(entry["base_offset"]), int(entry["last_offset"])
            offsets = range(base, last + 1)
            columns = rows.to_pylist()
            if entry["attributes"] & SPARSE_BATCH:
                offsets = [row.pop("offset") for row in columns]
                assert offsets == sorted(set(offsets)) and all(base <= one <= last for one in offsets)
            found.update(zip(offsets, columns, strict=True))
        offset = piece.next_offset
    assert offset == log.log_end_offset
    return {offset: row for offset, row in found.items() if offset >= log.log_start_offset}


def compact(
    log: Log,
    now_ms: int = 0,
    high_watermark: int | None = None,
    memory: int = 1 << 20,
    producers: Collection[int] | None = None,
    columns: KeyColumns = COLUMNS,
) -> Compacted | None:
    """Compacts what is due; None when nothing is."""
    due = log.compaction_due(now_ms, log.log_end_offset if high_watermark is None else high_watermark)
    if due is None:
        return None
    return log.compact(due, Work(now_ms, columns, (1, 2), producers, memory))


def compact_all(log: Log, now_ms: int = 0, memory: int = 1 << 20) -> Compacted:
    """Compacts all closed segments, due or not."""
    closed = [one for one in log._state.segments if one.closed]
    end = closed[-1].next_offset
    return log.compact(Plan(log._state.compacted, end), Work(now_ms, COLUMNS, (1, 2), None, memory))


@dataclass
class Model:
    """What a compacted log holds, record by record: of each key below `clean` only the newest there."""

    held: dict[int, Record] = field(default_factory=dict)
    horizons: dict[int, int] = field(default_factory=dict)  # of tombstones that have been compacted

    def append(self, base: int, added: Sequence[Record]) -> None:
        self.held.update(enumerate(added, base))

    def truncate(self, end: int) -> None:
        self.held = {offset: one for offset, one in self.held.items() if offset < end}
        self.horizons = {offset: one for offset, one in self.horizons.items() if offset < end}

    def compact(self, end: int, now_ms: int, delete_retention_ms: int) -> None:
        """All below `end` has been compacted."""
        newest = {key: offset for offset, (key, _) in sorted(self.held.items()) if offset < end and key is not None}
        for offset, (key, value) in list(self.held.items()):
            if offset >= end or key is None:
                continue
            over = value is None and self.horizons.get(offset, now_ms + 1) <= now_ms
            if newest[key] > offset or over:
                del self.held[offset]
            elif value is None:
                self.horizons.setdefault(offset, now_ms + delete_retention_ms)
