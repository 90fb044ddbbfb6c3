"""Replicas of one partition, in memory: a shell for each, and streams between them that deliver when they are told to.

A test says what happens in the field's words: `lead`, `produce`, `run` (deliver all there is), `cuts` between brokers,
`restart` a broker. Nothing happens by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from rayqueue.config import TopicConfig
from rayqueue.protocol.messages import BatchHeader, ProduceBatch
from rayqueue.replication import events as ev
from rayqueue.replication.follower import Follower
from rayqueue.replication.leader import Leader
from rayqueue.replication.limits import Limits
from rayqueue.replication.replica import Replica
from tests.simulation.partitions_log import MemoryLog

WALL = 1_700_000_000_000


def batch(count: int = 1, producer: int = -1, sequence: int = -1, leader_epoch: int = -1) -> ProduceBatch:
    epoch = -1 if producer == -1 else 0
    return ProduceBatch(b"t" * 16, 0, leader_epoch, producer, epoch, sequence, count, 5, 9, 0, 0)


def header(base: int, epoch: int, count: int = 1) -> BatchHeader:
    return BatchHeader(base, base + count - 1, count, epoch, -1, -1, -1, 0, 0, 0, 0)


class Host:
    """One broker's replica with its log: the effects it asked for are performed, or kept for the test to look at."""

    def __init__(self, cluster: Cluster, broker_id: int, incarnation: str, log: MemoryLog) -> None:
        self.cluster, self.broker_id, self.incarnation, self.log = cluster, broker_id, incarnation, log
        self.replica = Replica(broker_id, log.facts(WALL), cluster.config, Limits(1_000, 100))
        self.effects: list[ev.Effect] = []
        self.replies: dict[Any, ev.Reply] = {}
        self.proposals: list[ev.ProposeIsr] = []
        self.unwritten: list[BatchHeader] = []
        self.feeds: dict[int, int] = {}  # follower -> next offset to push
        self.disk_full = self.holds_flushes = self.flushing = self.holds_cuts = False
        self.asked_to_cut: ev.Truncate | ev.ResetLog | None = None

    @property
    def leader(self) -> Leader:
        assert isinstance(self.replica.role, Leader)
        return self.replica.role

    @property
    def follower(self) -> Follower:
        assert isinstance(self.replica.role, Follower)
        return self.replica.role

    def step(self, event: ev.Event) -> list[ev.Effect]:
        """Steps the machine, performs, writes what is to be written."""
        effects = self.replica.step(event, self.cluster.now_ms, WALL)
        self.replica.validate()
        self.effects += effects
        for effect in effects:
            self._perform(effect)
        if self.unwritten:
            self._write()
        return effects

    def _write(self) -> None:
        unwritten, self.unwritten = self.unwritten, []
        if self.disk_full:
            self.step(ev.WriteFailed("no space left on device"))
            return
        self.log.append(unwritten)
        self.step(ev.Written())

    def _perform(self, effect: ev.Effect) -> None:
        send, log = self.cluster.send, self.log
        match effect:
            case ev.Append():
                self.unwritten.append(effect.header)
            case ev.Reply():
                assert effect.ref not in self.replies, "answered twice"
                self.replies[effect.ref] = effect
            case ev.Flush():
                self.flushing = True
                if not self.holds_flushes:
                    self.flush()
            case ev.Truncate() | ev.ResetLog():
                self.asked_to_cut = effect
                if not self.holds_cuts:
                    self.cut()
            case ev.AdvanceStart(start=start):
                log.advance_start(start)
            case ev.Follow(leader=leader, leader_epoch=epoch, offset=offset, last_epoch=last):
                send(self, leader, ev.FetchFrom(self.broker_id, self.incarnation, epoch, offset, last))
            case ev.AckFetch(leader_epoch=epoch, end=end):
                send(self, self.follower.leader, ev.FetchAcked(self.broker_id, self.incarnation, epoch, end))
            case ev.Feed(follower=follower, offset=offset):
                self.feeds[follower] = offset
                self.push(follower)
            case ev.StopFeeding(follower=follower):
                self.feeds.pop(follower, None)
            case ev.RefuseFetch():
                send(self, effect.follower, self._refusal(effect))
            case ev.ProposeIsr():
                self.proposals.append(effect)

    def _refusal(self, refusal: ev.RefuseFetch) -> ev.Event:
        epoch = self.replica.leader_epoch
        if refusal.error == "OffsetOutOfRange":
            return ev.OutOfRange(epoch, refusal.end, self.log.end, refusal.producers)
        if refusal.error:
            return ev.FeedRefused(epoch, refusal.error)
        return ev.Diverged(epoch, refusal.epoch, refusal.end, refusal.producers)

    def cut(self) -> None:
        """What it asked for last."""
        log, effect = self.log, self.asked_to_cut
        if self.disk_full:
            self.step(ev.CutFailed("no space left on device"))
            return
        if isinstance(effect, ev.Truncate):
            log.truncate(effect.end)
        elif effect is not None:
            log.reset(effect.start)
        self.step(ev.Truncated(log.start, log.end, log.epochs(), log.producers(WALL)))
        if log.start == log.end:
            log.keep(self.replica.producers)

    def flush(self) -> None:
        """The flush under way is done."""
        if self.flushing:
            self.flushing, self.log.flushed_end = False, self.log.end
            self.step(ev.Flushed(self.log.end))

    def push(self, follower: int) -> None:
        """What a leader's stream does when there is something to say."""
        headers = self.log.read(self.feeds[follower], self.log.end)
        if headers:
            self.feeds[follower] = headers[-1].last_offset + 1
        fed = ev.Fed(self.replica.leader_epoch, headers, headers, self.replica.high_watermark, self.log.start)
        self.cluster.send(self, follower, fed)

    def produce(self, ref: Any, one: ProduceBatch | None = None, acks: int = -1) -> ev.Reply | None:
        """A batch comes; the answer, if there is one already."""
        self.step(ev.Produce(ref, acks, one or batch()))
        return self.replies.get(ref)


