"""Every check of the demo fails when what it claims is not so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.demo import verify
from rayqueue.demo.source import FLIGHTS_SCHEMA, WEATHER_SCHEMA

ROWS = 30


def _flights() -> pa.Table:
    empty = dict.fromkeys(FLIGHTS_SCHEMA.names)
    rows = [
        {**empty, "tailnum": None if i % 10 == 9 else f"N{i % 3}", "flight": i, "origin": "EWR", "dest": "IAH",
         "month": 1, "day": i + 1, "dep_delay": i}
        for i in range(ROWS)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, FLIGHTS_SCHEMA)


@pytest.fixture
def source() -> verify.Source:
    return verify.prepare(_flights(), pa.Table.from_pylist([], WEATHER_SCHEMA))


def _log(flights: pa.Table, partitions: list[int]) -> pa.Table:
    """A table as `read_back` gives it: offsets count up in each partition."""
    seen: dict[int, int] = {}
    offsets = []
    for partition in partitions:
        offsets.append(seen.get(partition, 0))
        seen[partition] = offsets[-1] + 1
    log = flights.append_column("partition", pa.array(partitions, pa.int32()))
    return log.append_column("offset", pa.array(offsets, pa.int64()))


def _partitions(flights: pa.Table) -> list[int]:
    return [row % 2 if tail is None else int(tail[1]) % 2 for row, tail in enumerate(flights["tailnum"].to_pylist())]


def _failed(source: verify.Source, log: pa.Table, sent: int = ROWS) -> list[str]:
    return [check.text for check in verify.check_flights(source, sent, log) if not check.ok]


def test_what_came_back_whole_passes(source: verify.Source) -> None:
    log = _log(source.flights, _partitions(source.flights))
    checks = verify.check_flights(source, ROWS, log)
    assert [check.text for check in checks if not check.ok] == []
    assert checks[0].text == "30 flights in, 30 read back"
    assert "3 tail numbers" in checks[3].text and "(3 have none" in checks[3].text


def test_a_lost_flight_fails(source: verify.Source) -> None:
    log = _log(source.flights, _partitions(source.flights)).slice(1)
    failed = _failed(source, log)
    assert failed[0] == "30 flights in, 29 read back"
    assert any("checksum" in text for text in failed) and any("hole" in text for text in failed)


def test_a_flight_that_was_not_acked_fails(source: verify.Source) -> None:
    log = _log(source.flights, _partitions(source.flights))
    assert _failed(source, log, sent=ROWS - 1) == ["29 flights in, 30 read back"]


def test_a_doubled_flight_in_place_of_another_fails(source: verify.Source) -> None:
    doubled = source.flights.take([0, *range(ROWS - 1)])
    failed = _failed(source, _log(doubled, _partitions(doubled)))
    assert any("checksum" in text for text in failed) and any("order" in text for text in failed)


def test_an_aircraft_in_two_partitions_fails(source: verify.Source) -> None:
    partitions = _partitions(source.flights)
    partitions[0] = 1 - partitions[0]
    assert any("in one partition only" in text for text in _failed(source, _log(source.flights, partitions)))


def test_two_flights_of_an_aircraft_in_the_wrong_order_fail(source: verify.Source) -> None:
    order = np.arange(ROWS)
    order[[0, 3]] = 3, 0
    swapped = source.flights.take(order)
    failed = _failed(source, _log(swapped, _partitions(swapped)))
    assert len(failed) == 1 and "in the order they were sent" in failed[0]


def test_nothing_read_back_fails(source: verify.Source) -> None:
    assert _failed(source, pa.table({})) == ["30 flights in, 0 read back"]


def test_services_are_compared_with_the_source(source: verify.Source) -> None:
    results: dict[str, list[dict[str, object]]] = {"wind": [], "visibility": []}
    assert [c.ok for c in verify.check_services(source, {"delays": ROWS}, results)] == [True, True]
    assert [c.ok for c in verify.check_services(source, {"delays": ROWS - 1}, results)] == [False, True]
    results["wind"] = [{"label": "under 5 mph", "departures": 1, "delay_sum": 1}]
    assert [c.ok for c in verify.check_services(source, {"delays": ROWS}, results)] == [True, False]


def test_the_busiest_aircraft_is_described(source: verify.Source) -> None:
    plane = verify.busiest_aircraft(_log(source.flights, _partitions(source.flights)))
    assert plane == verify.Aircraft("N0", 9, 0, "EWR-IAH 01-01", "EWR-IAH 01-28")


def _copy(data: Path, broker_id: int, flights: pa.Table) -> Path:
    """A partition's directory at a broker, of two segments."""
    directory = data / str(broker_id) / "partitions" / "flights-00ff-4"
    directory.mkdir(parents=True)
    for base, part in [(0, flights.slice(0, 20)), (20, flights.slice(20))]:
        with (directory / f"{base:020}.arrow").open("wb") as file:
            pa.ipc.new_stream(file, part.schema).write(part)  # no end-of-stream marker: the segment may still grow
    return directory


def test_segments_are_counted_with_plain_pyarrow(tmp_path: Path, source: verify.Source) -> None:
    leader = _copy(tmp_path, 1, source.flights)
    here = verify.Check("30 rows in flights-4 read with plain pyarrow", True)
    assert verify.check_copies(leader, [1], ROWS) == here
    assert verify.check_copies(leader, [1, 2], ROWS) == here, "the other copy is on another machine"
    assert not verify.check_copies(leader, [1], ROWS + 1).ok


def test_copies_that_differ_fail(tmp_path: Path, source: verify.Source) -> None:
    leader = _copy(tmp_path, 1, source.flights)
    _copy(tmp_path, 0, source.flights)
    same = verify.check_copies(leader, [1, 0], ROWS)
    assert same.ok and same.text.endswith("the same in each of 2 replicas")
    _copy(tmp_path, 2, source.flights.take([1, 0, *range(2, ROWS)]))
    assert not verify.check_copies(leader, [1, 0, 2], ROWS).ok
