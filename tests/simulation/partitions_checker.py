"""What must hold of replicated partitions at every moment, checked after every event. Fails with AssertionError.

White box (guarantees.md): at most one leader acks in an epoch; a leader holds all below the true high watermark; logs
agree below it; no (epoch, offset) stands for two batches; the ISR a leader counts contains the coordinator's, and every
member of that holds all that is committed; a replica's high watermark never falls but with a truncation below it.
Black box: what was acked is committed, at the offset that was said, and once; consumers read what is committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.protocol.messages import NO_PRODUCER, BatchHeader
from rayqueue.replication import events as ev
from rayqueue.replication.leader import Leader
from tests.simulation.partitions_broker import Request
from tests.simulation.partitions_log import MemoryLog

if TYPE_CHECKING:
    from tests.simulation.partitions_host import Host
    from tests.simulation.partitions_world import World


class Checker:
    """Sees all replicas at once.

    Attributes:
        committed: per partition, the true log below the true high watermark (the highest that any leader announced).
        acked: batches acked to acks=all.
    """

    def __init__(self, world: World, partitions: int) -> None:
        self._world = world
        self.committed = [MemoryLog() for _ in range(partitions)]
        self.acked = self.read = self.truncations = 0
        self._batches: dict[tuple[int, int, int], BatchHeader] = {}
        self._sequences: set[tuple[int, int, int, int]] = set()
        self._leaders: dict[tuple[int, int], str] = {}

    # --- replicas ----------------------------------------------------------------------------------------------------

    def stepped(self, host: Host) -> None:
        """A replica has taken an event."""
        host.machine.validate()
        role = host.machine.role
        if isinstance(role, Leader):
            state = self._world.coordinator.partitions[host.partition]
            if state.leader_epoch == role.leader_epoch and state.leader == host.broker_id:
                assert role.in_sync.maximal.issuperset(state.isr), (
                    f"{_name(host)} counts {sorted(role.in_sync.maximal)}, the ISR is {state.isr}"
                )

    def elected(self, host: Host) -> None:
        """A replica begins to lead: it must hold all that was ever committed, unless it is deposed already."""
        self._only_leader(host)
        if self._world.coordinator.partitions[host.partition].leader_epoch == host.machine.leader_epoch:
            self._holds(host, 0, "leads")
            host.broker.tainted.discard(host.partition)  # what it lost was nobody's

    def _only_leader(self, host: Host) -> None:
        key = (host.partition, host.machine.leader_epoch)
        other = self._leaders.setdefault(key, host.incarnation)
        assert other == host.incarnation, f"{host.incarnation} and {other} both lead {key}"

    def _holds(self, host: Host, begin: int, verb: str) -> None:
        committed = self.committed[host.partition]
        begin = max(begin, host.log.start)
        assert host.log.between(begin, committed.end) == committed.between(begin, committed.end), (
            f"{_name(host)} {verb} without all that is committed below {committed.end}: its log ends at {host.log.end}"
        )

    def appended(self, host: Host, batches: list[BatchHeader]) -> None:
        """Log matching: the same offset in the same epoch is the same batch."""
        for batch in batches:
            known = self._batches.setdefault((host.partition, batch.leader_epoch, batch.base_offset), batch)
            assert known is batch, f"{_name(host)}: two batches at {batch.base_offset} in epoch {batch.leader_epoch}"

    def marked(self, host: Host, mark: int) -> None:
        """A replica's high watermark has moved."""
        assert mark >= host.seen_mark, f"{_name(host)}: the high watermark falls from {host.seen_mark} to {mark}"
        committed, log = self.committed[host.partition], host.log
        if host.machine.leading:
            self._only_leader(host)
            if mark > committed.end:
                self._commit(host, mark)
        assert mark <= committed.end, f"{_name(host)}: high watermark {mark}, committed is {committed.end}"
        begin = max(host.seen_mark, log.start)
        assert log.between(begin, mark) == committed.between(begin, mark), f"{_name(host)} differs below {mark}"
        host.seen_mark = mark

    def _commit(self, host: Host, mark: int) -> None:
        committed = self.committed[host.partition]
        new = host.log.between(committed.end, mark)
        for batch in new:
            if batch.producer_id != NO_PRODUCER:
                key = (host.partition, batch.producer_id, batch.producer_epoch, batch.base_sequence)
                assert key not in self._sequences, f"{key} is committed twice"
                self._sequences.add(key)
        begin = committed.end
        committed.append(new)
        assert committed.end == mark, f"{_name(host)} commits {mark}, inside of a batch or beyond its log"
        state = self._world.coordinator.partitions[host.partition]
        self._members_hold(host.partition, state.isr, begin)

    def _members_hold(self, partition: int, members: list[int], begin: int) -> None:
        for member in members:
            broker = self._world.brokers[member]
            if partition not in broker.tainted:
                self._holds(broker.hosts[partition], begin, "is in sync")

    def committed_isr(self, partition: int) -> None:
        """The coordinator has committed a change of a partition."""
        state = self._world.coordinator.partitions[partition]
        self._members_hold(partition, state.isr, 0)
        if state.leader > 0:
            host = self._world.brokers[state.leader].hosts[partition]
            if host.leading and host.machine.leader_epoch == state.leader_epoch:
                self.stepped(host)

    def truncated(self, host: Host) -> None:
        """A replica has cut its log."""
        self.truncations += 1
        state = self._world.coordinator.partitions[host.partition]
        if host.broker_id in state.isr:
            self._members_hold(host.partition, [host.broker_id], 0)

    # --- clients -----------------------------------------------------------------------------------------------------

    def answered(self, host: Host, request: Request, reply: ev.Reply) -> None:
        """A leader answers a producer."""
        if reply.error or request.acks != -1:
            return
        self.acked += 1
        (there,) = self.committed[request.partition].between(reply.base_offset, reply.base_offset + 1) or (None,)
        sent = request.batch
        assert there is not None, f"{_name(host)} acks {reply.base_offset}, which is not committed"
        assert (there.producer_id, there.producer_epoch, there.base_sequence, there.record_count) == (
            (sent.producer_id, sent.producer_epoch, sent.base_sequence, sent.record_count)
        ), f"{_name(host)} acks {reply.base_offset}, where another batch is committed"

    def consumed(self, host: Host, offset: int, batches: list[BatchHeader]) -> None:
        """A consumer that stands at `offset` was given these."""
        for batch in batches:
            assert batch.base_offset == offset, f"{_name(host)} gives {batch.base_offset} to who stands at {offset}"
            offset = batch.last_offset + 1
            self.read += 1
        if batches:
            committed = self.committed[host.partition]
            assert batches == committed.between(batches[0].base_offset, offset), f"{_name(host)} gives other records"

    # --- in the end --------------------------------------------------------------------------------------------------

    def converged(self) -> str:
        """ "" when all replicas of all partitions are in sync, equal, and everything is committed; else what is not."""
        for partition, committed in enumerate(self.committed):
            state = self._world.coordinator.partitions[partition]
            if sorted(state.isr) != sorted(state.replicas):
                return f"partition {partition}: in sync are {state.isr}, led by {state.leader}"
            for broker in self._world.brokers.values():
                host = broker.hosts[partition]
                if host.log.end != committed.end or host.machine.high_watermark != committed.end:
                    mark = host.machine.high_watermark
                    return f"{_name(host)}: high watermark {mark}, log end {host.log.end}, committed {committed.end}"
                self._holds(host, 0, "has converged")
        return ""


def _name(host: Host) -> str:
    return f"{host.incarnation}/p{host.partition} (epoch {host.machine.leader_epoch})"
