"""Commits in order, each under the epoch of when it was asked for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rayqueue.client.cursor import Cursor
from rayqueue.client.groups.auto_commit import AutoCommit
from rayqueue.client.groups.committer import Committer, Standing
from rayqueue.errors import GroupCoordinatorNotAvailable, PartitionNotOwned, RayQueueError, RequestTimeout
from rayqueue.protocol.group_messages import (
    CommittedOffset,
    GroupPartition,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)

WAIT_S = 10.0
ID = b"t" * 16


class FakeCalls:
    """A coordinator that notes what it is asked, and answers when it is let.

    Attributes:
        asked: requests, in order. gate: cleared: answers wait. errors: what it says to each commit, else all is well.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Semaphore(0)
        self.errors: list[str | list[str] | RayQueueError] = []
        self.closed = False

    def call(self, action: str, request: Any, reply: Any, timeout_s: float) -> Any:
        self.asked.append(request)
        self.reached.release()
        assert self.gate.wait(WAIT_S)
        if isinstance(request, OffsetFetchRequest):
            assert request.partitions is not None
            return OffsetFetchResponse([CommittedOffset(one.topic_id, one.partition, 5) for one in request.partitions])
        error = self.errors.pop(0) if self.errors else ""
        if isinstance(error, RayQueueError):
            raise error
        count = len(request.offsets)
        return OffsetCommitResponse(error if isinstance(error, list) else [error] * count, ["said why"] * count)

    def close(self) -> None:
        self.closed = True

    @property
    def commits(self) -> list[int]:
        """The offsets asked for, in order."""
        return [
            one.offset for request in self.asked if isinstance(request, OffsetCommitRequest) for one in request.offsets
        ]


class Desk:
    """A committer at a fake coordinator."""

    def __init__(self) -> None:
        self.calls = FakeCalls()
        self.standing = Standing("m", 3)
        self.committer = Committer(self.calls, "g", lambda: self.standing, WAIT_S)  # type: ignore[arg-type]


def at(offset: int, partition: int = 0) -> CommittedOffset:
    return CommittedOffset(ID, partition, offset)


def test_a_commit_says_who_and_under_which_epoch() -> None:
    desk = Desk()
    desk.committer.commit([at(4), at(5, 1)])
    [request] = desk.calls.asked
    assert (request.group_id, request.member_id, request.member_epoch) == ("g", "m", 3)
    assert request.offsets == [at(4), at(5, 1)] and request.number == 1
    desk.committer.commit([])
    assert len(desk.calls.asked) == 1


def test_what_is_asked_for_later_is_committed_later_and_under_the_epoch_of_then() -> None:
    desk = Desk()
    desk.calls.gate.clear()
    first = desk.committer.commit_later([at(1)])
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    second = desk.committer.commit_later([at(2)])
    desk.standing = Standing("m", 9)
    third = threading.Thread(target=desk.committer.commit, args=([at(3)],))
    third.start()
    desk.calls.gate.set()
    third.join(WAIT_S)
    first.result(WAIT_S), second.result(WAIT_S)
    assert desk.calls.commits == [1, 2, 3]
    assert [request.member_epoch for request in desk.calls.asked] == [3, 3, 9], "the second was asked for under 3"
    assert [request.number for request in desk.calls.asked] == [1, 2, 3]


def test_errors_come_out_where_it_was_asked_for() -> None:
    desk = Desk()
    desk.calls.errors = ["PartitionNotOwned", GroupCoordinatorNotAvailable("nobody")]
    with pytest.raises(PartitionNotOwned, match="said why"):
        desk.committer.commit([at(1)])
    later = desk.committer.commit_later([at(2)])
    with pytest.raises(GroupCoordinatorNotAvailable):
        later.result(WAIT_S)
    desk.committer.commit([at(3)])
    assert desk.calls.commits == [1, 2, 3]


def test_only_who_begins_to_read_asks_as_a_member() -> None:
    desk = Desk()
    assert [one.offset for one in desk.committer.committed([GroupPartition(ID, 0)])] == [5]
    desk.committer.committed([GroupPartition(ID, 0)], as_member=True)
    assert [(request.member_id, request.member_epoch) for request in desk.calls.asked] == [("", 0), ("m", 3)]


def test_closing_waits_for_what_was_asked_for_and_takes_no_more() -> None:
    desk = Desk()
    desk.calls.gate.clear()
    done = [desk.committer.commit_later([at(n)]) for n in range(3)]
    closing = threading.Thread(target=desk.committer.close)
    closing.start()
    desk.calls.gate.set()
    closing.join(WAIT_S)
    assert [one.done() for one in done] == [True] * 3 and desk.calls.closed
    with pytest.raises(RayQueueError, match="closed"):
        desk.committer.commit_later([at(9)])


