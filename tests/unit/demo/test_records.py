"""What the demo's services make of records: departures, JSON readings, means by weather."""

from __future__ import annotations

import datetime

import pyarrow as pa

from rayqueue.demo.source import FLIGHTS_SCHEMA, WEATHER_SCHEMA
from rayqueue.demo.topics import DELAYS_SCHEMA, departures, reading_to_json, readings_from_json
from rayqueue.demo.weather_impact import VISIBILITY, WIND, Band, weather_impact

HOURS = [datetime.datetime(2013, 1, 1, hour, tzinfo=datetime.timezone.utc) for hour in range(4)]


def weather(*readings: dict[str, object]) -> pa.Table:
    empty = dict.fromkeys(WEATHER_SCHEMA.names)
    return pa.Table.from_pylist([{**empty, **reading} for reading in readings], WEATHER_SCHEMA)


def flights(*rows: dict[str, object]) -> pa.Table:
    empty = dict.fromkeys(FLIGHTS_SCHEMA.names)
    return pa.Table.from_pylist([{**empty, **row} for row in rows], FLIGHTS_SCHEMA)


def test_a_cancelled_flight_is_no_departure() -> None:
    both = flights(
        {"carrier": "UA", "origin": "EWR", "time_hour": HOURS[0], "dep_delay": -4},
        {"carrier": "AA", "origin": "JFK", "time_hour": HOURS[1], "dep_delay": None},
    )
    left = departures(both)
    assert left.schema == DELAYS_SCHEMA
    assert left.to_pylist() == [{"carrier": "UA", "origin": "EWR", "time_hour": HOURS[0], "dep_delay": -4}]


def test_readings_survive_json() -> None:
    readings = weather(
        {"origin": "EWR", "hour": 1, "temp": 39.02, "wind_speed": 10.357019999999999, "time_hour": HOURS[1]},
        {"origin": "LGA", "wind_gust": None, "visib": 0.06, "time_hour": HOURS[2]},
    )
    values = pa.chunked_array([pa.array([reading_to_json(row) for row in readings.to_pylist()], pa.binary())])
    assert readings_from_json(values).equals(readings)


def test_means_are_by_the_weather_of_airport_and_hour() -> None:
    readings = weather(
        {"origin": "EWR", "time_hour": HOURS[0], "wind_speed": 4.9, "visib": 10.0},
        {"origin": "EWR", "time_hour": HOURS[1], "wind_speed": 5.0, "visib": 0.5},
        {"origin": "JFK", "time_hour": HOURS[0], "wind_speed": None, "visib": 10.0},
    )
    departed = flights(
        {"origin": "EWR", "time_hour": HOURS[0], "dep_delay": -2},
        {"origin": "EWR", "time_hour": HOURS[0], "dep_delay": 12},
        {"origin": "EWR", "time_hour": HOURS[1], "dep_delay": 30},
        {"origin": "JFK", "time_hour": HOURS[0], "dep_delay": 100},  # wind not known
        {"origin": "LGA", "time_hour": HOURS[0], "dep_delay": 100},  # no reading
        {"origin": "EWR", "time_hour": HOURS[1], "dep_delay": None},  # did not leave
    )
    wind = weather_impact(departed, readings, WIND)
    assert wind == [Band("0-5", 2, 10), Band("5-10", 1, 30)]
    assert wind[0].mean_delay == 5.0
    assert weather_impact(departed, readings, VISIBILITY) == [Band("under 1", 1, 30), Band("10", 3, 110)]
