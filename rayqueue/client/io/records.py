"""The parts of a record that are not its key and value: timestamp, headers, and the callback for its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from rayqueue.client.io.future import RecordFuture
from rayqueue.client.io.values import instant
from rayqueue.client.serializers import to_bytes
from rayqueue.errors import RayQueueError, SerializationError
from rayqueue.protocol.schemas import MAX_TIMESTAMP_MS
from rayqueue.types import RecordMetadata

Headers = Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]
OnDelivery = Callable[[RayQueueError | None, RecordMetadata], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Delivery:
    """Calls on_delivery(error, metadata) with a future that is done."""

    __slots__ = ("_function",)

    def __init__(self, function: OnDelivery) -> None:
        self._function = function

    def __call__(self, future: RecordFuture) -> None:
        self._function(future.exception(0), future.metadata(0))


def timestamp_ms(timestamp: Any) -> int:
    """A record's timestamp, ms since the epoch.

    Args:
        timestamp: ms, or a datetime, one without a zone as its own `timestamp()` takes it: local time (pandas': UTC).

    Raises:
        SerializationError: it is neither an int nor a datetime, or out of range.
    """
    if isinstance(timestamp, datetime):
        try:
            at = instant(timestamp) - _EPOCH
            ms = (int(at.days) * 86_400 + at.seconds) * 1000 + at.microseconds // 1000
        except (OverflowError, ValueError, OSError) as error:  # OSError: the platform's clock has no such year
            raise SerializationError(f"timestamp {timestamp} is not between 1970 and 2255 ({error})") from error
    elif isinstance(timestamp, (int, np.integer)) and not isinstance(timestamp, bool):
        ms = int(timestamp)
    else:
        raise SerializationError(f"a timestamp is ms since the epoch or a datetime, not {type(timestamp).__name__}")
    check_range(ms)
    return ms


def check_range(ms: int) -> None:
    """Refuses timestamps (ms since the epoch) outside 1970 to 2255: they are kept in ns on the way.

    Raises:
        SerializationError: it is.
    """
    if not 0 <= ms <= MAX_TIMESTAMP_MS:
        raise SerializationError(
            f"timestamp {ms} ms is not between 1970 and 2255: give ms since the epoch, not s or ns"
        )


def header_pairs(headers: Headers) -> list[tuple[str, bytes | None]]:
    """A record's headers as pairs of str and bytes.

    Raises:
        SerializationError: they are something else.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    made = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise SerializationError(f"headers are pairs of a str and bytes or str, or a dict of them, not {pair!r}")
        to_bytes(pair[0], "header name")
        made.append((pair[0], to_bytes(pair[1], "header")))
    return made