def test_a_commit_that_is_cancelled_is_not_made_and_stops_no_other() -> None:
    desk = Desk()
    desk.calls.gate.clear()
    first = desk.committer.commit_later([at(1)])
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    second, third = desk.committer.commit_later([at(2)]), desk.committer.commit_later([at(3)])
    assert second.cancel() and not first.cancel()
    desk.calls.gate.set()
    first.result(WAIT_S), third.result(WAIT_S)
    assert desk.calls.commits == [1, 3]


def test_what_waits_under_one_standing_is_committed_together_and_errors_go_to_whom_they_concern() -> None:
    desk = Desk()
    desk.calls.gate.clear()
    first = desk.committer.commit_later([at(1)])
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    waiting = [desk.committer.commit_later([at(n)]) for n in range(2, 50)]
    other = desk.committer.commit_later([at(7, 1)])
    desk.calls.errors = ["", ["", "PartitionNotOwned"]]
    desk.calls.gate.set()
    assert [one.result(WAIT_S) for one in [first, *waiting]] == [None] * 49
    with pytest.raises(PartitionNotOwned):
        other.result(WAIT_S)
    assert [request.offsets for request in desk.calls.asked] == [[at(1)], [at(49), at(7, 1)]]


def test_a_commit_that_waits_for_others_has_a_time_limit() -> None:
    desk = Desk()
    desk.calls.gate.clear()
    first = desk.committer.commit_later([at(1)])
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    with pytest.raises(RequestTimeout, match="before it wait$"):
        desk.committer.commit([at(2)], 0.05)
    desk.calls.gate.set()
    first.result(WAIT_S)
    desk.committer.close()
    assert desk.calls.commits == [1], "what was given up is not made later"


def test_closing_fails_what_is_not_done_in_time_and_ends_the_thread() -> None:
    desk = Desk()
    desk.committer = Committer(desk.calls, "g", lambda: desk.standing, 0.1)  # type: ignore[arg-type]
    desk.calls.gate.clear()
    first = desk.committer.commit_later([at(1)])
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    left = [first, *(desk.committer.commit_later([at(n)]) for n in range(2, 5))]
    thread = desk.committer._thread
    desk.committer.close()
    for one in left:
        with pytest.raises(RequestTimeout, match="closed"):
            one.result(0)
    desk.calls.gate.set()
    assert thread is not None
    thread.join(WAIT_S)
    assert not thread.is_alive() and desk.calls.commits == [1]


def cursor(position: int | None, partition: int = 0) -> Cursor:
    made = Cursor("t", ID, partition)
    made.position = position
    return made


def test_automatic_commits_are_made_when_due_and_of_what_has_moved() -> None:
    desk = Desk()
    auto = AutoCommit(desk.committer, True, 100, now_ms=0)
    here, unknown, still = cursor(4), cursor(None, 1), cursor(7, 2)
    auto.started(still, 7)
    auto.look([here, unknown, still], 99)
    assert desk.calls.asked == []
    auto.look([here, unknown, still], 100)
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    auto.finish([here, unknown, still])
    assert desk.calls.commits == [4], "once: what was committed needs no other"
    here.position = 6
    auto.finish([here])
    assert desk.calls.commits == [4, 6]


def test_an_automatic_commit_that_failed_is_made_again() -> None:
    desk = Desk()
    auto = AutoCommit(desk.committer, True, 100, now_ms=0)
    here = cursor(4)
    desk.calls.errors = [GroupCoordinatorNotAvailable("nobody")]
    auto.finish([here])
    auto.look([here], 100)
    desk.committer.close()
    assert desk.calls.commits == [4, 4]


def test_while_one_is_under_way_none_is_begun() -> None:
    desk = Desk()
    auto = AutoCommit(desk.committer, True, 100, now_ms=0)
    here = cursor(1)
    desk.calls.gate.clear()
    auto.look([here], 100)
    assert desk.calls.reached.acquire(timeout=WAIT_S)
    for n in range(2, 6):
        here.position = n
        auto.look([here], 100 * n)
    desk.calls.gate.set()
    auto.finish([here])
    assert desk.calls.commits == [1, 5]


def test_not_enabled_it_commits_nothing() -> None:
    desk = Desk()
    auto = AutoCommit(desk.committer, False, 100, now_ms=0)
    auto.look([cursor(4)], 1000)
    auto.finish([cursor(4)])
    assert desk.calls.asked == []
