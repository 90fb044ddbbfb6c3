"""Rows of typed topics are checked one by one."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.client.io.rows import RowChecker, rows_to_columns
from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.schemas import typed_log_schema

SCHEMA = typed_log_schema(
    pa.schema(
        [
            pa.field("name", pa.string(), nullable=False),
            ("small", pa.int8()),
            ("big", pa.uint64()),
            ("x", pa.float64()),
            ("ok", pa.bool_()),
            ("raw", pa.binary()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("tags", pa.list_(pa.string())),
            ("counts", pa.list_(pa.int32())),
        ]
    )
)


def _check(**row: Any) -> int:
    return RowChecker(SCHEMA, "t").check({"name": "n", **row})


@pytest.mark.parametrize(
    "row",
    [
        {},
        {
            "small": -128,
            "big": 2**64 - 1,
            "x": 1.5,
            "ok": True,
            "raw": b"\xff",
            "tags": ["a", "é"],
            "counts": [1, None],
        },
        {"x": 3, "at": datetime.datetime.now(datetime.timezone.utc), "raw": "text", "tags": []},
        {"name": "é"},
    ],
)
def test_rows_that_fit_can_be_made_into_columns(row: dict[str, Any]) -> None:
    assert _check(**row) > 0
    columns = rows_to_columns([{"name": "n", **row}], SCHEMA)
    assert [column.type for column in columns] == SCHEMA.types[:-1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": None}, "'name' of topic 't' takes no null"),
        ({"name": 5}, "'name' of topic 't' is string, not int"),
        ({"name": "\ud800"}, "'name'"),
        ({"small": 128}, "'small' of topic 't' is int8"),
        ({"big": -1}, "'big'"),
        ({"small": 1.5}, "'small' of topic 't' is int8, not float"),
        ({"small": True}, "'small' of topic 't' is int8, not bool"),
        ({"ok": 1}, "'ok'"),
        ({"tags": [1]}, "'tags'"),
        ({"counts": [1, 2.5]}, "'counts'"),
        ({"at": "yesterday"}, "'at'"),
        ({"nmae": "x"}, "no column 'nmae'"),
        ({"timestamp": 5}, "no column 'timestamp'"),
    ],
)
def test_rows_that_do_not_are_refused_by_column(row: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        _check(**row)


def test_a_row_is_a_dict() -> None:
    with pytest.raises(SchemaMismatch, match="is a dict of them, not bytes"):
        RowChecker(SCHEMA, "t").check(b"value")
