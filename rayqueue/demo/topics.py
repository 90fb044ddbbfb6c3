"""The demo's topics and what the services do with their records."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from rayqueue.demo.source import FLIGHTS_SCHEMA, HOUR_TYPE, WEATHER_SCHEMA

FLIGHTS = "flights"
WEATHER = "weather"
DELAYS = "delays"

DELAYS_SCHEMA = pa.schema(
    [("carrier", pa.string()), ("origin", pa.string()), ("time_hour", HOUR_TYPE), ("dep_delay", pa.int16())]
)


class DemoTopic(NamedTuple):
    """A topic of the demo: a typed one has a schema and may have a key column."""

    name: str
    partitions: int
    schema: pa.Schema | None
    key_column: str | None
    what: str


TOPICS = (
    DemoTopic(FLIGHTS, 6, FLIGHTS_SCHEMA, "tailnum", "typed, keyed by aircraft"),
    DemoTopic(WEATHER, 2, None, None, "JSON values, keyed by airport"),
    DemoTopic(DELAYS, 3, DELAYS_SCHEMA, "carrier", "typed, made from flights, keyed by airline"),
)


def departures(flights: pa.Table) -> pa.Table:
    """The records of `delays`: one for each flight that left, in DELAYS_SCHEMA (a cancelled one has no dep_delay)."""
    left = flights.filter(pc.is_valid(flights["dep_delay"]))
    return left.select(DELAYS_SCHEMA.names).cast(DELAYS_SCHEMA)


def reading_to_json(reading: dict[str, Any]) -> bytes:
    """A weather reading (a row of WEATHER_SCHEMA) as the value of a record."""
    return json.dumps({**reading, "time_hour": reading["time_hour"].isoformat()}).encode()


def readings_from_json(values: pa.ChunkedArray) -> pa.Table:
    """Weather readings, in WEATHER_SCHEMA, from records' values."""
    lines = b"\n".join(values.to_pylist())
    options = pajson.ParseOptions(explicit_schema=WEATHER_SCHEMA, unexpected_field_behavior="error")
    return pajson.read_json(pa.BufferReader(lines), parse_options=options)
