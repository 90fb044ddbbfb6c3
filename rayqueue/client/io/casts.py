"""Casting a column to the type its topic has, when nothing is lost by it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from rayqueue.errors import SchemaMismatch


def _family(kind: pa.DataType) -> str:
    types = pa.types
    families = (
        ("number", types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)),
        ("text or bytes", types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
         or types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
         or types.is_binary_view(kind)),
        ("instant", types.is_timestamp(kind) and kind.tz is not None),
        ("date or local time", (types.is_timestamp(kind) and kind.tz is None) or types.is_date(kind)),
        ("time of day", types.is_time(kind)),
        ("list", types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)),
    )  # fmt: skip
    return next((name for name, fits in families if fits), str(kind.id))


def cast_column(column: pa.ChunkedArray, field: pa.Field, topic: str) -> pa.ChunkedArray:
    """The column with the field's type.

    Integers may widen, or narrow where every value fits; floats and decimals where every value comes back the same;
    text and bytes become each other where they are valid; dictionaries are decoded; an all-null column takes any type.

    Raises:
        SchemaMismatch: the types do not go together, a value would change, or nulls are not allowed. Names the column.
    """
    given = column.type
    if column.null_count and not field.nullable:
        raise SchemaMismatch(f"column {field.name!r} has nulls, but topic {topic!r} allows none there")
    if given == field.type:
        return column
    try:
        if pa.types.is_dictionary(given):
            column = column.cast(given.value_type)
            if column.type == field.type:
                return column
        if not pa.types.is_null(column.type) and _family(column.type) != _family(field.type):
            raise _mismatch(field, given, topic, "the types do not go together")
        cast = column.cast(field.type)
        if _may_lose(column.type, field.type):
            _check_same(column, cast)
    except (pa.ArrowException, OverflowError) as error:
        raise _mismatch(field, given, topic, str(error).splitlines()[0]) from error
    return cast


def _may_lose(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow's safe cast would drop digits without a word: it does for floats and inside nested types."""
    types = pa.types
    if types.is_nested(given):
        return True
    if types.is_floating(wanted):
        return bool(types.is_decimal(given) or (types.is_floating(given) and wanted.bit_width < given.bit_width))
    return bool(types.is_decimal(wanted) and types.is_floating(given))


def _check_same(column: pa.ChunkedArray, cast: pa.ChunkedArray) -> None:
    back = cast.cast(column.type)
    if back.equals(column):
        return
    if pa.types.is_floating(column.type):
        same = pc.or_(pc.equal(back, column), pc.and_(pc.is_nan(back), pc.is_nan(column)))
        if pc.all(same, min_count=0).as_py():
            return
    raise pa.ArrowInvalid("values would lose digits")


def _mismatch(field: pa.Field, given: pa.DataType, topic: str, why: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"column {field.name!r} is {given}, topic {topic!r} has {field.type} ({why}): cast it, or create a topic that "
        "has this type"
    )
