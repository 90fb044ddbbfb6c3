"""What a service that reads two topics computes: mean departure delay by the weather of the hour."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

WIND = "wind_speed"
VISIBILITY = "visib"

# Lower bounds of the bands.
_BANDS: dict[str, tuple[tuple[float, str], ...]] = {
    WIND: ((0, "0-5"), (5, "5-10"), (10, "10-15"), (15, "15-20"), (20, "20-25"), (25, "25+")),
    VISIBILITY: ((0, "under 1"), (1, "1-3"), (3, "3-6"), (6, "6-10"), (10, "10")),
}


class Band(NamedTuple):
    """Departures in one band of weather; `delay_sum` in minutes, so that results compare exactly."""

    label: str
    departures: int
    delay_sum: int

    @property
    def mean_delay(self) -> float:
        """Mean departure delay in minutes."""
        return self.delay_sum / self.departures


def weather_impact(departed: pa.Table, readings: pa.Table, column: str) -> list[Band]:
    """Joins departures with the reading of their airport and hour, and sums them by band of `column`.

    Args:
        departed: columns `origin`, `time_hour`, `dep_delay` (minutes, may be null for a flight that did not leave).
        readings: columns `origin`, `time_hour` (together unique) and `column`.
        column: WIND or VISIBILITY.

    Returns:
        Bands from low to high; departures without a reading are left out, as are bands without departures.
    """
    bands = _BANDS[column]
    known = readings.select(["origin", "time_hour", column])
    known = known.filter(pc.is_valid(known[column]))
    left = departed.select(["origin", "time_hour", "dep_delay"])
    left = left.filter(pc.is_valid(left["dep_delay"]))
    joined = left.join(known, ["origin", "time_hour"], join_type="inner")
    number = pa.chunked_array([pa.array([0] * joined.num_rows, pa.int32())])
    for bound, _ in bands[1:]:
        number = pc.add(number, pc.greater_equal(joined[column], bound).cast(pa.int32()))
    table = pa.table({"band": number, "delay": joined["dep_delay"].cast(pa.int64())})
    sums = table.group_by("band").aggregate([("delay", "count"), ("delay", "sum")]).sort_by("band")
    return [Band(bands[row["band"]][1], row["delay_count"], row["delay_sum"]) for row in sums.to_pylist()]
