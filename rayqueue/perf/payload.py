"""Payloads that do not compress, and readers that touch every byte of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Told of records and bytes since its last call.
Progress: TypeAlias = Callable[[int, int], None]

WORD = 4
SUM_BELOW = 1 << 53  # a sum is exact as a double too, so JSON carries it


def random_values(rows: int, value_bytes: int, seed: int = 0) -> list[bytes]:
    """Values of random bytes, all of one length."""
    data = np.random.default_rng(seed).bytes(rows * value_bytes)
    return [data[row * value_bytes : (row + 1) * value_bytes] for row in range(rows)]


@lru_cache(maxsize=4)  # made in the round of warming, not while CPU is counted
def values_table(rows: int, value_bytes: int, seed: int = 0) -> pa.Table:
    """One binary column `value` in one chunk, of random bytes."""
    return pa.table({"value": pa.array(random_values(rows, value_bytes, seed), pa.binary())})


def touch(values: pa.ChunkedArray | pa.Array) -> int:
    """Reads every byte of the values of a binary column and returns their sum.

    They are summed as 4-byte words (and a tail of bytes a chunk): the sum of values whose lengths are multiples of 4
    does not depend on how they are cut into chunks.
    """
    return sum(map(_sum, _data(values)))


def touch_all(values: Sequence[bytes]) -> int:
    """The same sum for values that are Python's bytes."""
    return _sum(pa.py_buffer(b"".join(values)))


def value_bytes(values: pa.ChunkedArray | pa.Array) -> int:
    """Bytes of the values of a binary column."""
    return sum(data.size for data in _data(values))


def _data(values: pa.ChunkedArray | pa.Array) -> Iterator[pa.Buffer]:
    """The bytes of each chunk's values."""
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        _, offsets, data = chunk.buffers()
        if data is not None and len(chunk):
            ends = np.frombuffer(offsets, dtype=np.int32)
            start, end = int(ends[chunk.offset]), int(ends[chunk.offset + len(chunk)])
            yield data.slice(start, end - start)


def _sum(data: pa.Buffer) -> int:
    words, tail = divmod(data.size, WORD)
    # Arrow's own sum is faster than numpy, which widens the words first.
    total: int = pc.sum(pa.Array.from_buffers(pa.uint32(), words, [None, data]), min_count=0).as_py()
    return total + (sum(data.slice(words * WORD).to_pybytes()) if tail else 0)
