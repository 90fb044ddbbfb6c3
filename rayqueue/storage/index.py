"""Index entries: from a batch header, and back.

A segment's `.index` is an array of `ENTRY` (rayqueue.protocol.batches), one a batch, in the order of the batches. What
is in it can be made again from the segment's data file, so it is a cache of headers, each entry under its own CRC32C.
"""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.batches import ENTRY, ENTRY_SIZE, Entries, sound_entries
from rayqueue.protocol.messages import BatchHeader

__all__ = [
    "ENTRY",
    "ENTRY_SIZE",
    "Entries",
    "batch_header",
    "pack_entry",
    "repositioned",
    "sound_entries",
    "unpack_entries",
    "unpack_headers",
]

_PACK = struct.Struct("<6qIIiIiihH")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<6qIIiIiihHI")
assert _PACK.size + _CRC.size == ENTRY_SIZE


def pack_entry(header: BatchHeader, position: int, length: int, header_length: int) -> bytes:
    """The index entry of a batch.

    Args:
        header: the batch's header, its `crc` included.
        position: where its message starts in the segment, bytes.
        length: of the whole message, bytes, below 4 GiB.
        header_length: of the message's prefix and metadata, bytes.
    """
    packed = _PACK.pack(
        header.base_offset,
        header.last_offset,
        position,
        header.min_timestamp,
        header.max_timestamp,
        header.producer_id,
        length,
        header_length,
        header.record_count,
        header.crc,
        header.leader_epoch,
        header.base_sequence,
        header.producer_epoch,
        header.attributes,
    )
    return packed + _CRC.pack(google_crc32c.value(packed))


def repositioned(entries: Entries, shift: int) -> bytes:
    """The same entries for messages that stand `shift` bytes further on."""
    moved = entries.copy()
    moved["position"] += shift
    raw = bytearray(moved.tobytes())
    for at in range(0, len(raw), ENTRY_SIZE):
        end = at + _PACK.size
        _CRC.pack_into(raw, end, google_crc32c.value(bytes(raw[at:end])))
    return bytes(raw)


def batch_header(entry: np.void) -> BatchHeader:
    """The batch header that an entry was made of."""
    values = entry.item()
    base, last, _, min_ts, max_ts, pid, _, _, count, crc, epoch, sequence, pepoch, attributes, _ = values
    return BatchHeader(base, last, count, epoch, pid, pepoch, sequence, min_ts, max_ts, attributes, crc)


def unpack_entries(data: bytes) -> Entries:
    """Entries that came over the wire, ENTRY[n].

    Raises:
        CorruptRecord: the bytes are not whole entries.
    """
    if len(data) % ENTRY_SIZE:
        raise CorruptRecord(f"{len(data)} bytes are not a whole number of index entries of {ENTRY_SIZE}")
    return np.frombuffer(data, ENTRY)


def unpack_headers(data: bytes) -> list[tuple[BatchHeader, int, int]]:
    """Batch header, message length and header length of each entry that came over the wire, without NumPy: of one or
    two entries that is a tenth of the time.

    Raises:
        CorruptRecord: the bytes are not whole entries, or one is damaged.
    """
    if len(data) % ENTRY_SIZE:
        raise CorruptRecord(f"{len(data)} bytes are not a whole number of index entries of {ENTRY_SIZE}")
    found = []
    for at in range(0, len(data), ENTRY_SIZE):
        values = _ENTRY.unpack_from(data, at)
        base, last, _, min_ts, max_ts, pid, length, header_length, count, crc, epoch, seq, pepoch, attrs, own = values
        if google_crc32c.value(data[at : at + _PACK.size]) != own:
            raise CorruptRecord("an index entry that came over the wire is damaged")
        header = BatchHeader(base, last, count, epoch, pid, pepoch, seq, min_ts, max_ts, attrs, crc)
        found.append((header, length, header_length))
    return found
