"""The coordinator of simulated partitions: `CoordinatorMachine` itself, with a shell as the actors' shell is.

::

    Ask, Register ──▶ Call ──▶ machine ── Append ──▶ (quorum: some time) ──▶ image, log ── Committed ──▶ machine
    Beat ──▶ WatchStarted, Applied     who says nothing for a lease ──▶ WatchEnded        Publish ──▶ Batch ──▶ brokers

The quorum is modelled by what it promises: what is committed stays, in order; of what was proposed and not committed
when the active coordinator fails some may be committed after all, the first of it. The next coordinator is a new
machine on the image of what is committed, under a higher epoch; it knows of no stream and of no call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rayqueue.config import BrokerConfig
from rayqueue.coordination.commands import Surroundings
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
    WatchEnded,
    WatchStarted,
)
from rayqueue.coordination.image import MetadataImage, state_records
from rayqueue.coordination.machine import CoordinatorMachine, FormatCluster
from rayqueue.coordination.records import PartitionRecord, Record
from rayqueue.errors import RayQueueError
from rayqueue.protocol.messages import (
    AlterPartition,
    AlterPartitionsRequest,
    AlterPartitionsResponse,
    CreateTopicsRequest,
    LogEnd,
    RegisterBroker,
    RegisterReplicaActor,
    ReportLogEnds,
    ResignLeaderRequest,
    TopicSpec,
)
from rayqueue.replication import events as ev
from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.partitions_world import World

LEASE_MS = 600  # who says nothing for so long has its stream ended
LOOK_US = 100_000
COORDINATOR = 0  # its address
TOPIC = b"t" * 16
SLOT = 0  # a broker has one replica actor, and dies with it
REBALANCE_S = 3


class Batch(NamedTuple):
    """Records of the metadata log from index `first` on; with `first` 0 a snapshot of all below `end`."""

    first: int
    end: int
    epoch: int
    records: Sequence[Record]


class Register(NamedTuple):
    """A new process. unclean: what its machine had not made durable may be lost."""

    broker_id: int
    incarnation: str
    unclean: bool


class Registered(NamedTuple):
    """The answer. index: of the metadata log, just after the registration; -1: it has a successor, and must end."""

    incarnation: str
    index: int


class Beat(NamedTuple):
    """A process lives, and has acted on the metadata log below `index`."""

    broker_id: int
    incarnation: str
    index: int


class Dead(NamedTuple):
    """The connections of this process have broken."""

    incarnation: str


class Ask(NamedTuple):
    """A replica wants something."""

    broker_id: int
    incarnation: str
    partition: int
    effect: ev.ProposeIsr | ev.Resign | ev.ReportLogEnd


class Answer(NamedTuple):
    """To `Ask`. error: by name; retriable: the outcome is not known."""

    asked: Ask
    error: str
    retriable: bool = False


class Watch:
    """A stream of the metadata log."""

    __slots__ = ("broker_id", "heard_us", "index")

    def __init__(self, broker_id: int) -> None:
        self.broker_id, self.index, self.heard_us = broker_id, 0, 0


class OneSchema:
    """Of the one topic, which has none."""

    def log_schema(self, user_schema: bytes) -> bytes:
        return user_schema

    def columns(self, log_schema: bytes) -> dict[str, bool]:
        return {}


class Coordinator:
    """The active coordinator, and the quorum behind it.

    Attributes:
        image, log: of what is committed.
        partitions: as they are committed.
        away: there is no active coordinator.
        slow_us: how much longer a majority takes.
        lost_answers: how many there were, of every two one; -1: none is lost.
        commits: how often something was committed.
    """

    def __init__(self, world: World, partitions: int, brokers: Sequence[int], configs: dict[str, str]) -> None:
        self._world = world
        self.brokers = list(brokers)
        self._around = Surroundings(
            BrokerConfig.parse({"leader.imbalance.check.interval.seconds": REBALANCE_S}), OneSchema(), lambda: TOPIC
        )
        self.image = MetadataImage()
        self.log: list[Record] = []
        self.partitions: list[PartitionRecord] = []
        self.lost_answers = -1
        self.epoch = self.ignored = self.commits = self.slow_us = 0
        self._begin()
        self._found(partitions, configs)
        world.network.attach(COORDINATOR, self._heard)
        world.scheduler.after(LOOK_US, self._look)

    def _found(self, partitions: int, configs: dict[str, str]) -> None:
        """A cluster in which all of this has been there for long; its processes have all just ended."""
        spec = TopicSpec("t", partitions, len(self.brokers), configs, b"", "")
        brokers = [RegisterBroker(one, f"dir {one}", f"{one}.0", "", 0, f"node {one}", 1) for one in self.brokers]
        for request in (FormatCluster("simulated"), *brokers, CreateTopicsRequest([spec])):
            for effect in self.machine.step(Call(0, request), self._clock.now_ms(), 0):
                assert not isinstance(effect, Refuse), effect
                if isinstance(effect, Append):
                    self._commit(effect.records)
            self.machine.step(Committed(self.image.end), self._clock.now_ms(), 0)
        self.partitions = self.image.state.topics_by_id[TOPIC].partitions
        self.crash()
        self._begin()

    # --- who is active -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        random = self._world.random
        self.epoch += 1
        self.away = False
        self._clock = Clock(self._world.scheduler, random.uniform(0.97, 1.03), random.randrange(100_000))
        image = MetadataImage.load(self.image.dump())
        self.machine = CoordinatorMachine(self._around, image, self.epoch, ("", 0), self._clock.now_ms())
        self.process = Process(self._world.scheduler, self._clock, self.machine, self._step, Tick(), self._perform)
        self._calls: dict[int, Callable[[Any], None]] = {}
        self._last_call = 0
        self._watches: dict[str, Watch] = {}
        self._ended: set[str] = set()
        self._proposed: list[list[Record]] = []
        self._committing = False
        self.process.post(Tick())

    def crash(self) -> None:
        """The active coordinator is gone, and nobody is in its place yet."""
        self.away = True
        self.process.end()
        for records in self._proposed[: self._world.random.randint(0, len(self._proposed))]:
            self._commit(records)
        self._proposed.clear()

    def take_over(self) -> None:
        """A standby is active."""
        if self.away:
            self._begin()

    def resume(self) -> None:
        """The process was stopped and goes on: what it has not heard meanwhile is not its watchers' fault."""
        if self.away or not self.process.paused:
            return
        for watch in self._watches.values():
            watch.heard_us = self._world.scheduler.now_us
        self.process.resume()
        self.process.post(Stalled())

    # --- what it hears -----------------------------------------------------------------------------------------------

    def _heard(self, message: Any) -> None:
        if self.away:
            self.ignored += 1
            return
        match message:
            case Register(broker_id, incarnation, unclean):
                self._call(RegisterBroker(broker_id, f"dir {broker_id}", incarnation, "", 0, f"node {broker_id}", 1))
                request = RegisterReplicaActor(broker_id, SLOT, incarnation, "", 0, unclean)
                self._call(request, lambda answer: self._registered(message, answer))
            case Beat():
                self._beat(message)
            case Dead(incarnation):
                self._ended.add(incarnation)
                self._end_watch(incarnation)
            case Ask():
                self._call(_request(message), lambda answer: self._answer(message, answer))

    def _call(self, request: Any, answer: Callable[[Any], None] = lambda _: None) -> None:
        self._last_call += 1
        self._calls[self._last_call] = answer
        self.process.post(Call(self._last_call, request))

    def _registered(self, message: Register, answer: Any) -> None:
        if isinstance(answer, RayQueueError) and answer.retriable:
            return
        index = -1 if isinstance(answer, RayQueueError) else answer.index
        self._world.network.send(COORDINATOR, message.broker_id, Registered(message.incarnation, index))

    def _answer(self, asked: Ask, answer: Any) -> None:
        error, retriable = "", False
        if isinstance(answer, RayQueueError):
            error, retriable = type(answer).__name__, answer.retriable
        elif isinstance(answer, AlterPartitionsResponse):
            (error,) = answer.errors
        if self.lost_answers >= 0 and self._world.random.random() < 0.5:
            self.lost_answers += 1
            return
        self._world.network.send(COORDINATOR, asked.broker_id, Answer(asked, error, retriable))

    # --- streams of the metadata log ---------------------------------------------------------------------------------

    def _beat(self, beat: Beat) -> None:
        if beat.incarnation in self._ended:
            return
        watch = self._watches.get(beat.incarnation)
        if watch is None:
            watch = self._watches[beat.incarnation] = Watch(beat.broker_id)
            self.process.post(WatchStarted(beat.incarnation))
        watch.heard_us = self._world.scheduler.now_us
        if beat.index > watch.index:
            watch.index = beat.index
            self.process.post(Applied(beat.incarnation, beat.index))
        if watch.index < self.machine.committed and not self.process.paused:
            self._send(watch)

    def _end_watch(self, incarnation: str) -> None:
        if self._watches.pop(incarnation, None) is not None:
            self.process.post(WatchEnded(incarnation))

    def _look(self) -> None:
        self._world.scheduler.after(LOOK_US, self._look)
        if self.away or self.process.paused:
            return
        late_us = self._world.scheduler.now_us - LEASE_MS * 1000
        for incarnation in [one for one, watch in self._watches.items() if watch.heard_us < late_us]:
            self._end_watch(incarnation)

    def _send(self, watch: Watch) -> None:
        """From where it was heard to be: what was lost on the way is in what is sent next."""
        first, end = watch.index, self.image.end
        records = self.log[first:end] if first else state_records(self.image.state)
        self._world.network.send(COORDINATOR, watch.broker_id, Batch(first, end, self.epoch, records))

    # --- the machine -------------------------------------------------------------------------------------------------

    def _step(self, event: Event, now_ms: int) -> Sequence[Effect]:
        end = self.machine.end
        effects = self.machine.step(event, now_ms, 0)
        if self.machine.end != end or isinstance(event, WatchStarted | WatchEnded):
            self.machine.validate()
        if self._world.trace.on:
            self._world.trace.add(f"coord {self.epoch}", f"<- {event}")
            for effect in effects:
                self._world.trace.add(f"coord {self.epoch}", f"   {effect}")
        return effects

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(records=records):
                    self._proposed.append(records)
                    self._propose()
                case Publish():
                    for watch in self._watches.values():
                        self._send(watch)
                case Reply(call=call, response=answer) | Refuse(call=call, error=answer):
                    self._calls.pop(call)(answer)
                case _:
                    raise AssertionError(f"nobody allowed that: {effect}")

    def _propose(self) -> None:
        """A majority makes durable what is there; what comes meanwhile has to wait for the next time."""
        if not self._committing and self._proposed:
            self._committing = True
            delay_us = self._world.random.randint(200, 3_000) + self.slow_us
            self._world.scheduler.after(delay_us, partial(self._done, self.process, len(self._proposed)))

    def _done(self, process: Process, count: int) -> None:
        if not process.alive:
            return
        self._committing = False
        done, self._proposed = self._proposed[:count], self._proposed[count:]
        for records in done:
            self._commit(records)
        process.post(Committed(self.image.end))
        self._propose()

    def _commit(self, records: Sequence[Record]) -> None:
        self.commits += 1
        for record in records:
            change = record if self.partitions and isinstance(record, PartitionRecord) else None
            before = self.partitions[change.partition] if change else None
            self.log.append(record)
            self.image.replay(record)
            if before is not None and change is not None:
                self._changed(before, change)

    def _changed(self, before: PartitionRecord, after: PartitionRecord) -> None:
        """A partition is another. Who is taken into the ISR by its leader holds again what it may have lost."""
        if after.leader_epoch == before.leader_epoch:
            for member in set(after.isr) - set(before.isr):
                actor = self.image.state.replica_actors[member, SLOT]
                self._world.brokers[member].joined(after.partition, actor.incarnation)
        self._world.checker.committed_isr(after.partition)


def _request(asked: Ask) -> Any:
    who, number, effect = (asked.broker_id, SLOT, asked.incarnation), asked.partition, asked.effect
    match effect:
        case ev.ProposeIsr(isr=isr, leader_epoch=leader_epoch, partition_epoch=partition_epoch):
            return AlterPartitionsRequest(*who, [AlterPartition(TOPIC, number, leader_epoch, partition_epoch, isr)])
        case ev.Resign(leader_epoch=leader_epoch):
            return ResignLeaderRequest(*who, TOPIC, number, leader_epoch)
        case ev.ReportLogEnd(leader_epoch=leader_epoch, last_epoch=last_epoch, log_end=log_end):
            return ReportLogEnds(*who, [LogEnd(TOPIC, number, leader_epoch, last_epoch, log_end)])
