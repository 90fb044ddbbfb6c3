"""Frames: what travels on a data connection, in both directions.

    prefix   16 bytes, little-endian: magic u16, kind u8, one byte of zero, message size u32, row count u32,
             size of all rows u32
    sizes    u32 a row
    message  MessagePack of a struct of `protocol.messages`
    rows     one after the other, as they are: each a whole Arrow IPC message

The sizes come first, so a reader knows what to refuse before it takes memory for it, and reads the rows into one piece
of memory from which Arrow then reads them in place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from rayqueue.errors import ProtocolError

MAGIC = 0x5152  # "RQ"
MESSAGE = 0
FAILURE = 1  # the message is a failed reply (`codec.encode_failure`); the sender ends the connection after it

_PREFIX = struct.Struct("<HBxIII")
PREFIX_SIZE = _PREFIX.size
_LARGEST = (1 << 32) - 1


class Prefix(NamedTuple):
    """What a frame begins with. Sizes are in bytes; `head_size` is all that comes before the rows, `size` all of it."""

    kind: int
    message_size: int
    row_count: int
    rows_size: int
    head_size: int
    size: int


def pack_head(message: bytes, rows: Sequence[pa.Buffer] = (), kind: int = MESSAGE) -> bytes:
    """All of a frame but its rows.

    Raises:
        ProtocolError: the rows are too large for one frame (4 GiB).
    """
    if not rows:
        return _PREFIX.pack(MAGIC, kind, len(message), 0, 0) + message
    sizes = [row.size for row in rows]
    total = sum(sizes)
    if total > _LARGEST:
        raise ProtocolError(f"{total} bytes are more than a frame can hold: lower max.request.size")
    return b"".join(
        (_PREFIX.pack(MAGIC, kind, len(message), len(sizes), total), struct.pack(f"<{len(sizes)}I", *sizes), message)
    )


def unpack_prefix(data: bytes | bytearray, at: int) -> Prefix:
    """The prefix at this place.

    Raises:
        ProtocolError: the bytes are no frame's.
    """
    magic, kind, message_size, row_count, rows_size = _PREFIX.unpack_from(data, at)
    if magic != MAGIC or kind > FAILURE:
        raise ProtocolError("these bytes are no frame; is the peer a rayqueue of the same version?")
    if rows_size and not row_count:
        raise ProtocolError("a frame says that it has bytes of rows, and no rows")
    head_size = PREFIX_SIZE + 4 * row_count + message_size
    return Prefix(kind, message_size, row_count, rows_size, head_size, head_size + rows_size)


def unpack_sizes(data: bytes | bytearray, at: int, prefix: Prefix) -> tuple[int, ...]:
    """The sizes of the rows, which stand behind the prefix at `at`.

    Raises:
        ProtocolError: they do not add up to what the prefix says.
    """
    sizes: tuple[int, ...] = struct.unpack_from(f"<{prefix.row_count}I", data, at + PREFIX_SIZE)
    if sum(sizes) != prefix.rows_size:
        raise ProtocolError(f"a frame's rows have {sum(sizes)} bytes, its prefix says {prefix.rows_size}")
    return sizes


def split_rows(data: pa.Buffer, sizes: Sequence[int]) -> list[pa.Buffer]:
    """The rows, without copying."""
    if len(sizes) == 1:
        return [data]
    rows = []
    start = 0
    for size in sizes:
        rows.append(data.slice(start, size))
        start += size
    return rows
