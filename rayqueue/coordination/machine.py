"""The coordinator's machine: deterministic, without threads, clocks, files or sockets.

A command's handler gives `(records, response)`; the machine replays the records at once (so the next command sees
them), asks for them to be appended, and keeps the response until they are committed and, where the command says so,
until the replica actors concerned have applied them. Recovery is replay.

    Call ── handler ──▶ records ─ replay ─▶ Append ──▶ Committed ──▶ (Applied ...) ──▶ Reply
                  └──▶ error ──▶ Refuse

Nothing uncommitted ever leaves: answers wait for their index, also those of calls that change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayqueue.coordination import commands_partitions, commands_processes, commands_reassignment, commands_topics
from rayqueue.coordination.commands import Actors, Result, Surroundings
from rayqueue.coordination.events import (
    Append,
    Applied,
    Call,
    Committed,
    Effect,
    Event,
    Publish,
    Refuse,
    Reply,
    Stalled,
    Tick,
    Warn,
    WatchEnded,
    WatchStarted,
)
from rayqueue.coordination.image import COORDINATOR, GROUPS, MetadataImage
from rayqueue.coordination.leadership import after_loss, after_return
from rayqueue.coordination.records import (
    BrokerStateRecord,
    ClusterRecord,
    PartitionRecord,
    Record,
    ReplicaActorRecord,
    ReplicaActorStateRecord,
    encode_record,
)
from rayqueue.coordination.sessions import BROKER, Sessions
from rayqueue.coordination.unclean import after_come_back
from rayqueue.coordination.upkeep import Upkeep
from rayqueue.coordination.views import describe_cluster
from rayqueue.errors import (
    BrokerNotAvailable,
    ClusterMismatch,
    ProcessReplaced,
    ProtocolError,
    RayQueueError,
    RecordTooLarge,
    RequestTimeout,
)
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    AlterPartitionsRequest,
    ControlledShutdownRequest,
    CreateGroupsTopic,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    ElectLeadersRequest,
    Empty,
    MetadataRequest,
    NamedError,
    ReassignPartitionsRequest,
    RegisterBroker,
    RegisterCoordinator,
    RegisterGroupActor,
    RegisterReplicaActor,
    ReportLogEnds,
    ResignLeaderRequest,
    TopicsResponse,
)

# Longest wait of a metadata request for an index that is not there yet.
METADATA_WAIT_MS = 2_000
MAX_WAIT_MS = 10 * 60 * 1000
# What a command may add to the metadata log: it travels to the other copies in one message.
COMMAND_BYTES_MAX = 12 * 1024 * 1024


@dataclass(frozen=True)
class FormatCluster:
    """The first command: makes an empty log the log of a cluster. Where there is one already it does nothing.

    Attributes:
        must_match: refuse when the log is another cluster's; else the id is only what an empty log gets.
    """

    cluster_id: str
    must_match: bool = True


@dataclass
class Parked:
    """An answer that waits.

    Attributes:
        index: until all records below it are committed.
        waits_for, dead_too: see Result; still missing ones.
    """

    call: int
    response: Any
    index: int
    waits_for: Actors
    dead_too: bool
    deadline_ms: int


class CoordinatorMachine:
    """The active coordinator.

    Invariants: committed <= end; a call is parked at most once and answered exactly once; see `Sessions`.
    """

    def __init__(
        self,
        around: Surroundings,
        image: MetadataImage,
        epoch: int,
        address: tuple[str, int],
        now_ms: int,
        silent_ms: Mapping[str, int] | None = None,
    ) -> None:
        """image: of the whole log, all of it committed; this machine's own from now on. epoch: of this coordinator.
        address: its host and port. silent_ms: see `Sessions`."""
        self.around = around
        self.epoch = epoch
        self.address = address
        self.image = image
        self.state = image.state
        self.committed = image.end
        self._parked: dict[int, Parked] = {}
        self._applied: dict[str, int] = {}
        self._sessions = Sessions(self.state, now_ms, silent_ms)
        self._upkeep = Upkeep(self.state, around.config, now_ms)

    # --- events --------------------------------------------------------------------------------------------------

    def step(self, event: Event, now_ms: int, wall_ms: int) -> list[Effect]:
        """Takes one event; the effects are to be performed in order."""
        effects: list[Effect] = []
        match event:
            case Call():
                try:
                    self._call(event, now_ms, wall_ms, effects)
                except RayQueueError as error:
                    effects.append(Refuse(event.call, error))
            case Committed():
                if event.end > self.committed:
                    self.committed = event.end
                    effects.append(Publish(event.end))
            case WatchStarted():
                self._sessions.started(event.watcher)
                self._revive(event.watcher, effects)
            case WatchEnded():
                self._sessions.ended(event.watcher, now_ms)
            case Applied():
                self._has_applied(event)
            case Stalled():
                self._sessions.stalled(now_ms)
            case Tick():
                pass
        self._sessions.refresh(now_ms)
        self._expire(now_ms, effects)
        for records in self._upkeep.due(self.end, now_ms):
            self._append(records, effects)
        self._answer(now_ms, effects)
        return effects

    @property
    def end(self) -> int:
        """The index after all records that were made, committed or not."""
        return self.image.end

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is due, whatever else happens; None: nothing waits."""
        deadlines = [parked.deadline_ms for parked in self._parked.values()]
        others = (self._sessions.next_deadline_ms(), self._upkeep.next_deadline_ms())
        return min([*deadlines, *(one for one in others if one is not None)], default=None)

    def is_watching(self, incarnation: str) -> bool:
        """Whether the process of this incarnation has a stream of the metadata log open."""
        return self._sessions.is_watching(incarnation)

    def leads(self, actor: ReplicaActorRecord) -> bool:
        """Whether this incarnation has said that it serves what it leads since it registered."""
        registered = self.image.registered[actor.broker_id, actor.slot]
        return self.is_watching(actor.incarnation) and self._applied.get(actor.incarnation, 0) >= registered

    # --- commands ------------------------------------------------------------------------------------------------

    def _call(self, event: Call, now_ms: int, wall_ms: int, effects: list[Effect]) -> None:
        request = event.request
        if isinstance(request, FormatCluster):
            result = self._format(request, wall_ms)
        elif not self.state.cluster_id:
            raise BrokerNotAvailable("the coordinator holds no cluster yet: rayqueue.start() makes one; try again")
        elif isinstance(request, MetadataRequest):
            self._park_metadata(event.call, request, now_ms)
            return
        else:
            result = self._command(request)
        _check_size(result.records)
        self._append(result.records, effects)
        if hasattr(result.response, "index"):
            result.response.index = self.end
        deadline = now_ms + min(max(result.timeout_ms, 0), MAX_WAIT_MS)
        self._parked[event.call] = Parked(
            event.call, result.response, self.end, result.waits_for, result.dead_too, deadline
        )

    def _has_applied(self, event: Applied) -> None:
        current = {actor.incarnation for actor in self.state.replica_actors.values()}
        self._applied = {one: index for one, index in self._applied.items() if one in current}
        if event.watcher in current:  # brokers act on nothing, and what is over leads nothing
            self._applied[event.watcher] = max(event.index, self._applied.get(event.watcher, 0))

    def _command(self, request: Any) -> Result:
        match request:
            case CreateTopicsRequest():
                return commands_topics.create_topics(self.state, request, self.around)
            case CreateGroupsTopic():
                return commands_topics.create_groups_topic(self.state, request, self.around)
            case DeleteTopicsRequest():
                return commands_topics.delete_topics(self.state, request)
            case CreatePartitionsRequest():
                return commands_topics.create_partitions(self.state, request, self.around)
            case AlterConfigRequest():
                return commands_topics.alter_config(self.state, request, self.around)
            case RegisterCoordinator():
                self._refuse_superseded((request.coordinator_id, COORDINATOR), request.incarnation)
                return commands_processes.register_coordinator(self.state, request)
            case RegisterBroker():
                self._refuse_superseded((request.broker_id, -1), request.incarnation)
                return commands_processes.register_broker(self.state, request)
            case RegisterReplicaActor():
                self._refuse_superseded((request.broker_id, request.slot), request.incarnation)
                return commands_processes.register_replica_actor(self.state, request)
            case RegisterGroupActor():
                self._refuse_superseded((request.broker_id, GROUPS), request.incarnation)
                return commands_processes.register_group_actor(self.state, request)
            case AlterPartitionsRequest():
                return commands_partitions.alter_partitions(self.state, request)
            case ResignLeaderRequest():
                return commands_partitions.resign_leader(self.state, request)
            case ElectLeadersRequest():
                return commands_partitions.elect_leaders(self.state, request)
            case ReassignPartitionsRequest():
                return commands_reassignment.reassign_partitions(self.state, request)
            case ControlledShutdownRequest():
                return commands_partitions.controlled_shutdown(self.state, request)
            case ReportLogEnds():
                return commands_processes.report_log_ends(self.state, request)
            case AllocateProducerIds():
                return commands_processes.allocate_producer_ids(self.state, request)
            case _:
                raise ProtocolError(f"the coordinator takes no {type(request).__name__}")

    def _format(self, request: FormatCluster, wall_ms: int) -> Result:
        if not self.state.cluster_id:
            return Result([ClusterRecord(request.cluster_id, wall_ms)], Empty())
        if request.must_match and self.state.cluster_id != request.cluster_id:
            raise ClusterMismatch(
                f"the data directory holds cluster {self.state.cluster_id}, not {request.cluster_id}: "
                "use another data_dir"
            )
        return Result([], Empty())

    def _park_metadata(self, call: int, request: MetadataRequest, now_ms: int) -> None:
        # A client asks for an index that some coordinator told it, so an index we do not have is of no log of ours;
        # it gets what there is once the wait is over.
        index = max(request.min_index, self.end)
        self._parked[call] = Parked(call, request, index, frozenset(), False, now_ms + METADATA_WAIT_MS)

    # --- records -------------------------------------------------------------------------------------------------

    def _append(self, records: list[Record], effects: list[Effect]) -> None:
        if not records:
            return
        effects.append(Append(self.end, records))
        for record in records:
            if isinstance(record, PartitionRecord) and record.unclean_epoch == record.leader_epoch:
                self._warn_of_unclean(record, effects)
            self.image.replay(record)

    def _warn_of_unclean(self, record: PartitionRecord, effects: list[Effect]) -> None:
        topic = self.state.topics_by_id[record.topic_id]
        before = topic.partitions[record.partition]
        if before.leader_epoch < record.leader_epoch:
            had = sorted({*before.isr, *before.elr, *(one.broker_id for one in before.unclean)})
            what = f"broker {record.leader} leads {topic.name}-{record.partition} from epoch {record.leader_epoch} on"
            effects.append(Warn(f"UNCLEAN ELECTION: {what}; what only {had} held is lost, also if it was acked"))

    def _refuse_superseded(self, process: tuple[int, int], incarnation: str) -> None:
        # A process is killed, its successor registers, then a copy of the old request arrives. Taken, it would name a
        # dead process as leader. A request of which no copy was heard before is taken all the same, whenever it comes:
        # then the successor reads in the log that it was replaced, ends, and another registers.
        if self.image.is_superseded(process, incarnation):
            raise ProcessReplaced(f"process {incarnation} has a successor already: it must end")

    # --- answers -------------------------------------------------------------------------------------------------

    def _answer(self, now_ms: int, effects: list[Effect]) -> None:
        for parked in list(self._parked.values()):
            late = now_ms >= parked.deadline_ms
            if isinstance(parked.response, MetadataRequest):
                done = self.committed >= parked.index or (late and self.committed == self.end)
            else:
                done = self.committed >= parked.index and (late or not self._missing(parked))
            if done:
                del self._parked[parked.call]
                effects.append(Reply(parked.call, self._response(parked)))
            elif late:
                # The disk has not answered. Whether the records will be there after a restart is not known.
                del self._parked[parked.call]
                message = "the coordinator could not write its log in time; whether the change was made is not known"
                effects.append(Refuse(parked.call, RequestTimeout(message)))

    def _response(self, parked: Parked) -> Any:
        if isinstance(parked.response, MetadataRequest):
            return describe_cluster(self.state, parked.response, self.end, self.address, self.epoch)
        if parked.dead_too and isinstance(parked.response, TopicsResponse):
            missing = self._missing(parked)
            if missing:
                where = ", ".join(f"broker {b} slot {s}" for b, s in sorted(missing))
                message = f"created, but not yet served: no answer from {where}; `rayqueue status` shows what is down"
                parked.response.results = [
                    r if r.error else NamedError(r.name, "RequestTimeout", message) for r in parked.response.results
                ]
        return parked.response

    def _missing(self, parked: Parked) -> set[tuple[int, int]]:
        """The replica actors that still have to apply."""
        missing = set()
        for key in parked.waits_for:
            actor = self.state.replica_actors.get(key)
            if actor is None:
                if parked.dead_too:
                    missing.add(key)
                continue
            concerned = parked.dead_too or self.is_watching(actor.incarnation)
            if concerned and self._applied.get(actor.incarnation, 0) < parked.index:
                missing.add(key)
        return missing

    # --- which processes are there -------------------------------------------------------------------------------

    def _expire(self, now_ms: int, effects: list[Effect]) -> None:
        """Who has not come back counts as gone, and what it led is led by others."""
        for broker_id, slot in self._sessions.expired(now_ms):
            if slot == BROKER:
                self._append([BrokerStateRecord(broker_id, False)], effects)
                continue
            actor = self.state.replica_actors[broker_id, slot]
            self._append([ReplicaActorStateRecord(broker_id, slot, actor.incarnation, False)], effects)
            self._append(list(after_loss(self.state, broker_id, slot)), effects)
        self._sessions.refresh(now_ms)

    def _revive(self, watcher: str, effects: list[Effect]) -> None:
        """Who counted as gone has opened a stream."""
        for broker_id, broker in self.state.brokers.items():
            if broker.incarnation == watcher and not self.state.alive[broker_id]:
                self._append([BrokerStateRecord(broker_id, True)], effects)
        for broker_id, slot in sorted(self.state.lost):
            if self.state.replica_actors[broker_id, slot].incarnation == watcher:
                self._append([ReplicaActorStateRecord(broker_id, slot, watcher, True)], effects)
                self._append(list(after_return(self.state, broker_id, slot)), effects)
                self._append(list(after_come_back(self.state, broker_id, slot)), effects)

    # --- invariants ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Asserts every invariant; for tests, after each event."""
        self.state.validate()
        assert 0 <= self.committed <= self.end
        assert all(call == parked.call for call, parked in self._parked.items())
        self._sessions.validate()


def _check_size(records: list[Record]) -> None:
    """Raises RecordTooLarge, before anything has changed, when a command makes more than one message can carry."""
    size = sum(len(encode_record(record)) for record in records)
    if size > COMMAND_BYTES_MAX:
        raise RecordTooLarge(
            f"this would add {size} bytes to the metadata log; a request may add {COMMAND_BYTES_MAX}: ask for fewer "
            "topics or partitions at once, or for a smaller schema"
        )
