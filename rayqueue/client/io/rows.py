"""Checks one row (a dict) of a typed topic when it is produced: a bad one is refused there and harms no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from rayqueue.client.io.values import exact_array
from rayqueue.errors import SchemaMismatch

Check = Callable[[Any], int]  # returns about how many bytes the value has; raises when it does not fit


class RowChecker:
    """Checks rows against the user's columns.

    Args:
        schema: the log schema (its last column is `timestamp`).
        topic: the topic's name, for messages.
    """

    def __init__(self, schema: pa.Schema, topic: str) -> None:
        self._topic = topic
        self._fields = [field for field in schema if field.name != "timestamp"]
        self._checks = [(field.name, field.nullable, _check_of(field.type)) for field in self._fields]
        self._names = frozenset(field.name for field in self._fields)

    def check(self, row: Any) -> int:
        """About how many bytes the row has.

        Raises:
            SchemaMismatch: it is no dict, or a column is unknown, missing, or of another type.
        """
        if not isinstance(row, Mapping):
            raise SchemaMismatch(
                f"topic {self._topic!r} has columns {', '.join(f.name for f in self._fields)}: its value is a dict of "
                f"them, not {type(row).__name__}"
            )
        unknown = row.keys() - self._names
        if unknown:
            raise SchemaMismatch(f"topic {self._topic!r} has no column {sorted(map(str, unknown))[0]!r}")
        size = 0
        for name, nullable, check in self._checks:
            value = row.get(name)
            if value is None:
                if not nullable:
                    raise SchemaMismatch(f"column {name!r} of topic {self._topic!r} takes no null: give it a value")
                continue
            try:
                size += check(value)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                kind = next(field.type for field in self._fields if field.name == name)
                raise SchemaMismatch(
                    f"column {name!r} of topic {self._topic!r} is {kind}, not {type(value).__name__} "
                    f"({str(error).splitlines()[0]})"
                ) from error
        return size


def _check_of(kind: pa.DataType) -> Check:
    types = pa.types
    if types.is_integer(kind):
        bits = kind.bit_width
        low, high = (-(1 << bits - 1), 1 << bits - 1) if types.is_signed_integer(kind) else (0, 1 << bits)
        return lambda value: 8 if type(value) is int and low <= value < high else _slow(value, kind)
    if types.is_float64(kind):
        return lambda value: 8 if type(value) is float else _slow(value, kind)
    if types.is_string(kind) or types.is_large_string(kind):
        return lambda value: len(value) if type(value) is str and value.isascii() else _slow(value, kind)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return lambda value: len(value) if type(value) is bytes else _slow(value, kind)
    return lambda value: _slow(value, kind)


def _slow(value: Any, kind: pa.DataType) -> int:
    if isinstance(value, bool) and not pa.types.is_boolean(kind):
        raise TypeError("a bool is not a number")
    return int(exact_array([value], kind).nbytes)


def rows_to_columns(rows: list[Mapping[str, Any]], schema: pa.Schema) -> list[pa.Array]:
    """The user's columns of some checked rows, in the order of the schema, without `timestamp`."""
    return [
        _checked_array([row.get(field.name) for row in rows], field.type)
        for field in schema
        if field.name != "timestamp"
    ]


def _checked_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    # Integers need no second look, and they are many.
    return pa.array(values, kind) if pa.types.is_integer(kind) else exact_array(values, kind)
