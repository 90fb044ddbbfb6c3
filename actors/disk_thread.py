"""Work on logs that takes as long as the disk does, on a thread of its own: fsyncs on one, cuts on another.

So a topic that asks for them does not hold up those that do not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.replication import events as ev

T = TypeVar("T")


class DiskThread(Generic[T]):
    """Does one thing after the other.

    Args:
        name: the thread's.
        done: called with the partition and what the work gave: an event; `LogFailed` where it raised.
    """

    def __init__(self, name: str, done: Callable[[HostedPartition, T | ev.LogFailed], None]) -> None:
        self._done = done
        self._queue: SimpleQueue[tuple[HostedPartition, Callable[[], T]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, partition: HostedPartition, work: Callable[[], T]) -> None:
        """Queues work on a partition's log."""
        self._queue.put((partition, work))

    def stop(self) -> None:
        """Ends after what is queued."""
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            partition, work = item
            try:
                self._done(partition, work())
            except Exception as error:  # of any kind: a thread that ended here would leave every ack waiting
                self._done(partition, ev.LogFailed(str(error)))