class Cluster:
    """Brokers 1 to n, each with a replica of the one partition."""

    def __init__(self, brokers: int = 3, **config: Any) -> None:
        self.config = TopicConfig.parse({"min.insync.replicas": 2, **config})
        self.now_ms = 10_000
        self.epoch, self.partition_epoch = 0, 0
        self.isr: list[int] = []
        self.sent: deque[tuple[int, str, int, ev.Event]] = deque()
        self.cuts: set[frozenset[int]] = set()
        self.hosts = {i: Host(self, i, f"{i}a", MemoryLog()) for i in range(1, brokers + 1)}

    def __getitem__(self, broker_id: int) -> Host:
        return self.hosts[broker_id]

    def send(self, source: Host, target: int, event: ev.Event) -> None:
        self.sent.append((source.broker_id, source.incarnation, target, event))

    def assignment(self, leader: int) -> ev.Assignment:
        incarnations = {i: host.incarnation for i, host in self.hosts.items()}
        return ev.Assignment(leader, self.epoch, self.partition_epoch, list(self.hosts), self.isr, incarnations)

    def lead(self, leader: int, isr: list[int], told: list[int] | None = None) -> None:
        """A new leadership is committed, and told to these brokers."""
        self.epoch, self.isr = self.epoch + 1, isr
        self.partition_epoch += 1
        self.leader = leader
        self.tell(*(told or self.hosts))

    def commit_isr(self, *isr: int) -> None:
        """The ISR is committed, nobody knows yet."""
        self.isr, self.partition_epoch = list(isr), self.partition_epoch + 1

    def tell(self, *brokers: int) -> None:
        for broker in brokers:
            self.hosts[broker].step(ev.Assign(self.assignment(self.leader)))

    def run(self) -> Cluster:
        """Delivers all that is on its way and not cut off, until nothing is."""
        for _ in range(1_000):
            for host in self.hosts.values():
                if host.replica.leading:
                    for follower in host.feeds:
                        if host.feeds[follower] < host.log.end:
                            host.push(follower)
            if not self.sent:
                return self
            source, _, target, event = self.sent.popleft()
            if frozenset((source, target)) not in self.cuts:
                self.hosts[target].step(event)
        raise AssertionError("it does not come to rest")

    def news(self) -> Cluster:
        """Leaders push their watermarks, and everything is delivered."""
        for host in self.hosts.values():
            if host.replica.leading:
                for follower in host.feeds:
                    host.push(follower)
        return self.run()

    def pass_ms(self, ms: int) -> None:
        """Time passes; deadlines that are over are told."""
        self.now_ms += ms
        for host in self.hosts.values():
            deadline = host.replica.next_deadline_ms()
            if deadline is not None and deadline <= self.now_ms:
                host.step(ev.Tick())

    def restart(self, broker_id: int, log: MemoryLog | None = None) -> Host:
        """A new process, and incarnation, on what the old one left."""
        old = self.hosts[broker_id]
        incarnation = f"{broker_id}{chr(ord(old.incarnation[-1]) + 1)}"
        self.hosts[broker_id] = Host(self, broker_id, incarnation, log or old.log)
        return self.hosts[broker_id]

    def ends(self) -> list[int]:
        return [host.log.end for host in self.hosts.values()]

    def marks(self) -> list[int]:
        return [host.replica.high_watermark for host in self.hosts.values()]


def log_of(*epochs: int) -> MemoryLog:
    """A log with one record of each of these epochs."""
    log = MemoryLog()
    log.append([header(offset, epoch) for offset, epoch in enumerate(epochs)])
    return log


def following(log: MemoryLog, epoch: int = 9) -> tuple[Cluster, Host]:
    """Broker 2 follows broker 1, and has just asked."""
    cluster = Cluster(2)
    cluster.epoch = epoch - 1
    host = cluster.restart(2, log)
    cluster.lead(1, [1], told=[2])
    cluster.sent.clear()
    return cluster, host
