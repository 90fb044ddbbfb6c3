"""Commits of one consumer: in the order in which they were asked for, now or in the background."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.errors import RayQueueError, from_wire
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
        self._closed = False

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
        with self._changed:
            direct = not (self._queue or self._busy)
            self._busy = self._busy or direct
        if direct:
            try:
                self._commit(offsets, self._standing(), timeout_s or self._timeout_s)
            finally:
                self._free()
        else:
            self._later(offsets).result()

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _commit(self, offsets: Sequence[CommittedOffset], standing: Standing, timeout_s: float) -> None:
        number = next(self._numbers)
        request = OffsetCommitRequest(self._group_id, standing.member_id, standing.epoch, list(offsets), number)
        response = self._calls.call("offset_commit", request, OffsetCommitResponse, timeout_s)
        self.on_done([one for one, error in zip(offsets, response.errors, strict=True) if not error])
        for error, message in zip(response.errors, response.messages, strict=True):
            if error:
                raise from_wire(error, message)

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
        """Commits in the background, in order."""
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
                asked = self._queue.popleft()
                if not asked.done.set_running_or_notify_cancel():
                    continue
                self._busy = True
            try:
                self._commit(asked.offsets, asked.standing, self._timeout_s)
            except RayQueueError as error:
                asked.done.set_exception(error)
            except BaseException as error:
                log.exception("committing in the background failed")
                asked.done.set_exception(error)
            else:
                asked.done.set_result(None)
            finally:
                self._free()

    def close(self) -> None:
        """Waits for what was asked for (it has its time limit); then nothing is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(self._timeout_s)
        self._calls.close()


def _unheard(_: Sequence[CommittedOffset]) -> None:
    return None
