"""Is what was read back what was sent? Each claim of the demo as a check that can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import rayqueue
from rayqueue.demo.fingerprint import Fingerprint, by_key, fingerprint
from rayqueue.demo.topics import FLIGHTS, departures
from rayqueue.demo.weather_impact import VISIBILITY, WIND, Band, weather_impact

KEY = "tailnum"


class Check(NamedTuple):
    """A claim and whether it holds."""

    text: str
    ok: bool


class Source(NamedTuple):
    """The data as it stands in the source files; what the services should find is computed from it."""

    flights: pa.Table
    weather: pa.Table
    departed: int
    by_wind: list[Band]
    by_visibility: list[Band]
    flights_fingerprint: Fingerprint


def prepare(flights: pa.Table, weather: pa.Table) -> Source:
    """Computes, without any log, what must come out."""
    left = departures(flights)
    return Source(
        flights,
        weather,
        left.num_rows,
        weather_impact(left, weather, WIND),
        weather_impact(left, weather, VISIBILITY),
        fingerprint(flights),
    )


def read_back(settings: dict[str, Any], topic: str) -> pa.Table:
    """All records of a topic, from the beginning to the end as of now, by a consumer that stands alone.

    Returns:
        Columns topic, partition, offset, timestamp and those of the topic; rows of a partition in offset order.
    """
    with rayqueue.Consumer(topic, auto_offset_reset="earliest", stop_at="latest", **settings) as consumer:
        batches = list(consumer.iter_batches(format="arrow"))
    tables = [pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch for batch in batches]
    return pa.concat_tables(tables) if tables else pa.table({})


class Aircraft(NamedTuple):
    """One aircraft's flights in the log."""

    tailnum: str
    flights: int
    partition: int
    first: str
    last: str


def check_flights(source: Source, sent: int, log: pa.Table) -> list[Check]:
    """Checks the flights that came back from the log against the source, as a whole and aircraft by aircraft."""
    names = source.flights.schema.names
    if not log.num_rows:
        return [Check(f"{sent:,} flights in, 0 read back", sent == 0)]
    records = log.select(names)
    found = fingerprint(records)
    rows = source.flights.num_rows
    return [
        Check(f"{sent:,} flights in, {found.rows:,} read back", sent == found.rows == rows),
        Check(f"checksum of the source {source.flights_fingerprint.checksum:016x}, of the log {found.checksum:016x}",
              found == source.flights_fingerprint),
        Check("offsets of every partition run from 0 without a hole", _dense(log)),
        Check(_one_partition_text(source), _one_partition(log)),
        Check("and in the order they were sent, column for column equal to the source", _in_order(source, log)),
    ]  # fmt: skip


def _dense(log: pa.Table) -> bool:
    spans = log.group_by("partition").aggregate([("offset", "min"), ("offset", "max"), ("offset", "count_distinct")])
    return all(
        row["offset_min"] == 0 and row["offset_max"] + 1 == row["offset_count_distinct"] for row in spans.to_pylist()
    ) and log.num_rows == sum(spans["offset_count_distinct"].to_pylist())


def _one_partition_text(source: Source) -> str:
    aircraft = pc.count_distinct(source.flights[KEY]).as_py()
    unknown = source.flights[KEY].null_count
    text = f"each of {aircraft:,} tail numbers is in one partition only"
    return f"{text} ({unknown:,} have none: round robin)" if unknown else text


def _one_partition(log: pa.Table) -> bool:
    keyed = log.filter(pc.is_valid(log[KEY]))
    spread = keyed.group_by(KEY).aggregate([("partition", "count_distinct")])
    return not spread.num_rows or pc.max(spread["partition_count_distinct"]).as_py() == 1


def _in_order(source: Source, log: pa.Table) -> bool:
    names = source.flights.schema.names
    sent = by_key(source.flights, KEY, np.arange(source.flights.num_rows))
    read = by_key(log.select(names), KEY, log["offset"].to_numpy())
    return bool(read.equals(sent))


def busiest_aircraft(log: pa.Table) -> Aircraft | None:
    """The aircraft with most flights, as the log has it; None without any."""
    keyed = log.filter(pc.is_valid(log[KEY])) if log.num_rows else log
    if not keyed.num_rows:
        return None
    counts = keyed.group_by(KEY).aggregate([("offset", "count")])
    top = counts.sort_by([("offset_count", "descending"), (KEY, "ascending")])[KEY][0].as_py()
    flights = keyed.filter(pc.equal(keyed[KEY], top)).sort_by("offset")
    legs = [
        f"{row['origin']}-{row['dest']} {row['month']:02}-{row['day']:02}"
        for row in (flights.slice(0, 1).to_pylist() + flights.slice(flights.num_rows - 1).to_pylist())
    ]
    return Aircraft(top, flights.num_rows, flights["partition"][0].as_py(), *legs)


def check_services(source: Source, produced: dict[str, int], results: dict[str, list[dict[str, Any]]]) -> list[Check]:
    """Checks what the services made of the flights against the same figures computed from the source."""
    wind = [Band(**band) for band in results["wind"]]
    visibility = [Band(**band) for band in results["visibility"]]
    delays = produced.get("delays", 0)
    return [
        Check(f"{delays:,} departures made from flights, {source.departed:,} in the source", delays == source.departed),
        Check("delay by wind and by visibility, from two topics each, equal to the source's",
              wind == source.by_wind and visibility == source.by_visibility),
    ]  # fmt: skip


def check_copies(leader: Path, replicas: list[int], records: int) -> Check:
    """Opens a partition's segments as plain Arrow IPC streams, those of every replica, and compares them.

    Args:
        leader: the partition's directory at its leader, `<data directory>/<broker id>/partitions/<name>`.
        replicas: ids of the brokers that have one; those on other machines are left out.
        records: how many there are.
    """
    data = leader.parents[2]
    directories = [data / str(broker_id) / "partitions" / leader.name for broker_id in replicas]
    copies = [read_segments(directory) for directory in directories if directory.is_dir()]
    equal = all(copy.equals(copies[0]) for copy in copies)
    name = f"{FLIGHTS}-{leader.name.rpartition('-')[2]}"
    text = f"{copies[0].num_rows:,} rows in {name} read with plain pyarrow"
    if len(copies) > 1:
        text += f", the same in each of {len(copies)} replicas"
    return Check(text, equal and copies[0].num_rows == records)


def read_segments(directory: Path) -> pa.Table:
    """All records of a partition's directory, in order."""
    tables = []
    for segment in sorted(directory.glob("*.arrow")):
        with pa.OSFile(str(segment)) as file:
            tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables) if tables else pa.table({})
