"""Python values as Arrow columns, exactly: what would lose something on the way is refused.

`pa.array` alone cuts 1.5 to 1 in a column of integers, microseconds in a column of milliseconds, drops fields that a
struct does not have, and takes a datetime without a zone for UTC, where Python means local time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

Convert = Callable[[Any], Any]

_MICROS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}  # microseconds of a unit


def exact_array(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array:
    """Python values as a column.

    Args:
        values: None is null. A map is a dict or a list of pairs. A datetime without a zone is local time in a column of
            instants (a timestamp with a zone); pandas' Timestamp without one is UTC, as its `timestamp()` says.
        kind: the column's type; None: as Arrow guesses it.

    Raises:
        ArrowException, TypeError, ValueError, OverflowError: a value does not fit, or would lose something.
    """
    convert = None if kind is None else converter(kind)
    if convert is not None:
        values = [None if value is None else convert(value) for value in values]
    return pa.array(values, kind)


def instant(value: datetime) -> datetime:
    """The datetime with its zone: local time if it has none, but UTC for pandas' (as the `timestamp()` of both says).

    Raises:
        OverflowError, ValueError: the year is out of the platform's range.
    """
    if value.tzinfo is not None:
        return value
    localize = getattr(value, "tz_localize", None)
    made: datetime = value.astimezone(timezone.utc) if localize is None else localize("UTC")
    return made


@lru_cache(maxsize=1024)
def converter(kind: pa.DataType) -> Convert | None:
    """What makes a value (not None) of a type fit for `pa.array`, or raises; None: nothing has to be done."""
    types = pa.types
    if types.is_integer(kind):
        return _whole
    if types.is_timestamp(kind):
        return lambda value: _timestamp(value, kind)
    if types.is_date(kind):
        return _date
    if types.is_time(kind) or types.is_duration(kind):
        return lambda value: _clock(value, kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        each = converter(kind.value_type)
        return None if each is None else partial(_list, each)
    if types.is_struct(kind):
        fields = {kind.field(i).name: converter(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: _struct(value, fields)
    if types.is_map(kind):
        key, item = converter(kind.key_type), converter(kind.item_type)
        return lambda value: [(_each(k, key), _each(v, item)) for k, v in map(_pair, _items(value))]
    return None


def _each(value: Any, convert: Convert | None) -> Any:
    return value if value is None or convert is None else convert(value)


def _whole(value: Any) -> Any:
    if isinstance(value, (float, np.floating)) and not value.is_integer():
        raise ValueError(f"{value} is no whole number")
    return value


def _timestamp(value: Any, kind: pa.TimestampType) -> Any:
    if isinstance(value, np.datetime64):
        return _of_numpy(value, kind.unit)
    if not isinstance(value, datetime):
        return _whole(value)
    if value != value:  # pandas' NaT
        return None
    _check_fine(value, value.microsecond, getattr(value, "nanosecond", 0), kind.unit)
    return value if kind.tz is None else instant(value)


def _clock(value: Any, kind: Any) -> Any:
    if isinstance(value, np.timedelta64):
        return _of_numpy(value, kind.unit)
    if isinstance(value, time):
        _check_fine(value, value.microsecond, 0, kind.unit)
    elif isinstance(value, timedelta):
        if value != value:
            return None
        _check_fine(value, value.microseconds, getattr(value, "nanoseconds", 0), kind.unit)
    return _whole(value)


def _check_fine(value: Any, micros: int, nanos: int, unit: str) -> None:
    if micros % _MICROS[unit] or (nanos and unit != "ns"):
        raise ValueError(f"{value} is finer than {unit}: round it")


def _of_numpy(value: Any, unit: str) -> int | None:
    if np.isnat(value):
        return None
    made = value.astype(f"{value.dtype.kind}8[{unit}]")
    if made != value:
        raise ValueError(f"{value} is finer than {unit}: round it")
    return int(made.astype(np.int64))


def _date(value: Any) -> Any:
    if isinstance(value, datetime):
        if value != value:
            return None
        if value.time() != time(0):
            raise ValueError(f"{value} is no date: it has a time of day")
    elif not isinstance(value, date):
        _whole(value)
    return value


def _list(convert: Convert, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)):
        raise TypeError(f"a {type(values).__name__} is no list")
    return [_each(value, convert) for value in values]


def _struct(value: Any, fields: dict[str, Convert | None]) -> dict[str, Any]:
    given = dict(map(_pair, _items(value)))
    unknown = given.keys() - fields.keys()
    if unknown:
        raise ValueError(f"there is no field {sorted(map(str, unknown))[0]!r}")
    return {name: _each(item, fields[name]) for name, item in given.items()}


def _items(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return value
    raise TypeError(f"a {type(value).__name__} is neither a dict nor a list of pairs")


def _pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{pair!r} is no pair of key and value")
    return pair[0], pair[1]
