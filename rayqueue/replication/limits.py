"""The times a replica goes by."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Attributes:
    lag_time_max_ms: `replica.lag.time.max.ms`: a follower that has not caught up for so long leaves the ISR.
    backoff_ms: `replica.fetch.backoff.ms`: a follower that was refused, and a leader whose proposal was, tries again
        after so long.
    """

    lag_time_max_ms: int = 10_000
    backoff_ms: int = 100
