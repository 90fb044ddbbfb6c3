"""Checksums see every change of the data and no change of its order; `by_key` sees the order within a key."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.demo.fingerprint import by_key, fingerprint

SCHEMA = pa.schema([("s", pa.string()), ("n", pa.int16()), ("f", pa.float64()), ("t", pa.timestamp("s", tz="UTC"))])

ROW = st.tuples(
    st.none() | st.sampled_from(["", "a", "N14228"]),
    st.none() | st.integers(-3, 3),
    st.none() | st.sampled_from([0.0, -1.5, 10.35702]),
    st.none() | st.sampled_from([datetime.datetime(2013, 1, day, tzinfo=datetime.timezone.utc) for day in (1, 2)]),
)


def table(rows: list[tuple[object, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


@given(st.lists(ROW, max_size=8), st.randoms(use_true_random=False), st.integers(0, 8))
def test_order_and_division_do_not_matter(rows: list[tuple[object, ...]], random, cut: int) -> None:
    whole = fingerprint(table(rows))
    random.shuffle(rows)
    shuffled = table(rows)
    assert fingerprint(shuffled) == whole
    assert fingerprint(shuffled.slice(0, cut)).plus(fingerprint(shuffled.slice(cut))) == whole


@given(st.lists(ROW, min_size=1, max_size=8), ROW)
def test_a_changed_row_matters(rows: list[tuple[object, ...]], other: tuple[object, ...]) -> None:
    changed = [other, *rows[1:]]
    same = sorted(map(repr, changed)) == sorted(map(repr, rows))
    assert (fingerprint(table(changed)) == fingerprint(table(rows))) == same


def test_a_doubled_row_does_not_cancel_out() -> None:
    row = ("a", 1, 0.5, None)
    other = ("b", 2, 0.5, None)
    assert fingerprint(table([row, row])).checksum != fingerprint(table([other, other])).checksum


def test_null_is_not_zero_and_columns_are_not_interchangeable() -> None:
    ints = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    of = [
        fingerprint(pa.table({"a": pa.array([a], pa.int64()), "b": pa.array([b], pa.int64())}, ints))
        for a, b in [(0, 1), (None, 1), (1, 0), (1, None)]
    ]
    assert len(set(of)) == 4


def test_by_key_orders_within_a_key_and_drops_keyless_rows() -> None:
    rows = pa.table({"k": ["b", "a", None, "b"], "v": [1, 2, 3, 4]})
    assert by_key(rows, "k", np.arange(4)).to_pylist() == [
        {"k": "a", "v": 2},
        {"k": "b", "v": 1},
        {"k": "b", "v": 4},
    ]
    assert by_key(rows, "k", np.array([4, 3, 2, 1]))["v"].to_pylist() == [2, 4, 1]
