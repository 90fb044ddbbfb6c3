"""Payloads that do not compress."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def random_values(rows: int, value_bytes: int, seed: int = 0) -> list[bytes]:
    """Values of random bytes, all of one length."""
    data = np.random.default_rng(seed).bytes(rows * value_bytes)
    return [data[row * value_bytes : (row + 1) * value_bytes] for row in range(rows)]


def values_table(rows: int, value_bytes: int, seed: int = 0) -> pa.Table:
    """One binary column `value` in one chunk, of random bytes."""
    return pa.table({"value": pa.array(random_values(rows, value_bytes, seed), pa.binary())})


def touch(values: pa.ChunkedArray | pa.Array) -> int:
    """Reads every byte of the values of a binary column and returns their sum, as 8-byte words and a tail of bytes."""
    total = 0
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        _, offsets, data = chunk.buffers()
        if data is None:
            continue
        ends = np.frombuffer(offsets, dtype=np.int32)
        start, end = int(ends[chunk.offset]), int(ends[chunk.offset + len(chunk)])
        raw = np.frombuffer(data, dtype=np.uint8)[start:end]
        words = raw[: raw.size // 8 * 8].view(np.uint64)
        total += int(words.sum(dtype=np.uint64)) + int(raw[words.size * 8 :].sum(dtype=np.uint64))
    return total & (1 << 64) - 1
