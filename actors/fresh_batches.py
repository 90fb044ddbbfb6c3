"""What a turn has just written of a partition, as all its followers are fed it: made once, without reading the log."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from rayqueue.actors.leader_link import FedBatch
from rayqueue.actors.push_stream import SMALL_BYTES
from rayqueue.protocol.ipc import build_header
from rayqueue.protocol.messages import BatchHeader
from rayqueue.storage.index import pack_entry
from rayqueue.storage.log import LogBatch


class FreshBatches(NamedTuple):
    """Batches that stand at the end of the log, back to back.

    Attributes:
        entries: index entries; their positions are those in `row`.
        row: the messages, in memory of their own: the producer may write to its own once it is answered.
    """

    base_offset: int
    next_offset: int
    entries: bytes
    row: pa.Buffer


def fresh_batches(batches: list[LogBatch]) -> FreshBatches | None:
    """What was appended, for followers that hold all before it. None where it is large: copied once more it would cost
    more than looking it up in the segment, from where it is sent without a copy."""
    size = sum([len(header) + body.size for _, header, body in batches])
    if size > SMALL_BYTES:
        return None
    entries, pieces, position = [], list[Any](), 0
    for entry, header, body in batches:
        length = len(header) + body.size
        entries.append(pack_entry(entry, position, length, len(header)))
        pieces += (header, body)
        position += length
    row = pa.py_buffer(b"".join(pieces))
    return FreshBatches(batches[0].entry.base_offset, batches[-1].entry.last_offset + 1, b"".join(entries), row)


def log_batch(ref: Any, header: BatchHeader) -> LogBatch:
    """A producer's batch gets its header here; a leader's is written as it came."""
    if isinstance(ref, FedBatch):
        return LogBatch(header, ref.header, ref.body)
    raw, header.crc = build_header(ref.message, header, ref.body_crc)
    return LogBatch(header, raw, ref.message.body)
