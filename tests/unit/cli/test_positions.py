"""Where `topic consume -o` begins."""

from datetime import datetime, timezone

import click
import pytest

from rayqueue.cli.positions import Start, parse_start, parse_time
from rayqueue.errors import OffsetOutOfRange
from rayqueue.types import Watermarks

MARKS = Watermarks(10, 100)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("start", 10),
        ("earliest", 10),
        ("end", 100),
        ("latest", 100),
        ("42", 42),
        ("-10", 90),
        ("-1000", 10),
        ("10", 10),
        ("100", 100),
    ],
)
def test_offsets(text, offset):
    assert parse_start(text).offset("t-0", MARKS) == offset


@pytest.mark.parametrize("number", [0, 9, 101])
def test_an_offset_that_is_not_there_says_which_are(number):
    with pytest.raises(OffsetOutOfRange, match=f"t-0 has offsets 10 to 99, not {number}"):
        parse_start(str(number)).offset("t-0", MARKS)


@pytest.mark.parametrize("text", ["", "ten", "@", "@yesterday", "1.5", "--3"])
def test_what_is_no_place(text):
    with pytest.raises(click.BadParameter):
        parse_start(text)


def ms(*parts):
    return int(datetime(*parts, tzinfo=timezone.utc).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", ms(2026, 1, 31, 12)),
        ("2026-01-31T12:00:00.250+00:00", ms(2026, 1, 31, 12) + 250),
        ("2026-01-31T14:00+02:00", ms(2026, 1, 31, 12)),
        ("1769860800000", 1769860800000),
    ],
)
def test_times(text, expected):
    assert parse_time(text) == expected
    assert parse_start("@" + text) == Start("time", expected)


def test_a_time_without_zone_is_local():
    assert parse_time("2026-01-31T12:00") == int(datetime(2026, 1, 31, 12).timestamp() * 1000)
    assert parse_time("2026-01-31") == int(datetime(2026, 1, 31).timestamp() * 1000)


def test_an_empty_partition_says_so():
    with pytest.raises(OffsetOutOfRange, match=r"t-0 is empty \(its next offset is 7\)"):
        Start("offset", 3).offset("t-0", Watermarks(7, 7))


def test_an_offset_that_only_some_partitions_have():
    marks = {"t-0": Watermarks(0, 10), "t-1": Watermarks(0, 3), "t-2": Watermarks(8, 9), "t-3": Watermarks(0, 0)}
    told = []
    assert Start("offset", 5).offsets(marks, told.append) == {"t-0": 5, "t-1": 3, "t-2": 8, "t-3": 0}
    assert told == [
        "t-1 has offsets 0 to 2, not 5: it starts at its end, 3",
        "t-2 has offsets 8 to 8, not 5: it starts at its first offset, 8",
        "t-3 is empty (its next offset is 0), there is no offset 5: it starts at its end, 0",
    ]


def test_an_offset_that_no_partition_has():
    with pytest.raises(OffsetOutOfRange, match="t-1 has offsets 0 to 2, not 50"):
        Start("offset", 50).offsets({"t-0": Watermarks(0, 0), "t-1": Watermarks(0, 3)}, lambda text: None)


def test_no_partition_at_all_is_no_error():
    assert Start("offset", 5).offsets({}, lambda text: None) == {}
