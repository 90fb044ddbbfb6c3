"""W9: the data, its sums and its checks; and the workload over systems that keep it in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.harness.figures import RATIO
from benchmarks.workloads import w9_columns
from rayqueue.perf.columns import COLUMNS, SCHEMA, batches, check_equal, columns_table, plain_rows, touch_columns
from rayqueue.perf.payload import SUM_BELOW
from tests.unit.benchmarks.inline import RolesSystem, bench_of

ROWS = 50


def test_ten_columns_of_which_readers_want_some() -> None:
    table = columns_table(ROWS, seed=1)
    assert table.schema == SCHEMA and len(SCHEMA) == 10
    assert [len(names) for names in COLUMNS.values()] == list(COLUMNS) == [1, 3, 10]
    assert all(set(names) <= set(SCHEMA.names) for names in COLUMNS.values())
    assert all(column.null_count == 0 for column in table.columns)
    assert table.equals(columns_table(ROWS, seed=1)) and not table.equals(columns_table(ROWS, seed=2))


def test_the_sum_does_not_depend_on_the_cut() -> None:
    table = columns_table(ROWS, seed=1)
    parts = [table.slice(0, 7), table.slice(7, 1), table.slice(8)]
    assert touch_columns(table) == touch_columns(pa.concat_tables(parts))
    assert touch_columns(table) == sum(map(touch_columns, parts)) % SUM_BELOW


@pytest.mark.parametrize("name", SCHEMA.names)
def test_every_column_is_touched(name: str) -> None:
    table = columns_table(ROWS, seed=1)
    changed = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), columns_table(ROWS, seed=2)[name])
    assert touch_columns(changed) != touch_columns(table)
    assert touch_columns(table.select([name])) != touch_columns(changed.select([name]))


def test_what_was_read_is_compared_with_what_was_written() -> None:
    written = list(batches(ROWS, 6))
    check_equal(written, ROWS, 6)
    check_equal([pa.concat_tables(written).append_column("offset", pa.array(range(6 * ROWS)))], ROWS, 6)
    with pytest.raises(AssertionError, match="are not the 300"):
        check_equal([written[1], written[0], *written[2:]], ROWS, 6)
    with pytest.raises(AssertionError, match="250 rows read are not the 300"):
        check_equal(written[1:], ROWS, 6)


def test_rows_survive_json() -> None:
    found = [json.loads(json.dumps(row)) for table in batches(ROWS, 2) for row in plain_rows(table)]
    check_equal([pa.Table.from_pylist(found, schema=SCHEMA)], ROWS, 2)


# Topics of the systems below, by name.
TOPICS: dict[str, pa.Table] = {}


class ColumnsIn:
    """Keeps the topic in memory."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        self._topic = topic

    def fill(self, rows: int, count: int, by_row: bool) -> int:
        assert self._topic not in TOPICS
        TOPICS[self._topic] = pa.concat_tables(list(batches(rows, count)))
        return int(TOPICS[self._topic].nbytes)

    def drop(self) -> None:
        del TOPICS[self._topic]

    def close(self) -> None:
        """Nothing is open."""


class ColumnsOut:
    """Reads the topic from memory; with `lost`, without its last record."""

    lost = 0

    def __init__(self, client: dict[str, Any], topic: str, mapped_reads: bool = True) -> None:
        self._topic = topic

    def check(self, rows: int, count: int) -> None:
        check_equal([TOPICS[self._topic]], rows, count)

    check_rows = check

    def read(self, columns: list[str], records: int) -> dict[str, float]:
        table = TOPICS[self._topic]
        assert table.num_rows == records
        return {"seconds": 0.5, "sum": touch_columns(table.select(columns).slice(self.lost)) % SUM_BELOW}

    def read_rows(self, columns: list[str], records: int) -> dict[str, float]:
        return self.read(columns, records)

    def close(self) -> None:
        """Nothing is open."""


class Losing(ColumnsOut):
    lost = 1


def test_all_sides_read_the_same_and_nothing_is_left(tmp_path: Path) -> None:
    systems = [
        RolesSystem(name, {"columns_in": ColumnsIn, "columns_out": ColumnsOut}) for name in ("rayqueue", "kafka")
    ]
    outcome = w9_columns.run(bench_of(tmp_path, *systems))

    records = outcome.settings["records"]
    figures = {(one.side, one.name): one.samples for one in outcome.figures}
    assert figures["kafka", "1 of 10 columns"] == pytest.approx([records / 0.5 / 1e6] * 2)
    for how in ("mapped", "streamed"):
        for many in COLUMNS:
            assert figures[RATIO, f"{many} of 10 columns, {how}: to Kafka with Arrow"] == pytest.approx([1.0, 1.0])
    assert figures[RATIO, "3 of 10 columns, record by record, mapped: to Kafka with JSON"] == pytest.approx([1.0, 1.0])
    assert TOPICS == {}
    assert any("Ray Data" in note for note in outcome.notes)


def test_a_reader_that_loses_a_record_fails_the_workload(tmp_path: Path) -> None:
    rayqueue = RolesSystem("rayqueue", {"columns_in": ColumnsIn, "columns_out": ColumnsOut})
    kafka = RolesSystem("kafka", {"columns_in": ColumnsIn, "columns_out": Losing})
    with pytest.raises(AssertionError, match="readers saw different data"):
        w9_columns.run(bench_of(tmp_path, rayqueue, kafka))
    assert TOPICS == {}
