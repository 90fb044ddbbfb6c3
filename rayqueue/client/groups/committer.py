"""Commits of one consumer: in the order in which they were asked for, now or in the background."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from typing import NamedTuple

from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.errors import RayQueueError, RequestTimeout, from_wire
from rayqueue.protocol.group_messages import (
    CommittedOffset,
    GroupPartition,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)

log = logging.getLogger("rayqueue.consumer")

_IDLE_S = 30.0

_Key = tuple[bytes, int]


class Standing(NamedTuple):
    """As whom is committed: a member under an epoch, or nobody ("" and 0)."""

    member_id: str
    epoch: int


class _Asked(NamedTuple):
    offsets: Sequence[CommittedOffset]
    standing: Standing
    done: Future[None]


class Committer:
    """Commits and reads a group's offsets.

    Args:
        standing: as whom, at this moment. It is that of the moment at which a commit is asked for, however often it is
            tried: a partition that was lost and given to us again meanwhile may have been read on by another.

    Attributes:
        on_asked: called with the offsets of each commit asked for. on_done: with those committed, on any thread.
    """

    def __init__(
        self,
        calls: CoordinatorCalls,
        group_id: str,
        standing: Callable[[], Standing],
        timeout_s: float,
    ) -> None:
        self._calls = calls
        self._group_id = group_id
        self._standing = standing
        self._timeout_s = timeout_s
        self.on_asked: Callable[[Sequence[CommittedOffset]], None] = _unheard
        self.on_done: Callable[[Sequence[CommittedOffset]], None] = _unheard
        self._changed = threading.Condition()
        self._queue: deque[_Asked] = deque()
        self._numbers = itertools.count(1)
        self._busy = False  # somebody commits
        self._thread: threading.Thread | None = None
        self._under_way: list[_Asked] = []  # by the thread
        self._closed = False
        self._close_by = 0.0

    # --- now ---------------------------------------------------------------------------------------------------------

    def commit(self, offsets: Sequence[CommittedOffset], timeout_s: float | None = None) -> None:
        """Commits, after what was asked for before.

        Raises:
            PartitionNotOwned, UnknownMember, GroupCoordinatorNotAvailable, BrokerNotAvailable, RequestTimeout: what
                the others hold is committed all the same.
        """
        if not offsets:
            return
        self.on_asked(offsets)
        limit_s = timeout_s or self._timeout_s
        with self._changed:
            direct = not (self._queue or self._busy)
            self._busy = self._busy or direct
        if direct:
            try:
                errors = self._commit(offsets, self._standing(), limit_s)
            finally:
                self._free()
            if errors:
                raise next(iter(errors.values()))
            return
        later = self._later(offsets)
        try:
            later.result(limit_s)
        except FutureTimeout:
            if later.done():  # it is the outcome, or that has come just now
                return later.result()
            kept = "" if later.cancel() else "; whether it is done is not known"
            raise RequestTimeout(f"offsets were not committed in {limit_s:g} s: commits before it wait{kept}") from None

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _commit(
        self, offsets: Sequence[CommittedOffset], standing: Standing, timeout_s: float
    ) -> dict[_Key, RayQueueError]:
        """Gives what went wrong, by partition; in the order of the offsets."""
        number = next(self._numbers)
        request = OffsetCommitRequest(self._group_id, standing.member_id, standing.epoch, list(offsets), number)
        response = self._calls.call("offset_commit", request, OffsetCommitResponse, timeout_s)
        self.on_done([one for one, error in zip(offsets, response.errors, strict=True) if not error])
        return {
            (one.topic_id, one.partition): from_wire(error, message)
            for one, error, message in zip(offsets, response.errors, response.messages, strict=True)
            if error
        }

    def committed(
        self, partitions: Sequence[GroupPartition], timeout_s: float | None = None, as_member: bool = False
    ) -> list[CommittedOffset]:
        """What is committed, beside the partitions asked for. as_member: only a member is told where to begin.

        Raises: as `commit`.
        """

        member_id, epoch = self._standing() if as_member else Standing("", 0)
        request = OffsetFetchRequest(self._group_id, list(partitions), member_id, epoch)
        return self._calls.call("offset_fetch", request, OffsetFetchResponse, timeout_s or self._timeout_s).offsets

    # --- in the background -------------------------------------------------------------------------------------------

    def commit_later(self, offsets: Sequence[CommittedOffset]) -> Future[None]:
        """Commits in the background, in order. What waits under one standing is committed together: of each partition
        the last."""
        self.on_asked(offsets)
        return self._later(offsets)

    def _later(self, offsets: Sequence[CommittedOffset]) -> Future[None]:
        asked = _Asked(offsets, self._standing(), Future())
        if not offsets:
            asked.done.set_result(None)
            return asked.done
        with self._changed:
            if self._closed:
                raise RayQueueError("this consumer is closed: make a new one")
            self._queue.append(asked)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rayqueue-commits", daemon=True)
                self._thread.start()
        return asked.done

    def _work(self) -> None:
        """Ends when there was nothing to do for a while; the next commit in the background starts another."""
        try:
            self._serve()
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy and (self._queue or self._closed), _IDLE_S)
                if not self._queue:
                    self._thread = None
                    return
                if self._busy:
                    continue
                self._under_way = self._take()
                if not self._under_way:
                    continue
                self._busy = True
                left_s = self._close_by - time.monotonic() if self._closed else self._timeout_s
            try:
                self._commit_together(self._under_way, left_s)
            finally:
                self._free()

    def _take(self) -> list[_Asked]:
        """What stands in the queue under one standing, without what was cancelled."""
        taken: list[_Asked] = []
        while self._queue and (not taken or self._queue[0].standing == taken[0].standing):
            asked = self._queue.popleft()
            if asked.done.set_running_or_notify_cancel():
                taken.append(asked)
        return taken

    def _commit_together(self, together: list[_Asked], left_s: float) -> None:
        newest = {(one.topic_id, one.partition): one for asked in together for one in asked.offsets}
        errors: dict[_Key, RayQueueError] = {}
        failure: BaseException | None = _left_over() if left_s <= 0 else None
        if failure is None:
            try:
                errors = self._commit(list(newest.values()), together[0].standing, left_s)
            except RayQueueError as error:
                failure = error
            except BaseException as error:
                log.exception("committing in the background failed")
                failure = error
        for asked in together:
            keys = ((one.topic_id, one.partition) for one in asked.offsets)
            _settle(asked, failure or next((errors[key] for key in keys if key in errors), None))

    def close(self) -> None:
        """Waits for what was asked for, within the time limit; then nothing is taken any more, what is left fails."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._close_by = time.monotonic() + self._timeout_s
            self._changed.notify_all()
            thread = self._thread
        try:
            if thread is not None:
                thread.join(self._timeout_s)
        finally:
            with self._changed:
                left = [*self._under_way, *self._take_all()]
            for asked in left:
                _settle(asked, _left_over())
            self._calls.close()

    def _take_all(self) -> list[_Asked]:
        taken: list[_Asked] = []
        while self._queue:
            taken += self._take()
        return taken


def _settle(asked: _Asked, error: BaseException | None) -> None:
    with contextlib.suppress(InvalidStateError):  # `close` did not wait for it any longer
        if error is None:
            asked.done.set_result(None)
        else:
            asked.done.set_exception(error)


def _left_over() -> RequestTimeout:
    return RequestTimeout("the consumer was closed, and the offsets were not known to be committed in time")


def _unheard(_: Sequence[CommittedOffset]) -> None:
    return None
