"""A simulated replica: process, log and the shell around the machine, as the actors' shell is.

It performs effects in order, writes what was appended in groups, flushes in its own time, and pushes to followers what
is written. A process that dies leaves its log as the page cache has it; a machine that loses power does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rayqueue.config import TopicConfig
from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication import events as ev
from rayqueue.replication.leader import Leader
from rayqueue.replication.limits import Limits
from rayqueue.replication.producer_state import ProducerStates
from rayqueue.replication.replica import Replica
from rayqueue.testing.simulation.process import Process
from tests.simulation.partitions_coordinator import COORDINATOR, Answer, Ask
from tests.simulation.partitions_log import MemoryLog
from tests.simulation.partitions_stream import Gone, Stream

if TYPE_CHECKING:
    from tests.simulation.partitions_broker import Broker
    from tests.simulation.partitions_world import World

TICK, WRITTEN, WRITE, CUT = ev.Tick(), ev.Written(), object(), object()
LIMITS = Limits(lag_time_max_ms=600, backoff_ms=30)
ASK_AGAIN_US = 100_000  # as the actors do when a connection breaks
PUSHED_BATCHES = 4


class Heard(NamedTuple):
    """What came over a stream."""

    stream: Stream
    event: ev.Event


class Feeding:
    """What a leader has pushed to a follower."""

    __slots__ = ("mark", "next", "start", "stream")

    def __init__(self, stream: Stream, offset: int) -> None:
        self.stream, self.next = stream, offset
        self.mark = self.start = -1


class Host:
    """One replica of one partition at one broker."""

    process: Process

    def __init__(self, world: World, broker: Broker, partition: int) -> None:
        self.world, self.broker, self.partition = world, broker, partition
        self.broker_id = broker.broker_id
        self.scheduler, self.random, self.checker = world.scheduler, world.random, world.checker
        self.log = MemoryLog()
        self.disk_full = False
        self.slow_us = 0
        self.flushes = self.failed_writes = self.streams = 0

    # --- the process -------------------------------------------------------------------------------------------------

    def start(self, config: TopicConfig, incarnation: str) -> None:
        """A new process on what the disk holds."""
        self.config, self.incarnation = config, incarnation
        self.machine = Replica(self.broker_id, self.log.facts(0), config, LIMITS)
        self.process = Process(self.scheduler, self.broker.clock, self.machine, self._step, TICK, self._perform)
        self.stream: Stream | None = None
        self.feeds: dict[int, Feeding] = {}
        self._newest: dict[int, int] = {}
        self._asking: Stream | None = None
        self._unwritten: list[BatchHeader] = []
        self._write_due = False
        self._cut: ev.Truncate | ev.ResetLog | None = None  # under way: nothing is assigned meanwhile
        self._told: ev.Assign | None = None  # what came meanwhile
        self._wanted: dict[type, ev.ProposeIsr | ev.Resign | ev.ReportLogEnd] = {}  # of the coordinator
        self.seen_mark = self.machine.high_watermark

    @property
    def leading(self) -> bool:
        """Whether it takes itself for the leader."""
        return self.process.alive and self.machine.leading

    def _step(self, event: Any, now_ms: int) -> Sequence[ev.Effect]:
        machine, wall_ms = self.machine, 0
        kind = type(event)
        if kind is Heard:
            event = self._open(event)
        elif kind is Gone:
            event = self._lost(event)
        elif kind is Answer:
            event = self._answered(event)
        elif event is WRITE:
            event = self._write()
        elif event is CUT:
            event = self._cut_done()
        elif kind is ev.Assign:
            return self._assign(event, now_ms)
        if event is None:
            return ()
        effects = machine.step(event, now_ms, wall_ms)
        if type(event) is ev.Truncated and event.log_start == event.log_end:
            self.log.keep(machine.producers)
        if self.world.trace.on:
            self._note(event, effects)
        self.checker.stepped(self)
        return effects

    def _open(self, heard: Heard) -> ev.Event | None:
        """What came over a stream. This shell is careless: it does not keep back what comes late, over a stream of
        another leader epoch, or acks over one that is gone; the machine must know better. But for what it can not
        know: a follower that asked over an old stream would be fed where it does not listen any more."""
        stream, event = heard.stream, heard.event
        if stream.follower is self:
            return event if stream is self.stream or stream.epoch != self.machine.leader_epoch else None
        if type(event) is ev.FetchFrom:
            if not stream.open[1]:
                return None
            if stream.number < self._newest.get(event.follower, 0):
                stream.break_soon()
                return None
            self._newest[event.follower] = stream.number
        self._asking = stream
        return event

    def _note(self, event: ev.Event, effects: Sequence[ev.Effect]) -> None:
        """For who reads the trace."""
        where = f"{self.incarnation}/p{self.partition}"
        self.world.trace.add(where, f"<- {describe(event)}")
        for effect in effects:
            self.world.trace.add(where, f"   {describe(effect)}")

    def _assign(self, event: ev.Assign, now_ms: int) -> Sequence[ev.Effect]:
        """Told between two writes, and not while the log is being cut."""
        if self._cut is not None:
            self._told = event
            return ()
        written = self._write()
        if written is not None:
            self._perform(self.machine.step(written, now_ms, 0))
        role = self.machine.role
        effects = self.machine.step(event, now_ms, 0)
        if self.world.trace.on:
            self._note(event, effects)
        if self.machine.role is not role and self.machine.leading:
            self.checker.elected(self)
        self.checker.stepped(self)
        return effects

    # --- effects -----------------------------------------------------------------------------------------------------

    def _perform(self, effects: Sequence[ev.Effect]) -> None:
        for effect in effects:
            _PERFORM[type(effect)](self, effect)
        if self.feeds:
            self._push()

    def _append(self, effect: ev.Append) -> None:
        self._unwritten.append(effect.header)
        if not self._write_due:
            self._write_due = True
            process = self.process
            delay_us = 10 + int(self.random.random() * 140) + self.slow_us
            self.scheduler.after(delay_us, lambda: process.post(WRITE))

    def _write(self) -> ev.Written | ev.WriteFailed | None:
        self._write_due = False
        unwritten, self._unwritten = self._unwritten, []
        if not unwritten:
            return None
        if self.disk_full:
            self.failed_writes += 1
            return ev.WriteFailed("no space left on device")
        self.log.append(unwritten)
        self.checker.appended(self, unwritten)
        return WRITTEN

    def _flush(self, effect: ev.Flush) -> None:
        process, log, end, cuts = self.process, self.log, self.log.end, self.log.cuts

        def done() -> None:
            if not process.alive:
                return
            if log.cuts == cuts:
                log.flushed_end = max(log.flushed_end, end)
            self.flushes += 1
            process.post(ev.Flushed(end))

        self.scheduler.after(self.random.randint(100, self.world.flush_us_max) + self.slow_us, done)

    def _truncate(self, effect: ev.Truncate | ev.ResetLog) -> None:
        """By a thread of its own, which takes its time."""
        assert self._cut is None
        self._cut, process = effect, self.process
        self.scheduler.after(self.random.randint(10, 20_000) + self.slow_us, lambda: process.post(CUT))

    def _cut_done(self) -> ev.Truncated | ev.CutFailed:
        log, cut = self.log, self._cut
        assert cut is not None
        self._cut = None
        told, self._told = self._told, None
        if told is not None:
            self.process.post(told)
        if self.disk_full:
            self.failed_writes += 1
            return ev.CutFailed("no space left on device")
        if isinstance(cut, ev.Truncate):
            log.truncate(cut.end)
        else:
            log.reset(cut.start)
        self.seen_mark = min(self.seen_mark, log.end)
        self.checker.truncated(self)
        return ev.Truncated(log.start, log.end, log.epochs(), log.producers(0))

    def _advance_start(self, effect: ev.AdvanceStart) -> None:
        self.log.advance_start(effect.start)

    def _mark(self, effect: ev.HighWatermark) -> None:
        self.checker.marked(self, effect.offset)

    def _reply(self, effect: ev.Reply) -> None:
        self.world.reply(self, effect)

    # --- as a follower -----------------------------------------------------------------------------------------------

    def _follow(self, effect: ev.Follow) -> None:
        self._unfollow()
        world = self.world
        self.stream = Stream(self.scheduler, self.random, world.network, self, effect.leader, effect.leader_epoch)
        self.broker.streams.append(self.stream)
        request = ev.FetchFrom(self.broker_id, self.incarnation, effect.leader_epoch, effect.offset, effect.last_epoch)
        self.stream.send(True, request)

    def _unfollow(self, effect: ev.Unfollow | None = None) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and stream.open[0]:
            stream.send(True, None)
            stream.open[0] = False

    def _ack(self, effect: ev.AckFetch) -> None:
        if self.stream is not None:
            self.stream.send(True, ev.FetchAcked(self.broker_id, self.incarnation, effect.leader_epoch, effect.end))

    # --- as a leader -------------------------------------------------------------------------------------------------

    def _feed(self, effect: ev.Feed) -> None:
        assert self._asking is not None
        self.feeds[effect.follower] = Feeding(self._asking, effect.offset)

    def _push(self) -> None:
        mark, start, end, epoch = self.machine.high_watermark, self.log.start, self.log.end, self.machine.leader_epoch
        for follower, feeding in list(self.feeds.items()):
            while feeding.next < end or feeding.mark != mark or feeding.start != start:
                headers: list[BatchHeader] = []
                if feeding.next < end:
                    if feeding.next < start:
                        feeding.stream.send(False, ev.OutOfRange(epoch, start, end))
                        del self.feeds[follower]
                        break
                    headers = self.log.read(feeding.next, end, PUSHED_BATCHES)
                    feeding.next = headers[-1].last_offset + 1
                feeding.mark, feeding.start = mark, start
                feeding.stream.send(False, ev.Fed(epoch, headers, headers, mark, start))

    def _refuse(self, effect: ev.RefuseFetch) -> None:
        assert self._asking is not None
        feeding = self.feeds.get(effect.follower)
        if feeding is not None and feeding.stream is self._asking:
            del self.feeds[effect.follower]
        epoch = self._asking.epoch
        answer: ev.Event = ev.Diverged(epoch, effect.epoch, effect.end, effect.producers)
        if effect.error == "OffsetOutOfRange":
            answer = ev.OutOfRange(epoch, effect.end, self.log.end, effect.producers)
        elif effect.error:
            answer = ev.FeedRefused(epoch, effect.error)
        self._asking.send(False, answer)

    def _stop_feeding(self, effect: ev.StopFeeding) -> None:
        feeding = self.feeds.pop(effect.follower, None)
        if feeding is not None:
            feeding.stream.close(1)
            feeding.stream.break_soon()

    # --- what it asks of the coordinator -----------------------------------------------------------------------------

    def _want(self, effect: ev.ProposeIsr | ev.Resign | ev.ReportLogEnd) -> None:
        """In place of what was wanted of that kind before."""
        self._wanted[type(effect)] = effect
        self._ask_for(effect, self.process)

    def _ask_for(self, effect: ev.ProposeIsr | ev.Resign | ev.ReportLogEnd, process: Process) -> None:
        """Until the answer is known."""
        if not process.alive or self._wanted.get(type(effect)) is not effect:
            return
        if not process.paused:
            asked = Ask(self.broker_id, self.incarnation, self.partition, effect)
            self.world.network.send(self.broker_id, COORDINATOR, asked)
        self.scheduler.after(ASK_AGAIN_US, lambda: self._ask_for(effect, process))

    def _answered(self, answer: Answer) -> ev.IsrRefused | None:
        """As the actors' `IsrProposals` takes it."""
        effect = answer.asked.effect
        mismatch = isinstance(effect, ev.ReportLogEnd) and answer.error == "ClusterMismatch"
        if answer.retriable or mismatch:
            return None  # it is asked again
        if self._wanted.get(type(effect)) is effect:
            del self._wanted[type(effect)]
        if not answer.error or not isinstance(effect, ev.ProposeIsr):
            return None
        return ev.IsrRefused(effect.partition_epoch, answer.error)

    # --- streams -----------------------------------------------------------------------------------------------------

    def deliver(self, stream: Stream, event: ev.Event | None) -> None:
        """A packet in its turn."""
        if stream.follower is self:
            stream.answered = True
            if event is not None:
                self.process.post(Heard(stream, event))
        elif event is None:
            stream.close(1)
        else:
            self.process.post(Heard(stream, event))

    def _lost(self, gone: Gone) -> ev.Event | None:
        """A stream is gone; of one that was replaced nothing is told."""
        if gone.side == 0:
            if gone.stream is not self.stream:
                return None
            self.stream = None
            return ev.FeedLost(gone.stream.epoch)
        follower = gone.stream.follower.broker_id
        feeding = self.feeds.get(follower)
        if feeding is None or feeding.stream is not gone.stream:
            return None
        del self.feeds[follower]
        known = self.machine.role.followers.get(follower) if isinstance(self.machine.role, Leader) else None
        return ev.FetchEnded(follower, known.incarnation) if known else None


