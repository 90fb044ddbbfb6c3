"""Commits of one consumer: in the order in which they were asked for, now or in the background."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.groups.calls import CoordinatorCalls
from rayqueue.errors import PartitionNotOwned, RayQueueError, StaleMemberEpoch, from_wire
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
    done: Future[None]


class Committer:
    """Commits and reads a group's offsets.

    Args:
        standing: as whom, at this moment.
        holds: whether the member holds a partition at this moment.
    """

    def __init__(
        self,
        client: ClusterClient,
        calls: CoordinatorCalls,
        group_id: str,
        standing: Callable[[], Standing],
        holds: Callable[[GroupPartition], bool],
        timeout_s: float,
    ) -> None:
        self._client = client
        self._calls = calls
        self._group_id = group_id
        self._standing = standing
        self._holds = holds
        self._timeout_s = timeout_s
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
        with self._changed:
            direct = not (self._queue or self._busy)
            self._busy = self._busy or direct
        if direct:
            try:
                self._commit(offsets, timeout_s or self._timeout_s)
            finally:
                self._free()
        else:
            self.commit_later(offsets).result()

    def _free(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _commit(self, offsets: Sequence[CommittedOffset], timeout_s: float) -> None:
        """Tries again under a newer epoch, as long as the partitions are held."""
        left = list(offsets)

        def once(left_s: float) -> None:
            nonlocal left
            member_id, epoch = self._standing()
            request = OffsetCommitRequest(self._group_id, member_id, epoch, left, next(self._numbers))
            try:
                errors = self._ask(request, left_s)
            except StaleMemberEpoch as error:
                errors = [error] * len(left)
            stale = [offset for offset, error in zip(left, errors, strict=True) if isinstance(error, StaleMemberEpoch)]
            final = next((error for error in errors if error and not isinstance(error, StaleMemberEpoch)), None)
            if not stale:
                left = []
                if final is not None:
                    raise final
                return
            gone = [offset for offset in stale if not self._holds(GroupPartition(offset.topic_id, offset.partition))]
            if gone or final is not None:
                raise final or PartitionNotOwned(
                    f"group {self._group_id!r}: {len(gone)} partitions were taken away before their offsets were "
                    "committed: what was read of them since the last commit is read again by who has them now"
                )
            left = stale
            raise _Outdated(f"the member epoch {epoch} is not the present one")

        self._client.retry(once, timeout_s)

    def _ask(self, request: OffsetCommitRequest, timeout_s: float) -> list[RayQueueError | None]:
        response = self._calls.call("offset_commit", request, OffsetCommitResponse, timeout_s)
        pairs = zip(response.errors, response.messages, strict=True)
        return [from_wire(error, message) if error else None for error, message in pairs]

    def committed(
        self, partitions: Sequence[GroupPartition] | None, timeout_s: float | None = None
    ) -> list[CommittedOffset]:
        """What is committed, beside the partitions asked for; None: all there is.

        Raises: as `commit`.
        """

        def once(left_s: float) -> list[CommittedOffset]:
            member_id, epoch = self._standing()
            asked = None if partitions is None else list(partitions)
            request = OffsetFetchRequest(self._group_id, asked, member_id, epoch)
            try:
                return self._calls.call("offset_fetch", request, OffsetFetchResponse, left_s).offsets
            except StaleMemberEpoch as error:
                raise _Outdated(str(error)) from error

        return self._client.retry(once, timeout_s or self._timeout_s)

    # --- in the background -------------------------------------------------------------------------------------------

    def commit_later(self, offsets: Sequence[CommittedOffset]) -> Future[None]:
        """Commits in the background, in order."""
        asked = _Asked(offsets, Future())
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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy and (self._queue or self._closed), _IDLE_S)
                if not self._queue:
                    self._thread = None
                    return
                if self._busy:
                    continue
                self._busy = True
                asked = self._queue.popleft()
            try:
                self._commit(asked.offsets, self._timeout_s)
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


class _Outdated(StaleMemberEpoch):
    """There is a newer member epoch, or soon will be: worth another try while the partitions are held."""

    retriable = True
