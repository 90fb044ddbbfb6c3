"""Payloads do not repeat, and a reader's sum covers every byte, however the values are cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayqueue.perf.payload import random_values, touch, touch_all, value_bytes, values_table


def test_every_byte_of_the_values_is_touched_and_no_other() -> None:
    values = [b"\x01" * 11, b"\x02" * 3, b"", b"\x04" * 30]
    array = pa.array(values, pa.binary())
    data = b"".join(values)
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 44, 4)]
    assert touch(array) == touch_all(values) == sum(words)
    assert touch(pa.chunked_array([array.slice(1, 1)])) == 6
    assert value_bytes(array) == 44 and value_bytes(array.slice(1, 2)) == 3
    changed = pa.array([*values[:3], b"\x04" * 29 + b"\x05"], pa.binary())
    assert touch(changed) != touch(array)


def test_the_sum_does_not_depend_on_how_values_are_cut() -> None:
    values = random_values(1000, 100)
    whole = pa.array(values, pa.binary())
    cut = pa.chunked_array([whole.slice(0, 333), whole.slice(333, 0), whole.slice(333)])
    assert touch(whole) == touch(cut) == touch_all(values) == touch_all(values[:1]) + touch_all(values[1:])


def test_what_is_empty_sums_up_to_nothing() -> None:
    assert touch(pa.chunked_array([], pa.binary())) == touch(pa.array([], pa.binary())) == touch_all([]) == 0
    assert touch_all([b"", b""]) == value_bytes(pa.array([b""], pa.binary())) == 0


def test_payloads_do_not_repeat() -> None:
    table = values_table(100, 50)
    assert table["value"].num_chunks == 1
    assert len(set(table["value"].to_pylist())) == 100
    assert np.unique(np.frombuffer(b"".join(table["value"].to_pylist()), np.uint8)).size > 200
    assert random_values(3, 0) == [b"", b"", b""]