def describe(what: Any) -> str:
    """An event or effect in a line."""
    parts = [f"{name}={_short(getattr(what, name))}" for name in what.__struct_fields__]
    return f"{type(what).__name__} {' '.join(parts)}"


def _short(value: Any) -> str:
    if isinstance(value, BatchHeader):
        return f"{value.base_offset}..{value.last_offset}@{value.leader_epoch}"
    if isinstance(value, list) and value and isinstance(value[0], BatchHeader):
        return f"{_short(value[0])} to {_short(value[-1])}"
    if isinstance(value, tuple):
        return f"{value[0]} {value[1]}"
    return type(value).__name__ if isinstance(value, ProducerStates) else str(value)


_PERFORM: dict[type, Callable[[Host, Any], None]] = {
    ev.Append: Host._append,
    ev.Reply: Host._reply,
    ev.Flush: Host._flush,
    ev.Truncate: Host._truncate,
    ev.ResetLog: Host._truncate,
    ev.AdvanceStart: Host._advance_start,
    ev.HighWatermark: Host._mark,
    ev.Feed: Host._feed,
    ev.RefuseFetch: Host._refuse,
    ev.StopFeeding: Host._stop_feeding,
    ev.ProposeIsr: Host._want,
    ev.Resign: Host._want,
    ev.ReportLogEnd: Host._want,
    ev.Follow: Host._follow,
    ev.Unfollow: Host._unfollow,
    ev.AckFetch: Host._ack,
}
