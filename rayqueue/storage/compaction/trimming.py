"""A filler that begins before the offset asked for: a follower's log goes on at that offset, not before it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayqueue.protocol import sparse
from rayqueue.protocol.batches import ENTRY, ENTRY_FIELDS
from rayqueue.storage.index import batch_header, pack_entry
from rayqueue.storage.reader import LogSlice


def begun_at(found: LogSlice, offset: int, schema: pa.Schema) -> LogSlice:
    """The slice as it is, unless it begins with a filler that lies over `offset`: then only that, from there on.

    Args:
        schema: the topic's log schema.
    """
    first = found.entries[0]
    if found.base_offset >= offset or not sparse.is_filler(ENTRY_FIELDS.unpack(first.tobytes())):
        return found
    header = batch_header(first)
    header.base_offset = offset
    raw, body = sparse.sealed(sparse.empty_message(schema), header)
    data = pa.py_buffer(raw + body.to_pybytes())
    entry = pack_entry(header, 0, data.size, len(raw))
    return LogSlice(data, np.frombuffer(entry, ENTRY), offset, header.last_offset + 1)
