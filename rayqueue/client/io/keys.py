"""The hash of a key column: strings as UTF-8, integers as 8 bytes big-endian (as Kafka's LongSerializer does)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayqueue.client.murmur2 import murmur2_column
from rayqueue.errors import SchemaMismatch

Hashes = npt.NDArray[np.uint32]


def hash_column(column: pa.Array, name: str = "key") -> tuple[Hashes, npt.NDArray[np.bool_] | None]:
    """murmur2 of every key.

    Args:
        column: n keys. Strings hash as UTF-8, integers, booleans, dates and times as 8 bytes big-endian, floats as
            their 8 bytes big-endian, decimals as their text.
        name: the column's, for the message.

    Returns:
        uint32 of shape (n,), and which rows have a key (bool of shape (n,)), or None when all have.

    Raises:
        SchemaMismatch: keys of this type cannot be hashed.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    keyed = _valid(column) if column.null_count else None
    data, offsets = key_bytes_of(column, name)
    return murmur2_column(data, offsets), keyed


# Arrow's own `to_numpy` imports pandas when it is first called, which takes half a second: buffers are read instead.


def _valid(column: pa.Array) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(column.buffers()[0], np.uint8), bitorder="little")
    return bits[column.offset : column.offset + len(column)].astype(np.bool_)


def _numbers(column: pa.Array, dtype: Any) -> npt.NDArray[Any]:
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * np.dtype(dtype).itemsize)


def key_bytes_of(column: pa.Array, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The keys' bytes back to back, and the n + 1 positions between them. What stands for a null means nothing."""
    kind, types, count = column.type, pa.types, len(column)
    if types.is_binary(kind) or types.is_string(kind):
        return _variable(column, np.dtype(np.int32))
    if types.is_large_binary(kind) or types.is_large_string(kind):
        return _variable(column, np.dtype(np.int64))
    if types.is_fixed_size_binary(kind):
        width = kind.byte_width
        data = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width : (column.offset + count) * width]
    elif types.is_floating(kind):
        data, width = _numbers(column.cast(pa.float64()), np.float64).astype(">f8").view(np.uint8), 8
    elif types.is_integer(kind) or types.is_boolean(kind):
        wide = column if types.is_uint64(kind) else column.cast(pa.int64())
        data, width = _numbers(wide, np.int64).astype(">i8").view(np.uint8), 8
    elif types.is_temporal(kind) and kind.bit_width in (32, 64):
        plain = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        data, width = _numbers(plain.cast(pa.int64()), np.int64).astype(">i8").view(np.uint8), 8
    elif types.is_decimal(kind):
        return _variable(column.cast(pa.string()), np.dtype(np.int32))
    else:
        raise SchemaMismatch(f"the column {name} of type {kind} cannot be a key: use text, bytes, a number or a time")
    return data, np.arange(count + 1, dtype=np.int64) * width


def _variable(column: pa.Array, offset: np.dtype[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    _, positions, data = column.buffers()
    start = column.offset * offset.itemsize
    if positions is None or len(column) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    offsets = np.frombuffer(positions, offset, len(column) + 1, start).astype(np.int64)
    return np.frombuffer(data if data is not None else b"", np.uint8), offsets


def key_bytes(value: Any) -> bytes | None:
    """The bytes that one key hashes as, for partitioner functions."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bool, int)):
        return int(value).to_bytes(8, "big", signed=value < 2**63)
    if isinstance(value, float):
        return struct.pack(">d", value)
    return str(value).encode()
