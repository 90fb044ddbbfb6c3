"""What an AdminClient tells of groups."""

from __future__ import annotations

import json

import pytest

from rayqueue.admin_group_descriptions import GroupDescription, GroupMember, GroupOffset, OffsetReset, number_spans
from rayqueue.types import TopicPartition


def offset(committed: int | None, start: int | None, end: int | None) -> GroupOffset:
    return GroupOffset("clicks", 0, committed, start, end, "m1")


@pytest.mark.parametrize(
    ("committed", "start", "end", "lag"),
    [(3, 0, 10, 7), (10, 0, 10, 0), (3, 5, 10, 5), (None, 0, 10, None), (3, None, None, None), (12, 0, 10, 0)],
)
def test_lag_counts_what_can_still_be_read(
    committed: int | None, start: int | None, end: int | None, lag: int | None
) -> None:
    assert offset(committed, start, end).lag == lag


def group(*offsets: GroupOffset) -> GroupDescription:
    held = [TopicPartition("clicks", n) for n in (0, 1, 2, 7)]
    member = GroupMember("m1", "", "rayqueue", "host", 3, ["clicks"], held, [], held, 0.2, 0.0)
    return GroupDescription("stats", "Stable", 3, "uniform", 1, [member], list(offsets))


def test_the_lag_of_a_group_is_that_of_what_it_has_committed() -> None:
    assert group(offset(3, 0, 10), offset(None, 0, 10), offset(9, 0, 10)).lag == 8
    assert group(offset(3, 0, 10), offset(3, None, None)).lag is None


def test_a_description_is_printable_and_goes_into_json() -> None:
    one = group(offset(3, 0, 10))
    assert repr(one).splitlines() == [
        "GroupDescription('stats', Stable, epoch=3, lag=7)",
        "  m1 on host: clicks 0-2,7",
        "  clicks-0: committed 3 of 10, lag 7",
    ]
    told = json.loads(json.dumps(one.to_dict()))
    assert told["lag"] == 7 and told["offsets"][0]["lag"] == 7
    assert told["members"][0]["assignment"] == ["clicks-0", "clicks-1", "clicks-2", "clicks-7"]
    assert OffsetReset("clicks", 0, None, 4).to_dict() == {
        "topic": "clicks",
        "partition": 0,
        "before": None,
        "after": 4,
    }


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([0, 1, 2], "0-2"), ([0, 2, 3, 9], "0,2-3,9")])
def test_numbers_are_written_as_spans(numbers: list[int], text: str) -> None:
    assert number_spans(numbers) == text
