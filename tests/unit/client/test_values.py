"""Python values become Arrow columns whole, or not at all."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rayqueue.client.io.values import exact_array

AT = datetime(2020, 1, 2, 3, 4, 5, 678_901, timezone.utc)
NESTED = pa.map_(
    pa.string(),
    pa.list_(pa.struct([("n", pa.int32()), ("at", pa.timestamp("us", "UTC")), ("m", pa.map_(pa.int8(), pa.binary()))])),
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.5, pa.int32()),
        (math.nan, pa.int32()),
        (np.float32(1.5), pa.int64()),
        (AT, pa.timestamp("ms", "UTC")),
        (AT.replace(tzinfo=None), pa.timestamp("ms")),
        (AT.replace(microsecond=1000), pa.timestamp("s", "UTC")),
        (1.5, pa.timestamp("ms")),
        (pd.Timestamp("2020-01-01 00:00:00.000000001"), pa.timestamp("us")),
        (np.datetime64("2020-01-01T00:00:00.000001"), pa.timestamp("ms")),
        (AT, pa.date32()),
        (1.5, pa.date32()),
        (AT.time(), pa.time32("ms")),
        (timedelta(microseconds=5), pa.duration("ms")),
        (np.timedelta64(5, "us"), pa.duration("ms")),
        ({"x": 1, "y": 2}, pa.struct([("x", pa.int32())])),
        ({"x": 1.5}, pa.struct([("x", pa.int32())])),
        ([1, 1.5], pa.list_(pa.int32())),
        ([AT], pa.list_(pa.timestamp("ms", "UTC"))),
        ({"k": [1, 2]}, pa.list_(pa.int32())),
        ({"k": 1.5}, pa.map_(pa.string(), pa.int32())),
        ([("k", 1, 2)], pa.map_(pa.string(), pa.int32())),
        ("kv", pa.map_(pa.string(), pa.string())),
    ],
)
def test_what_would_lose_something_is_refused(value: Any, kind: pa.DataType) -> None:
    with pytest.raises((TypeError, ValueError)):
        exact_array([value], kind)


@pytest.mark.parametrize(
    ("value", "kind", "stored"),
    [
        (2.0, pa.int32(), 2),
        (AT, pa.timestamp("us", "UTC"), AT),
        (AT.replace(microsecond=5000), pa.timestamp("ms", "UTC"), AT.replace(microsecond=5000)),
        (5, pa.timestamp("ms"), datetime(1970, 1, 1, 0, 0, 0, 5000)),
        (np.datetime64("2020-01-01T00:00:00.001000"), pa.timestamp("ms"), datetime(2020, 1, 1, 0, 0, 0, 1000)),
        (np.timedelta64(5000, "us"), pa.duration("ms"), timedelta(milliseconds=5)),
        (np.datetime64("NaT"), pa.timestamp("ms"), None),
        (pd.NaT, pa.timestamp("ms", "UTC"), None),
        (datetime(2020, 1, 1), pa.date32(), date(2020, 1, 1)),
        (date(2020, 1, 1), pa.date32(), date(2020, 1, 1)),
        (time(1, 2, 3, 4000), pa.time32("ms"), time(1, 2, 3, 4000)),
        ([1, None, 2.0], pa.list_(pa.int32()), [1, None, 2]),
        ((1, 2), pa.list_(pa.int32(), 2), [1, 2]),
        ([("x", 1)], pa.struct([("x", pa.int32())]), {"x": 1}),
        ({}, pa.struct([("x", pa.int32())]), {"x": None}),
        ({"k": 1}, pa.map_(pa.string(), pa.int32()), [("k", 1)]),
        ([["k", b"v"]], pa.map_(pa.string(), pa.binary()), [("k", b"v")]),
        ({AT.replace(tzinfo=None): Decimal("1.5")}, pa.map_(pa.timestamp("us"), pa.decimal128(5, 2)), None),
    ],
)
def test_what_loses_nothing_is_taken(value: Any, kind: pa.DataType, stored: Any) -> None:
    found = exact_array([value, None], kind).to_pylist()
    assert found[1] is None
    assert stored is None or found[0] == stored


def test_what_was_read_can_be_written() -> None:
    rows: list[Any] = [{"a": [{"n": 1, "at": AT, "m": {3: b"x"}}, None], "b": None}, {}, None]
    column = exact_array(rows, NESTED)
    assert exact_array(column.to_pylist(), NESTED).equals(column)


def test_a_naive_timestamp_of_pandas_is_utc() -> None:
    naive = pd.Timestamp("2020-01-01 12:00")
    (found,) = exact_array([naive], pa.timestamp("ms", "UTC")).to_pylist()
    assert found.timestamp() == naive.timestamp() == datetime(2020, 1, 1, 12, tzinfo=timezone.utc).timestamp()
