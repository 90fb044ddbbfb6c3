"""Compaction of all logs that a replica actor hosts: on one thread, one after the other, at a low priority and no
faster than the brokers' settings allow."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Collection

from rayqueue.actors.compacting import Outcome
from rayqueue.actors.disk_thread import DiskThread
from rayqueue.actors.driver import boot_ms
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.errors import RayQueueError
from rayqueue.replication.token_bucket import TokenBucket
from rayqueue.storage.compaction.plan import Plan
from rayqueue.storage.compaction.reading import KeyColumns
from rayqueue.storage.compaction.run import Compacted, Work

NICENESS = 10
_TO_BE_TOLD = KeyColumns("", ())


class Compactor:
    """See the module.

    Args:
        memory: for the keys of a log, bytes. bytes_per_s: of what is read and written.
        done: called with a partition and what came of it, on the thread.
    """

    def __init__(self, memory: int, bytes_per_s: int, done: Callable[[HostedPartition, Outcome], None]) -> None:
        self._memory = memory
        self._bucket = TokenBucket(bytes_per_s, boot_ms())
        self._thread = DiskThread[Compacted | RayQueueError]("compactor", done)
        self._nice = False

    def submit(self, partition: HostedPartition, due: Plan, wall_ms: int, producers: Collection[int]) -> None:
        """Queues a round. producers: those whose last batch has to stay."""
        seed = secrets.randbits(64), secrets.randbits(64)
        work = Work(wall_ms, _TO_BE_TOLD, seed, producers, self._memory, self._wait_s)
        self._thread.submit(partition, lambda: self._run(partition, due, work))

    def _run(self, partition: HostedPartition, due: Plan, work: Work) -> Compacted | RayQueueError:
        if not self._nice and sys.platform == "linux":  # where each thread has a priority of its own
            self._nice = True
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        return partition.compaction.run(partition, due, work)

    def _wait_s(self, size: int) -> float:
        now_ms = boot_ms()
        self._bucket.take(size, now_ms)
        return 0.0 if self._bucket.available(now_ms) else max(0, self._bucket.ready_ms(now_ms) - now_ms) / 1000

    def stop(self) -> None:
        """Ends after what is queued: of logs that are closed, which takes no time."""
        self._thread.stop()
