"""Cutting rows by size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.client.slicing import cut


@given(st.lists(st.integers(0, 100), max_size=80), st.integers(1, 150))
def test_pieces_are_whole_within_the_limit_and_as_few_as_possible(sizes: list[int], limit: int) -> None:
    pieces = cut(np.array(sizes, dtype=np.int64), limit)
    assert [row for start, end in pieces for row in range(start, end)] == list(range(len(sizes)))
    for start, end in pieces:
        assert end - start == 1 or sum(sizes[start:end]) <= limit
    for (start, end), (_, following) in zip(pieces, pieces[1:], strict=False):
        assert following > end
        assert sum(sizes[start : end + 1]) > limit, "the next row would have fitted"
