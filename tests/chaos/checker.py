"""What histories must not show. Pure: no Ray, no clock, no files; the names are those of Jepsen's Kafka workload.

Offsets are taken to have no holes (a topic without compaction or transactions), values to be unique. Whatever is
unknown may have happened or not. What a group must not do is in `group_checker`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.chaos.group_checker import GROUP_KINDS, GroupChecker
from tests.chaos.history import FINAL, Anomaly, Event

KINDS = {
    "lost-write": "acked, at or below the highest offset read, and nobody reads it",
    "unseen": "acked, and not read by a final catch-up from the beginning",
    "vanished": "read by somebody, and not read by a final catch-up",
    "inconsistent-offsets": "one offset with two values",
    "duplicate": "one value at two offsets",
    "aborted-read": "the send definitely failed, and the value is read",
    "phantom": "a value is read that nobody sent",
    "nonmonotonic-poll": "a consumer goes back",
    "poll-skip": "a consumer passes over offsets",
    "nonmonotonic-send": "a producer's acked sends to a partition are out of order",
    "consumer-error": "a consumer got an error, or did not get on after all was healed",
    **GROUP_KINDS,
}

Place = tuple[int, int]  # partition, offset


@dataclass
class _Seen:
    """What is collected in one pass."""

    sent: set[str] = field(default_factory=set)
    order: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    acked: dict[str, Place] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    read_at: dict[str, set[Place]] = field(default_factory=lambda: defaultdict(set))
    values: dict[Place, set[str]] = field(default_factory=lambda: defaultdict(set))
    final: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    highest: dict[int, int] = field(default_factory=dict)


def check(events: Iterable[Event]) -> list[Anomaly]:
    """Every anomaly of a run's histories; the events of one process must come in their order."""
    seen = _Seen()
    found: list[Anomaly] = []
    polls, group = _Polls(found), GroupChecker()
    for event in events:
        _collect(seen, event, found)
        polls.take(event)
        group.take(event)
    found += _writes(seen) + _reads(seen) + _sends(seen) + group.anomalies(seen.acked)
    return found


def _collect(seen: _Seen, event: Event, found: list[Anomaly]) -> None:
    value = event.value
    match event.event:
        case "send":
            assert value is not None
            seen.sent.add(value)
            seen.order[event.process].append(value)
        case "ack":
            assert value is not None and event.partition is not None and event.offset is not None
            place = (event.partition, event.offset)
            if seen.acked.setdefault(value, place) != place:
                found.append(Anomaly("duplicate", f"{value} is acked at {seen.acked[value]} and at {place}"))
            seen.values[place].add(value)
        case "fail":
            assert value is not None
            seen.failed[value] = event.error or ""
        case "read" | "handled":
            for partition, offset, one in event.records or ():
                seen.read_at[one].add((partition, offset))
                seen.values[partition, offset].add(one)
                seen.highest[partition] = max(offset, seen.highest.get(partition, -1))
        case "error":
            found.append(Anomaly("consumer-error", f"{event.process}: {event.error}"))
    if event.process.startswith(FINAL):
        seen.final[event.process].update(one for _, _, one in event.records or ())


class _Polls:
    """Each consumer's position, from one `assign` to the next."""

    def __init__(self, found: list[Anomaly]) -> None:
        self._found = found
        self._next: dict[str, dict[int, int]] = {}

    def take(self, event: Event) -> None:
        if event.event == "assign":
            self._next[event.process] = {int(p): offset for p, offset in (event.offsets or {}).items()}
        elif event.event == "read":
            position = self._next.setdefault(event.process, {})
            for partition, offset, value in event.records or ():
                expected = position.get(partition, offset)
                where = f"{event.process} at {partition}/{expected} is given {partition}/{offset} ({value})"
                if offset < expected:
                    self._found.append(Anomaly("nonmonotonic-poll", where))
                elif offset > expected:
                    self._found.append(Anomaly("poll-skip", where))
                position[partition] = offset + 1


def _writes(seen: _Seen) -> list[Anomaly]:
    found = []
    for value, (partition, offset) in seen.acked.items():
        if value not in seen.read_at and offset <= seen.highest.get(partition, -1):
            found.append(Anomaly("lost-write", f"{value}, acked at {partition}/{offset}"))
        found += [
            Anomaly("unseen", f"{value}, acked at {partition}/{offset}, is not read by {process}")
            for process, values in (seen.final or {"anybody": set()}).items()
            if value not in values
        ]
    for value, places in seen.read_at.items():
        found += [
            Anomaly("vanished", f"{value}, read at {_places(places)}, is not read by {process}")
            for process, values in seen.final.items()
            if value not in values and value not in seen.acked
        ]
    return found


def _reads(seen: _Seen) -> list[Anomaly]:
    found = []
    for place, values in seen.values.items():
        if len(values) > 1:
            found.append(Anomaly("inconsistent-offsets", f"{_places({place})} holds {' and '.join(sorted(values))}"))
    for value, read in seen.read_at.items():
        places = read | ({seen.acked[value]} if value in seen.acked else set())
        if len(places) > 1:
            found.append(Anomaly("duplicate", f"{value} stands at {_places(places)}"))
        if value in seen.failed:
            found.append(Anomaly("aborted-read", f"{value} failed ({seen.failed[value]}), read at {_places(read)}"))
        if value not in seen.sent:
            found.append(Anomaly("phantom", f"{value}, read at {_places(read)}"))
    return found


def _sends(seen: _Seen) -> list[Anomaly]:
    found = []
    for process, values in seen.order.items():
        last: dict[int, tuple[int, str]] = {}
        for value in values:
            if value not in seen.acked:
                continue
            partition, offset = seen.acked[value]
            before, other = last.get(partition, (-1, ""))
            if offset <= before:
                where = f"{other} at {partition}/{before}, then {value} at {partition}/{offset}"
                found.append(Anomaly("nonmonotonic-send", f"{process} sent {where}"))
            last[partition] = (offset, value)
    return found


def _places(places: Iterable[Place]) -> str:
    return " and ".join(f"{partition}/{offset}" for partition, offset in sorted(places))
