"""W7: when a reader has caught up, which acks count for what, and what the pace notes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.harness.figures import RATIO, Outcome
from benchmarks.workloads import w7_drain
from rayqueue.perf import drain
from rayqueue.perf.drain import Found, Pace, catch_up

Acked = Callable[[Exception | None], None]


def reading(*found: Found | None) -> Callable[[], Found | None]:
    """A reader that gets these, then nothing."""
    left: Iterator[Found | None] = iter(found)
    return lambda: next(left, None)


def fresh() -> float:
    return time.time() * 1000


def test_a_reader_has_caught_up_with_the_whole_backlog_and_something_fresh() -> None:
    went: list[str] = []
    read = reading((5, 9, 5, fresh(), 1), None, (10, 11, 2, 0.0, 2), (12, 12, 1, fresh(), 4), (13, 13, 1, fresh(), 8))
    found = catch_up(lambda: went.append("to 5"), read, start=5, end=12, timeout_s=60)

    assert (found["caught_up"], found["records"], found["sum"]) == (True, 8, 7)
    assert went == ["to 5"]
    assert found["begin_ns"] <= found["end_ns"]


def test_a_reader_that_is_too_slow_is_given_up() -> None:
    assert not catch_up(lambda: None, reading(), start=0, end=1, timeout_s=0.0)["caught_up"]


@pytest.mark.parametrize("second", [(11, 12, 2), (9, 10, 2), (10, 12, 2)])
def test_a_gap_is_no_drain(second: tuple[int, int, int]) -> None:
    read = reading((5, 9, 5, 0.0, 0), (*second, 0.0, 0))
    with pytest.raises(AssertionError, match="expected offset 10"):
        catch_up(lambda: None, read, start=5, end=100, timeout_s=60)


def test_the_pace_notes_an_ack_for_each_group_and_sends_one_after_it_is_asked_to_stop() -> None:
    acks: list[Acked] = []
    some = threading.Event()

    def send(acked: Acked) -> None:
        acks.append(acked)
        if len(acks) >= 3:
            some.set()

    pace = Pace(send, groups_per_s=1000)
    assert some.wait(20)
    asked = time.monotonic_ns()

    def flush() -> None:
        for acked in reversed(acks):
            acked(None)

    found = pace.stop(flush)
    assert len(found) == len(acks)
    assert [due for due, _ in found] == sorted(due for due, _ in found)
    assert found[-1][0] >= asked or len(found) > 3


def test_a_group_that_is_not_acked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LAST_CALLBACK_S", 0.01)
    with pytest.raises(AssertionError, match="groups of records were not acked"):
        Pace(lambda acked: None, 1000).stop(lambda: None)
    with pytest.raises(OSError, match="disk full"):
        Pace(lambda acked: acked(OSError("disk full")), 1000).stop(lambda: None)


def test_what_cannot_be_sent_is_an_error() -> None:
    def send(acked: Acked) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Pace(send, 1000).stop(lambda: None)


def test_acks_are_divided_by_the_time_of_the_drain() -> None:
    ms = 1_000_000
    acks = [(0, 1.0), (10 * ms, 1.5), (20 * ms, 30.0), (60 * ms, 2.0), (90 * ms, 4.0), (120 * ms, 8.0)]
    assert w7_drain.split(acks, 30 * ms, 100 * ms) == {"alone": [1.0, 1.5], "meanwhile": [30.0, 2.0, 4.0]}


def test_a_short_drain_takes_the_next_ack() -> None:
    ms = 1_000_000
    acks = [(0, 1.0), (20 * ms, 3.0)]
    assert w7_drain.split(acks, 5 * ms, 6 * ms) == {"alone": [1.0], "meanwhile": [3.0]}
    assert w7_drain.split(acks, -2 * ms, -1 * ms) == {"alone": [1.0], "meanwhile": [1.0]}


def test_a_round_that_never_caught_up_is_told() -> None:
    def found(seconds: float, caught_up: bool) -> dict[str, object]:
        return {"seconds": seconds, "records": 1e6, "caught_up": caught_up, "alone": [1.0], "meanwhile": [2.0, 9.0]}

    outcome = Outcome("w7")
    rounds = {"rayqueue": [found(1.0, True)] * 2, "kafka": [found(4.0, True), found(30.0, False)]}
    w7_drain._figures(outcome, w7_drain.ROWS, rounds)
    notes = {(one.side, one.name): one.note for one in outcome.figures}

    assert notes["kafka", "rows: time to catch up"] == "1 of 2 rounds had not caught up after 30 s"
    assert notes["rayqueue", "rows: time to catch up"] == ""
    assert notes["kafka", "rows: ack, p50, meanwhile"] == "longest 9.0 ms"
    (ratio,) = [one for one in outcome.figures if one.side == RATIO]
    assert ratio.samples == [0.25, 1 / 30]
    assert not ratio.higher_is_better
