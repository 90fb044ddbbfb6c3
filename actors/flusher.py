"""Runs fsyncs on a thread of its own, so that a topic that asks for them does not hold up those that do not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.replication import events as ev


class Flusher:
    """Flushes logs one after the other.

    Args:
        done: called with the partition and `Flushed` or `LogFailed`.
    """

    def __init__(self, done: Callable[[HostedPartition, ev.Flushed | ev.LogFailed], None]) -> None:
        self._done = done
        self._queue: SimpleQueue[HostedPartition | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        self._thread.start()

    def submit(self, partition: HostedPartition) -> None:
        """Queues a flush."""
        self._queue.put(partition)

    def stop(self) -> None:
        """Ends after what is queued."""
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (partition := self._queue.get()) is not None:
            try:
                self._done(partition, ev.Flushed(partition.log.flush()))
            except Exception as error:  # of any kind: a thread that ended here would leave every ack waiting
                self._done(partition, ev.LogFailed(str(error)))
