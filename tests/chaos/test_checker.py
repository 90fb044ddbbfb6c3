"""The checker finds each anomaly in a history made by hand, and none in a good one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chaos.checker import KINDS, check
from tests.chaos.history import Event, Recorder, load


def send(value: str, process: str = "producer-0", partition: int | None = None) -> Event:
    return Event(0, process, "send", value=value, partition=partition)


def ack(value: str, partition: int, offset: int, process: str = "producer-0") -> Event:
    return Event(0, process, "ack", value=value, partition=partition, offset=offset)


def fail(value: str) -> Event:
    return Event(0, "producer-0", "fail", value=value, error="RecordTooLarge: no")


def unknown(value: str) -> Event:
    return Event(0, "producer-0", "unknown", value=value, error="DeliveryTimeout: no ack")


def assign(process: str = "consumer-0", **offsets: int) -> Event:
    return Event(0, process, "assign", offsets={name.removeprefix("p"): offset for name, offset in offsets.items()})


def read(*records: tuple[int, int, str], process: str = "consumer-0") -> Event:
    return Event(0, process, "read", records=list(records))


def final(*records: tuple[int, int, str], process: str = "final-0") -> list[Event]:
    return [assign(process, p0=0, p1=0), read(*records, process=process)]


def given(time: int, process: str, *partitions: int) -> Event:
    return Event(time, process, "given", offsets={str(partition): -1 for partition in partitions})


def committed(asked: int, answered: int, process: str, **offsets: int) -> list[Event]:
    """A commit that was taken."""
    told = {name.removeprefix("p"): offset for name, offset in offsets.items()}
    return [Event(asked, process, "commit", offsets=told), Event(answered, process, "committed", offsets=told)]


def handled(*records: tuple[int, int, str], process: str = "m") -> Event:
    return Event(0, process, "handled", records=list(records))


def kinds(events: Iterable[Event]) -> set[str]:
    return {anomaly.kind for anomaly in check(events)}


A, B, C = (0, 0, "a"), (0, 1, "b"), (1, 0, "c")
SENT = [send("a"), send("b"), send("c"), ack("a", 0, 0), ack("b", 0, 1), ack("c", 1, 0)]
READ = [assign(p0=0, p1=0), read(A, C), read(B)]

# Partition 0 goes from m to n, and everything is handled.
GROUP = [given(0, "m", 0, 1), handled(A, B, C), *committed(1, 2, "m", p0=1), *committed(5, 8, "m", p0=2, p1=1)]

GOOD = {
    "a group hands over": [
        *SENT,
        *READ,
        *GROUP,
        given(7, "n", 0),
        *committed(9, 10, "n", p0=2),
        given(11, "m", 0),
        *committed(12, 13, "m", p0=2),
        *final(A, B, C),
    ],
    "what was handled and not committed is handled again": [
        *SENT,
        *READ,
        given(0, "m", 0, 1),
        handled(A, B),
        Event(1, "m", "commit", offsets={"0": 2}),
        Event(2, "m", "uncommitted", error="UnknownMember: no"),
        given(3, "n", 0, 1),
        handled(A, B, C, process="n"),
        *committed(4, 5, "n", p0=2, p1=1),
        *final(A, B, C),
    ],
    "commits of two owners at the same time": [
        *SENT,
        *READ,
        *GROUP,
        given(2, "n", 0),
        *committed(3, 6, "n", p0=2),
        *final(A, B, C),
    ],
    "plain": [*SENT, *READ, *final(A, B, C)],
    "nothing at all": [],
    "acks come in any order": [*SENT[:3], *reversed(SENT[3:]), *READ, *final(A, B, C)],
    "a consumer moved back on purpose": [*SENT, *READ, assign(p0=0), read(A, B), *final(A, B, C)],
    "a consumer that was told no offset begins where it is given something": [
        *SENT,
        assign(),
        read(B),
        *final(A, B, C),
    ],
    "unknown and written": [*SENT, send("u"), unknown("u"), *READ, read((0, 2, "u")), *final(A, B, C, (0, 2, "u"))],
    "unknown and not written": [*SENT, send("u"), unknown("u"), *READ, *final(A, B, C)],
    "never answered": [*SENT, send("u"), *READ, *final(A, B, C, (1, 1, "u"))],
    "failed and not written": [*SENT, send("f"), fail("f"), *READ, *final(A, B, C)],
    "acked behind all that was read": [*SENT, send("d"), ack("d", 1, 1), *READ, *final(A, B, C, (1, 1, "d"))],
    "two catch-ups": [*SENT, *READ, *final(A, B, C), *final(C, A, B, process="final-1")],
    "two producers, each in its order": [
        send("x", "producer-1"),
        *SENT,
        ack("x", 0, 2, "producer-1"),
        *final(A, B, C, (0, 2, "x")),
    ],
}

BAD = {
    "lost-write": {
        "below what was read": [*SENT, assign(), read(B, C), *final(A, B, C)[:1], read(B, C, process="final-0")],
        "at the highest offset read, where another stands": [*SENT[:4], *final((0, 0, "z"))],
    },
    "unseen": {
        "at the end": [*SENT, *READ, *final(A, C)],
        "seen by a consumer only": [*SENT, *READ, *final(B, C)],
        "by one of two catch-ups": [*SENT, *READ, *final(A, B, C), *final(A, B, process="final-1")],
        "by one that read nothing": [*SENT, *READ, *final(A, B, C), assign("final-1", p0=0, p1=0)],
        "there was no catch-up": [*SENT, *READ],
    },
    "vanished": {"read, then gone": [send("u"), unknown("u"), *SENT, *READ, read((1, 1, "u")), *final(A, B, C)]},
    "inconsistent-offsets": {
        "two readers": [*SENT, send("d"), *READ, read((1, 0, "d"), process="consumer-1"), *final(A, B, C)],
        "an ack and a reader": [*SENT, send("d"), ack("d", 1, 0), *READ, *final(A, B, C, (1, 1, "d"))],
        "two acks": [*SENT, send("d"), ack("d", 0, 1), *final(A, B, C)],
    },
    "duplicate": {
        "read twice": [*SENT, *READ, *final(A, B, C, (0, 2, "a"))],
        "in two partitions": [*SENT, *READ, *final(A, B, C, (1, 1, "a"))],
        "acked elsewhere than it is read": [*SENT[:3], ack("a", 0, 7), *final(A)],
        "acked twice": [*SENT, ack("a", 0, 2), *final(A, B, C)],
    },
    "aborted-read": {"failed": [*SENT, send("f"), fail("f"), *READ, *final(A, B, C, (1, 1, "f"))]},
    "phantom": {"nobody sent it": [*SENT, *READ, *final(A, B, C, (1, 1, "z"))]},
    "nonmonotonic-poll": {
        "back": [*SENT, *READ, read(A), *final(A, B, C)],
        "the same again": [*SENT, *READ, read(B), *final(A, B, C)],
        "within one poll": [*SENT, assign(p0=0), read(A, B, A), *final(A, B, C)],
        "before the offset assigned": [*SENT, assign(p0=1), read(A), *final(A, B, C)],
    },
    "poll-skip": {
        "within one poll": [*SENT, send("d"), assign(p0=0), read(A, (0, 2, "d")), *final(A, B, C, (0, 2, "d"))],
        "between polls": [*SENT, send("d"), assign(p0=0), read(A), read((0, 2, "d")), *final(A, B, C, (0, 2, "d"))],
        "at the offset assigned": [*SENT, assign(p0=0), read(B), *final(A, B, C)],
        "in the catch-up": [*SENT, *READ, *final(B, C)],
    },
    "nonmonotonic-send": {
        "out of order": [*SENT[:2], ack("a", 0, 1), ack("b", 0, 0), *final((0, 0, "b"), (0, 1, "a"))],
    },
    "two-owners": {
        "one amid the commits of another": [
            *SENT,
            *READ,
            *GROUP,
            given(2, "n", 0),
            *committed(3, 4, "n", p0=2),
            *final(A, B, C),
        ],
    },
    "offset-regress": {
        "of the next owner": [*SENT, *READ, *GROUP, given(9, "n", 0), *committed(9, 10, "n", p0=1), *final(A, B, C)],
        "of one owner": [*SENT, *READ, *GROUP, *committed(9, 10, "m", p1=0), *final(A, B, C)],
    },
    "unhandled": {"passed over": [*SENT, *READ, given(0, "m", 0, 1), handled(A, C), *final(A, B, C)]},
    "consumer-error": {"an error": [*SENT, *READ, Event(0, "consumer-0", "error", error="x"), *final(A, B, C)]},
}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_found_in_a_good_history(name: str) -> None:
    assert check(GOOD[name]) == []


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, cases in BAD.items() for name in cases])
def test_each_anomaly_is_found(kind: str, name: str) -> None:
    found = kinds(BAD[kind][name])
    assert kind in found
    assert found <= set(KINDS)


def test_every_kind_of_anomaly_has_a_history() -> None:
    assert set(BAD) == set(KINDS)


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "producer-0.jsonl"
    recorder = Recorder(path, "producer-0")
    recorder.add("send", value="a", partition=1)
    recorder.add("ack", value="a", partition=1, offset=0)
    recorder.add("read", records=[(1, 0, "a")])
    with path.open("ab") as file:
        file.write(b'{"time":1,"process":"producer-0","ev')  # it was killed here
    events = list(load([path]))
    assert [event.event for event in events] == ["send", "ack", "read"]
    assert events[1].offset == 0 and events[2].records == [(1, 0, "a")]
    assert events[0].time < events[1].time
    assert check([*events, *final((1, 0, "a"))]) == []
