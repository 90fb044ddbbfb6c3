"""When a partition's log is compacted, and what becomes of that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rayqueue.errors import RayQueueError, StorageError
from rayqueue.replication import events as ev
from rayqueue.storage.compaction.plan import Plan
from rayqueue.storage.compaction.reading import KeyColumns
from rayqueue.storage.compaction.run import Compacted, Work

if TYPE_CHECKING:
    from rayqueue.actors.hands import Hands
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)

# After a round that failed, lest a damaged batch is read again and again.
AGAIN_MS = 60_000

Outcome = Compacted | RayQueueError | ev.LogFailed


class PartitionCompaction:
    """One partition's. Belongs to the loop, but for `run`.

    Args:
        columns: where its keys stand; None: a typed topic without a key column, which is not compacted.
    """

    def __init__(self, columns: KeyColumns | None) -> None:
        self._columns = columns
        self._running = False
        self._not_before_ms = 0

    def begin(self, partition: HostedPartition, hands: Hands, now_ms: int, wall_ms: int) -> None:
        """Asks for a round if one is due."""
        if self._running or self._columns is None or now_ms < self._not_before_ms:
            return
        try:
            due = partition.log.compaction_due(wall_ms, partition.high_watermark)
        except StorageError as error:
            log.error("%r cannot be compacted: %s", partition, error)
            return
        if due is not None:
            self._running = True
            hands.compact(partition, due, wall_ms)

    def run(self, partition: HostedPartition, due: Plan, work: Work) -> Compacted | RayQueueError:
        """Compacts; what is wrong is the answer. On the compactor's thread."""
        assert self._columns is not None
        try:
            return partition.log.compact(due, work._replace(columns=self._columns))
        except RayQueueError as error:
            return error

    def done(self, partition: HostedPartition, outcome: Outcome, now_ms: int, wall_ms: int) -> None:
        """What came of it; those who map the log hear of its new files."""
        self._running = False
        if partition.closed:
            return
        if isinstance(outcome, Compacted):
            if outcome.segments:
                log.info("%r was compacted up to offset %d: %s", partition, outcome.end, outcome)
        else:
            self._not_before_ms = now_ms + AGAIN_MS
            log.error("%r is not compacted: %s", partition, outcome)
            if not partition.log.online:
                partition.step(ev.LogFailed(f"compaction failed: {outcome}"), now_ms, wall_ms)
        partition.notify()  # also where it failed: a part of it may have been done
