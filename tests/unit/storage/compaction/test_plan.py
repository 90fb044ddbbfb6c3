"""What is compacted when: decisions without files."""

from __future__ import annotations

import pytest

from rayqueue.storage.compaction.plan import Plan, SegmentFacts, groups, plan
from rayqueue.storage.segment import NO_HORIZON
from tests.unit.storage.compaction.harness import settings

NOW = 1_000_000


def segment(base: int, size: int = 100, oldest: int = 0, newest: int = 0, horizon: int = NO_HORIZON) -> SegmentFacts:
    return SegmentFacts(base, base + 10, size, oldest, newest, horizon)


FOUR = [segment(0), segment(10), segment(20), segment(30)]


@pytest.mark.parametrize(
    ("compacted", "ratio", "due"),
    [
        (0, 1.0, Plan(0, 40)),
        (20, 0.5, Plan(20, 40)),
        (20, 0.51, None),
        (30, 0.25, Plan(30, 40)),
        (30, 0.26, None),
        (25, 0.5, Plan(25, 40)),  # in the middle of a segment: all of that is dirty
        (40, 0.0, None),
    ],
)
def test_it_is_due_when_enough_is_dirty(compacted: int, ratio: float, due: Plan | None) -> None:
    assert plan(FOUR, compacted, 1000, NOW, settings(**{"min.cleanable.dirty.ratio": ratio})) == due


@pytest.mark.parametrize(
    ("high_watermark", "due"), [(40, Plan(0, 40)), (39, Plan(0, 30)), (10, Plan(0, 10)), (9, None)]
)
def test_nothing_above_the_high_watermark_is_compacted(high_watermark: int, due: Plan | None) -> None:
    assert plan(FOUR, 0, high_watermark, NOW, settings()) == due


def test_what_is_younger_than_the_lag_waits_and_all_behind_it() -> None:
    lag = settings(**{"min.compaction.lag.ms": 1000})
    some = [segment(0, newest=NOW - 1000), segment(10, newest=NOW - 999), segment(20, newest=0)]
    assert plan(some, 0, 1000, NOW, lag) == Plan(0, 10)
    assert plan(some[1:], 0, 1000, NOW, lag) is None
    assert plan(some, 0, 1000, NOW, settings()) == Plan(0, 30), "no lag, also where times lie in the future"


def test_a_young_record_in_what_has_been_compacted_does_not_hold_up_the_rest() -> None:
    lag = settings(**{"min.compaction.lag.ms": 1000})
    assert plan([segment(0, newest=NOW), segment(10)], 10, 1000, NOW, lag) == Plan(10, 20)


def test_what_is_older_than_the_longest_lag_does_not_wait_for_the_ratio() -> None:
    some = [*FOUR[:3], segment(30, oldest=NOW - 500)]
    never = {"min.cleanable.dirty.ratio": 1}
    assert plan(some, 30, 1000, NOW, settings(**never)) is None
    assert plan(some, 30, 1000, NOW, settings(**never, **{"max.compaction.lag.ms": 500})) is None
    assert plan(some, 30, 1000, NOW, settings(**never, **{"max.compaction.lag.ms": 499})) == Plan(30, 40)


def test_tombstones_go_also_when_nothing_else_is_to_be_done() -> None:
    never = settings(**{"min.cleanable.dirty.ratio": 1})
    assert plan([segment(0, horizon=NOW), segment(10)], 10, 1000, NOW, never) == Plan(10, 20)
    assert plan([segment(0, horizon=NOW + 1), segment(10)], 10, 1000, NOW, never) is None
    assert plan([segment(0, horizon=NOW)], 10, 1000, NOW, never) == Plan(10, 10)


def test_an_empty_log_and_one_that_was_cut_below_what_is_compacted() -> None:
    assert plan([], 0, 0, NOW, settings()) is None
    assert plan([segment(0, horizon=NOW)], 15, 1000, NOW, settings()) == Plan(10, 10)


def test_neighbours_are_grouped_by_their_present_size() -> None:
    def sized(*sizes: int) -> list[int]:
        return groups([segment(10 * i, size) for i, size in enumerate(sizes)], 100)

    assert sized() == []
    assert sized(100, 1, 99, 1, 1, 200, 1) == [1, 2, 2, 1, 1]
    assert sized(10, 20, 30, 40, 1) == [4, 1]


def test_a_group_spans_no_more_offsets_than_a_filler_can() -> None:
    far = [SegmentFacts(0, 10, 1, 0, 0, NO_HORIZON), SegmentFacts(10, 1 << 31, 1, 0, 0, NO_HORIZON)]
    assert groups(far, 100) == [1, 1]
