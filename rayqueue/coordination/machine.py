"""The coordinator's machine: deterministic, without threads, clocks, files or sockets.

A command's handler gives `(records, response)`; the machine replays the records at once (so the next command sees
them), asks for them to be appended, and keeps the response until they are committed and, where the command says so,
until the replica actors concerned have applied them. Recovery is replay.

    Call ── handler ──▶ records ─ replay ─▶ Append ──▶ Committed ──▶ (Applied ...) ──▶ Reply
                  └──▶ error ──▶ Refuse

Nothing uncommitted ever leaves: answers wait for their index, also those of calls that change nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from rayqueue.coordination import commands_processes, commands_topics
from rayqueue.coordination.commands import Actors, Result, Surroundings
from rayqueue.coordination.events import (
    Append,
    Call,
    Committed,
    Effect,
    Event,
    Publish,
    Refuse,
    Reply,
    Tick,
    WatchEnded,
    WatchStarted,
)
from rayqueue.coordination.records import BrokerStateRecord, ClusterRecord, Record, ReplicaActorRecord
from rayqueue.coordination.state import ClusterState
from rayqueue.coordination.views import describe_cluster
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ProtocolError, RayQueueError, RequestTimeout
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    Applied,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    Empty,
    MetadataRequest,
    NamedError,
    RegisterBroker,
    RegisterReplicaActor,
    TopicsResponse,
)

# A broker whose watch stream is gone so long does not count as alive: nothing new is placed on it.
BROKER_SESSION_MS = 6_000
# Longest wait of a metadata request for an index that is not there yet.
METADATA_WAIT_MS = 2_000
MAX_WAIT_MS = 10 * 60 * 1000
_REMEMBERED_INCARNATIONS = 16


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

    Invariants: committed <= end; a call is parked at most once and answered exactly once; every broker that counts as
    alive either has a watch stream or a deadline by which it must have one.
    """

    def __init__(
        self, around: Surroundings, records: list[Record], epoch: int, address: tuple[str, int], now_ms: int
    ) -> None:
        """records: the whole log, all of it committed. epoch: of this coordinator. address: its host and port."""
        self.around = around
        self.epoch = epoch
        self.address = address
        self.state = ClusterState(around.config.topic_defaults)
        self._superseded: dict[tuple[int, int], deque[str]] = {}
        self._registered: dict[tuple[int, int], int] = {}  # the end of the log with a process's registration
        self.end = 0
        for record in records:
            self._replay(record)
        self.committed = self.end
        self._parked: dict[int, Parked] = {}
        self._applied: dict[str, int] = {}
        self._watching: Counter[str] = Counter()
        self._broker_deadlines: dict[int, int] = {}
        self._watch_brokers(now_ms)

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
                self._watching[event.watcher] += 1
                self._revive(event.watcher, effects)
            case WatchEnded():
                self._watching[event.watcher] -= 1
                if self._watching[event.watcher] <= 0:
                    del self._watching[event.watcher]
            case Tick():
                pass
        self._watch_brokers(now_ms)
        self._expire_brokers(now_ms, effects)
        self._answer(now_ms, effects)
        return effects

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is due, whatever else happens; None: nothing waits."""
        deadlines = [parked.deadline_ms for parked in self._parked.values()]
        deadlines += self._broker_deadlines.values()
        return min(deadlines, default=None)

    def is_watching(self, incarnation: str) -> bool:
        """Whether the process of this incarnation has a stream of the metadata log open."""
        return incarnation in self._watching

    def leads(self, actor: ReplicaActorRecord) -> bool:
        """Whether this incarnation has said that it serves what it leads since it registered."""
        registered = self._registered[actor.broker_id, actor.slot]
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
        elif isinstance(request, Applied):
            self._applied[request.incarnation] = max(request.index, self._applied.get(request.incarnation, 0))
            effects.append(Reply(event.call, Empty()))
            return
        else:
            result = self._command(request)
        self._append(result.records, effects)
        if hasattr(result.response, "index"):
            result.response.index = self.end
        deadline = now_ms + min(max(result.timeout_ms, 0), MAX_WAIT_MS)
        self._parked[event.call] = Parked(
            event.call, result.response, self.end, result.waits_for, result.dead_too, deadline
        )

    def _command(self, request: Any) -> Result:
        match request:
            case CreateTopicsRequest():
                return commands_topics.create_topics(self.state, request, self.around)
            case DeleteTopicsRequest():
                return commands_topics.delete_topics(self.state, request)
            case CreatePartitionsRequest():
                return commands_topics.create_partitions(self.state, request, self.around)
            case AlterConfigRequest():
                return commands_topics.alter_config(self.state, request, self.around)
            case RegisterBroker():
                self._refuse_superseded((request.broker_id, -1), request.incarnation)
                return commands_processes.register_broker(self.state, request)
            case RegisterReplicaActor():
                self._refuse_superseded((request.broker_id, request.slot), request.incarnation)
                return commands_processes.register_replica_actor(self.state, request)
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
            self._replay(record)

    def _replay(self, record: Record) -> None:
        # Which incarnations are over follows from the log alone, so it is known again after a restart.
        key = (getattr(record, "broker_id", -1), getattr(record, "slot", -1))
        present = self._incarnation(key)
        self.state.replay(record)
        self.end += 1
        if self._incarnation(key) != present:
            self._registered[key] = self.end
            if present:
                self._superseded.setdefault(key, deque(maxlen=_REMEMBERED_INCARNATIONS)).append(present)

    def _incarnation(self, key: tuple[int, int]) -> str:
        process = self.state.brokers.get(key[0]) if key[1] == -1 else self.state.replica_actors.get(key)
        return process.incarnation if process else ""

    def _refuse_superseded(self, key: tuple[int, int], incarnation: str) -> None:
        # A process is killed while its registration is under way; its successor registers; then the old request
        # arrives. Taken, it would name a dead process as leader, and nobody would put that right.
        if incarnation in self._superseded.get(key, ()):
            raise ClusterMismatch(f"process {incarnation} has a successor already: it must end")

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

    # --- which brokers are alive ---------------------------------------------------------------------------------

    def _watch_brokers(self, now_ms: int) -> None:
        """A broker that counts as alive without a stream gets a deadline; one with a stream has none."""
        for broker_id, broker in self.state.brokers.items():
            if not self.state.alive[broker_id] or self.is_watching(broker.incarnation):
                self._broker_deadlines.pop(broker_id, None)
            else:
                self._broker_deadlines.setdefault(broker_id, now_ms + BROKER_SESSION_MS)
        current = {actor.incarnation for actor in self.state.replica_actors.values()}
        for incarnation in [i for i in self._applied if i not in current]:
            del self._applied[incarnation]

    def _expire_brokers(self, now_ms: int, effects: list[Effect]) -> None:
        for broker_id in [b for b, deadline in self._broker_deadlines.items() if now_ms >= deadline]:
            del self._broker_deadlines[broker_id]
            self._append([BrokerStateRecord(broker_id, False)], effects)

    def _revive(self, watcher: str, effects: list[Effect]) -> None:
        for broker_id, broker in self.state.brokers.items():
            if broker.incarnation == watcher and not self.state.alive[broker_id]:
                self._append([BrokerStateRecord(broker_id, True)], effects)

    # --- invariants ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Asserts every invariant; for tests, after each event."""
        self.state.validate()
        assert 0 <= self.committed <= self.end
        assert all(count > 0 for count in self._watching.values())
        assert all(call == parked.call for call, parked in self._parked.items())
        for broker_id, broker in self.state.brokers.items():
            waits = self.state.alive[broker_id] and not self.is_watching(broker.incarnation)
            assert (broker_id in self._broker_deadlines) == waits
