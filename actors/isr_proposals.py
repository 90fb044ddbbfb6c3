"""What replicas ask of the coordinator: another ISR for a partition, to be replaced as its leader, or, where nobody
leads, to be compared with the others. One thread, one request for all.

A request whose outcome is not known (the coordinator was away, the answer was lost) is made again: it is compare and
set, so twice is once. It ends when the coordinator has answered, or the metadata log has moved on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, RayQueueError
from rayqueue.protocol.messages import (
    AlterPartition,
    AlterPartitionsRequest,
    AlterPartitionsResponse,
    Empty,
    LogEnd,
    ReportLogEnds,
    ResignLeaderRequest,
)
from rayqueue.replication import events as ev

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
RETRY_S = 0.1


class IsrProposals:
    """See the module.

    Args:
        channel: to the coordinator.
        broker_id, slot, incarnation: who asks.
        refused: takes a refusal to the loop.
    """

    def __init__(
        self,
        channel: CoordinatorChannel,
        broker_id: int,
        slot: int,
        incarnation: str,
        refused: Callable[[HostedPartition, ev.IsrRefused], None],
    ) -> None:
        self._channel = channel
        self._who = broker_id, slot, incarnation
        self._refused = refused
        self._changed = threading.Condition()
        self._wanted: dict[HostedPartition, ev.ProposeIsr] = {}
        self._resigned: list[ResignLeaderRequest] = []
        self._reports: dict[HostedPartition, ev.ReportLogEnd] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="isr-proposals", daemon=True)
        self._thread.start()

    def propose(self, partition: HostedPartition, effect: ev.ProposeIsr) -> None:
        """Asks for an ISR; in place of what was asked for this partition before."""
        with self._changed:
            self._wanted[partition] = effect
            self._changed.notify()

    def resign(self, partition: HostedPartition, effect: ev.Resign) -> None:
        """Asks for another leader."""
        request = ResignLeaderRequest(*self._who, partition.topic_id, partition.partition, effect.leader_epoch)
        with self._changed:
            self._resigned.append(request)
            self._changed.notify()

    def report(self, partition: HostedPartition, effect: ev.ReportLogEnd) -> None:
        """Tells where a log ends; in place of what was told of it before."""
        with self._changed:
            self._reports[partition] = effect
            self._changed.notify()

    def stop(self, timeout_s: float = TIMEOUT_S) -> None:
        """Asks for nothing more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._wanted or self._resigned or self._reports)
                if self._stopping:
                    return
                wanted, resigned, reports = dict(self._wanted), self._resigned[:1], dict(self._reports)
            try:
                self._ask(wanted)
                self._step_down(resigned)
                self._tell(reports)
            except Exception as error:
                ours = isinstance(error, RayQueueError)
                log.log(
                    logging.DEBUG if ours else logging.ERROR,
                    "asking the coordinator again: %s",
                    error,
                    exc_info=not ours,
                )
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, RETRY_S)

    def _ask(self, wanted: dict[HostedPartition, ev.ProposeIsr]) -> None:
        if not wanted:
            return
        changes = [
            AlterPartition(p.topic_id, p.partition, effect.leader_epoch, effect.partition_epoch, effect.isr)
            for p, effect in wanted.items()
        ]
        try:
            request = AlterPartitionsRequest(*self._who, changes)
            answer = self._channel.call("alter_partitions", request, AlterPartitionsResponse, TIMEOUT_S)
            errors = answer.errors
        except RayQueueError as error:
            if error.retriable:
                raise
            # Perhaps we count as gone: then nothing that we ask is taken, until we are heard of again.
            errors = [type(error).__name__] * len(changes)
        for (partition, effect), refusal in zip(wanted.items(), errors, strict=True):
            with self._changed:
                if self._wanted.get(partition) is effect:
                    del self._wanted[partition]
            if refusal:
                log.info("%r: an ISR of %s is refused: %s", partition, effect.isr, refusal)
                self._refused(partition, ev.IsrRefused(effect.partition_epoch, refusal))

    def _tell(self, reports: dict[HostedPartition, ev.ReportLogEnd]) -> None:
        if not reports:
            return
        logs = [
            LogEnd(p.topic_id, p.partition, effect.leader_epoch, effect.last_epoch, effect.log_end)
            for p, effect in reports.items()
        ]
        try:
            self._channel.call("report_log_ends", ReportLogEnds(*self._who, logs), Empty, TIMEOUT_S)
        except ClusterMismatch as error:
            # We count as gone, or have a successor. If we are heard of again while nobody leads, we have to be asked.
            log.info("the ends of logs are not taken, they are told again: %s", error)
            raise BrokerNotAvailable(str(error)) from error
        with self._changed:
            for partition, effect in reports.items():
                if self._reports.get(partition) is effect:
                    del self._reports[partition]

    def _step_down(self, resigned: list[ResignLeaderRequest]) -> None:
        for request in resigned:
            try:
                self._channel.call("resign_leader", request, Empty, TIMEOUT_S)
            except RayQueueError as error:
                if error.retriable:
                    raise
                log.info("no need to resign: %s", error)  # we lead it no more, or its topic is gone
            with self._changed:
                self._resigned.remove(request)
