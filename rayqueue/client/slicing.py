"""Cutting rows into batches by size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def cut(sizes: npt.NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """Consecutive rows that together have at most `limit` bytes; a larger row stands alone.

    Args:
        sizes: int64 of shape (n,), bytes of each row.
        limit: bytes.

    Returns:
        (start, end) of each piece, in order, none empty.
    """
    count = len(sizes)
    ends = np.cumsum(sizes)
    if count == 0:
        return []
    pieces = []
    start = 0
    while start < count:
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        pieces.append((start, end))
        start = end
    return pieces
