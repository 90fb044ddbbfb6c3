"""The producer's protocol: which batches go to which replica actor when, and what becomes of them.

A deterministic machine: events are method calls with `now_ms`, what must be done comes back as effects
(`client.delivery_effects`), in order. The shell (`client.io.producer_sender`) owns threads, streams and clocks. Kafka's
Sender and RecordAccumulator are the model, with the epoch bump of KIP-360; per-partition lanes are in `client.lanes`.
"""

# size: one machine, all its transitions in one file

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

from rayqueue.client.delivery_effects import (
    Connect,
    Delivered,
    DeliverySettings,
    Disconnect,
    Effect,
    Failed,
    NeedProducerId,
    RefreshMetadata,
    Send,
)
from rayqueue.client.lanes import DONE, IN_FLIGHT, Batch, Lane
from rayqueue.client.sequences import EPOCH_MAX
from rayqueue.errors import (
    DeliveryTimeout,
    FencedLeaderEpoch,
    NotLeaderOrFollower,
    OutOfOrderSequence,
    ProducerFenced,
    RayQueueError,
    RequestTimeout,
    UnknownTopicOrPartition,
)
from rayqueue.protocol.messages import ProduceBatch, ProduceRequest

# Answers that say our metadata is old: ask again and retry. Whether a topic is really gone, the metadata tells.
_STALE = (NotLeaderOrFollower, FencedLeaderEpoch, UnknownTopicOrPartition)
# A batch of this size travels alone, without a copy; smaller ones of several partitions share a request.
ALONE_BYTES = 128 * 1024


def _header(batch: Batch) -> ProduceBatch:
    lane = batch.lane
    return ProduceBatch(
        lane.topic_id,
        lane.partition,
        lane.leader_epoch,
        *batch.stamp,
        batch.record_count,
        batch.min_timestamp,
        batch.max_timestamp,
        batch.attributes,
        batch.crc,
    )


class _Request(NamedTuple):
    sent_ms: float
    batches: list[tuple[Batch, int]]  # with its count of sendings then


class _Node:
    """A replica actor as the producer sees it."""

    __slots__ = ("asked_ms", "blocked_until_ms", "connecting", "failures", "last_error", "link", "ready", "requests",
                 "window")  # fmt: skip

    def __init__(self, window: int) -> None:
        self.link: Any = None
        self.connecting = False
        self.failures = 0
        self.last_error: RayQueueError | None = None
        self.blocked_until_ms = 0.0
        self.asked_ms = 0.0  # when the metadata was asked last, because the node was silent
        self.window = window
        self.requests: OrderedDict[int, _Request] = OrderedDict()
        self.ready: dict[Lane, None] = {}  # lanes with waiting batches, in the order of their turns


class Delivery:
    """The machine.

    Args:
        settings: limits.
        backoff_ms: how long to wait before try n + 1, from n.
    """

    def __init__(self, settings: DeliverySettings, backoff_ms: Callable[[int], float]) -> None:
        self._settings = settings
        self._backoff_ms = backoff_ms
        self._nodes: dict[Hashable, _Node] = {}
        self._by_age: deque[Batch] = deque()  # every batch, by deadline; done ones are dropped when they come up front
        self._wake: list[tuple[float, int, Lane]] = []  # lanes in backoff
        self._numbers = itertools.count()
        self._producer = (-1, 0)  # id and first epoch of new lanes
        self._producer_id_asked = False
        self._without_id: dict[Lane, None] = {}
        self._orphans: dict[Lane, None] = {}  # lanes with batches whose leader is not known
        self._refreshing: set[str] = set()

    # --- events ----------------------------------------------------------------------------------------------------

    def make_lane(self, topic: str, topic_id: bytes, partition: int) -> Lane:
        """A lane for a partition; it has no leader yet."""
        idempotent, window = self._settings.idempotent, self._settings.max_in_flight
        lane = Lane(topic, topic_id, partition, idempotent=idempotent, window=window)
        lane.sequences.adopt(*self._producer)
        return lane

    def add(self, batches: Iterable[Batch]) -> None:
        """New batches, each at the end of its lane."""
        for batch in batches:
            batch.lane.add(batch)
            self._by_age.append(batch)
            self._make_ready(batch.lane)

    def set_leader(self, lane: Lane, node: Hashable, leader_epoch: int) -> None:
        """The metadata names a partition's leader (None: none now).

        A batch that is unanswered at the old leader waits for the new one at once, if the log can recognise it. What a
        broker says that has not heard of the leader epoch known here is no news: that leader may go on as a zombie.
        """
        self._refreshing.discard(lane.topic)
        if leader_epoch < lane.leader_epoch:
            return
        lane.leader_epoch = leader_epoch
        if node == lane.node:
            return
        self._forget_ready(lane)
        lane.node = node
        lane.blocked_until_ms = 0.0
        if lane.idempotent:
            for batch in lane.in_flight[::-1]:
                lane.put_back(batch)
        self._make_ready(lane)

    def refreshed(self, topic: str) -> None:
        """An attempt to refresh a topic's metadata has ended, well or not."""
        self._refreshing.discard(topic)

    def remove_topic(self, lanes: Iterable[Lane], error: RayQueueError) -> list[Effect]:
        """The topic is gone: its batches fail."""
        effects: list[Effect] = []
        for lane in lanes:
            for batch in [*lane.in_flight, *lane.waiting]:
                effects.append(self._fail(batch, error))
            self._forget_ready(lane)
            self._without_id.pop(lane, None)
        return effects

    def abort(self, error: RayQueueError) -> list[Effect]:
        """Gives up everything that is outstanding."""
        return self.remove_topic({batch.lane: None for batch in self._by_age if batch.state != DONE}, error)

    def set_producer_id(self, producer_id: int, producer_epoch: int) -> None:
        """The producer id for lanes that have none."""
        self._producer_id_asked = False
        self._producer = (producer_id, producer_epoch)
        lanes, self._without_id = self._without_id, {}
        for lane in lanes:
            lane.sequences.adopt(producer_id, producer_epoch)
            self._make_ready(lane)

    def connected(self, node: Hashable, link: Any, window: int) -> None:
        """A link is open; the server takes `window` requests before it stops reading."""
        state = self._node(node)
        state.link, state.connecting, state.failures, state.blocked_until_ms = link, False, 0, 0.0
        state.window, state.last_error = max(1, min(self._settings.max_in_flight, window)), None

    def disconnected(self, node: Hashable, link: Any, error: RayQueueError, now_ms: float) -> list[Effect]:
        """A link broke, or (link None) could not be opened: what is unanswered goes back to its place, in order."""
        state = self._node(node)
        if state.link is not link or (link is None and not state.connecting):
            return []  # an old link; its requests have been taken back already
        state.link, state.connecting = None, False
        state.blocked_until_ms = now_ms + (self._backoff_ms(state.failures) if link is None else 0.0)
        state.failures += 1
        state.last_error = error
        requests, state.requests = state.requests, OrderedDict()
        effects: list[Effect] = []
        topics = {lane.topic: None for lane in state.ready}
        unanswered = [(b, sent) for request in requests.values() for b, sent in request.batches]
        for batch, sent in reversed(unanswered):
            if batch.state == IN_FLIGHT and batch.sent == sent:
                topics[batch.lane.topic] = None
                effects += self._come_back(batch, error, now_ms)
        return effects + [e for topic in topics for e in self._refresh(topic)]

    def answered(
        self, node: Hashable, link: Any, results: list[tuple[int, int, RayQueueError | None]], now_ms: float
    ) -> list[Effect]:
        """The answer to the oldest request of a link: (base offset, append time or -1, error) a batch."""
        state = self._node(node)
        if state.link is not link or not state.requests:
            return []
        _, request = state.requests.popitem(last=False)
        effects: list[Effect] = []
        for (batch, sent), (offset, timestamp, error) in zip(request.batches, results, strict=True):
            if batch.state != IN_FLIGHT or batch.sent != sent:
                continue  # given up meanwhile, or sent to another leader
            if error is None:
                batch.lane.acked(batch)
                effects.append(Delivered(batch, offset, timestamp))
                self._make_ready(batch.lane)
            else:
                effects += self._refused(batch, error, now_ms)
        return effects

    # --- what to do now --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float) -> list[Effect]:
        """Everything that is due: what is out of time, silent nodes, and all that may be sent."""
        effects = self._expire(now_ms)
        while self._wake and self._wake[0][0] <= now_ms:
            self._make_ready(heapq.heappop(self._wake)[2])
        self._orphans = {lane: None for lane in self._orphans if lane.waiting}
        for lane in self._orphans:
            effects += self._refresh(lane.topic)
        for key, node in list(self._nodes.items()):
            if node.requests:
                effects += self._silent(key, node, now_ms)
            if node.ready:
                effects += self._send_to(key, node, now_ms)
        if self._without_id and not self._producer_id_asked:
            self._producer_id_asked = True
            effects.append(NeedProducerId())
        return effects

    def next_deadline_ms(self) -> float | None:
        """When `poll` will have something to do without any other event."""
        while self._by_age and self._by_age[0].state == DONE:
            self._by_age.popleft()
        times = [self._by_age[0].deadline_ms] if self._by_age else []
        times += [self._wake[0][0]] if self._wake else []
        for node in self._nodes.values():
            if node.requests:
                sent_ms = next(iter(node.requests.values())).sent_ms
                look_ms = max(sent_ms, node.asked_ms) + self._settings.silence_ms
                times.append(min(sent_ms + self._settings.request_timeout_ms, look_ms))
            elif node.ready and node.link is None and not node.connecting:
                times.append(node.blocked_until_ms)
        return min(times) if times else None

    def link(self, lane: Lane) -> Any:
        """The link that the lane's batches would take now, or None."""
        node = self._nodes.get(lane.node)
        return None if node is None else node.link

    @property
    def owing(self) -> int:
        """How many nodes have requests that they have not answered."""
        owing = 0
        for node in self._nodes.values():  # asked for each lone record: a generator costs more than the work
            if node.requests:
                owing += 1
        return owing

    @property
    def has_work(self) -> bool:
        """Whether `poll` might find something to send, or to ask for, without any other event."""
        if self._orphans or self._without_id:
            return True
        for node in self._nodes.values():  # noqa: SIM110 - as above
            if node.ready:
                return True
        return False

    def has_room(self, lanes: Iterable[Lane]) -> bool:
        """Whether a batch for one of these lanes could be sent at once: else it is better to let batches grow."""
        for lane in lanes:
            node = self._nodes.get(lane.node)
            if not lane.waiting and (node is None or node.link is None or len(node.requests) < node.window):
                return True
        return False

    # --- inside ----------------------------------------------------------------------------------------------------

    def _node(self, key: Hashable) -> _Node:
        if key not in self._nodes:
            self._nodes[key] = _Node(self._settings.max_in_flight)
        return self._nodes[key]

    def _make_ready(self, lane: Lane) -> None:
        if lane.drained() and not lane.restart():
            self._without_id[lane] = None
        if not lane.waiting:
            return
        if lane.node is None:
            self._orphans[lane] = None
        elif lane.idempotent and lane.sequences.producer_id < 0:
            self._without_id[lane] = None
        else:
            self._node(lane.node).ready[lane] = None

    def _forget_ready(self, lane: Lane) -> None:
        self._orphans.pop(lane, None)
        node = self._nodes.get(lane.node)
        if node is not None:
            node.ready.pop(lane, None)
            if node.link is None and not node.connecting and not node.ready:
                del self._nodes[lane.node]  # an incarnation that is gone

    def _send_to(self, key: Hashable, node: _Node, now_ms: float) -> list[Effect]:
        if node.connecting or node.blocked_until_ms > now_ms:
            return []
        if node.link is None:
            node.connecting = True
            return [Connect(key)]
        effects: list[Effect] = []
        while len(node.requests) < node.window and (batches := self._fill(node, now_ms)):
            correlation = next(self._numbers)
            request = ProduceRequest(correlation, self._settings.acks, [_header(batch) for batch in batches])
            effects.append(Send(key, node.link, request, [batch.message for batch in batches]))
            if self._settings.acks == 0:
                for batch in batches:
                    batch.lane.acked(batch)
                    effects.append(Delivered(batch, -1, -1))
            else:
                node.requests[correlation] = _Request(now_ms, [(b, b.sent) for b in batches])
        return effects

    def _fill(self, node: _Node, now_ms: float) -> list[Batch]:
        """The batches of one request: one a lane, lanes in turn; a large batch alone."""
        batches: list[Batch] = []
        size = 0
        again: list[Lane] = []
        for lane in list(node.ready):
            batch = lane.next_batch() if lane.blocked_until_ms <= now_ms else None
            if batch is None:
                # An answer, or the end of its backoff, makes it ready again.
                del node.ready[lane]
                continue
            if batches and (batch.size >= ALONE_BYTES or size + batch.size > self._settings.max_request_size):
                break
            lane.send(batch)
            batches.append(batch)
            size += batch.size
            del node.ready[lane]
            if lane.waiting:
                again.append(lane)
            if batch.size >= ALONE_BYTES:
                break
        for lane in again:
            node.ready[lane] = None
        return batches

    def _refused(self, batch: Batch, error: RayQueueError, now_ms: float) -> list[Effect]:
        lane = batch.lane
        if isinstance(error, OutOfOrderSequence) and batch.stamped:
            if lane.is_first_unresolved(batch):
                batch.last_error = error
                lane.unstamp(batch)
            else:
                lane.put_back(batch)  # a batch before it has to go first
            self._make_ready(lane)
            return []
        if error.retriable or isinstance(error, _STALE):
            stale = self._refresh(lane.topic) if isinstance(error, _STALE) else []
            return self._come_back(batch, error, now_ms) + stale
        if isinstance(error, ProducerFenced):
            lane.sequences.producer_epoch = EPOCH_MAX  # so the drain ends with a new producer id
        return [self._fail(batch, error)]

    def _come_back(self, batch: Batch, error: RayQueueError, now_ms: float) -> list[Effect]:
        """A batch whose outcome may be retried waits at its place, unless its retries are used up."""
        lane = batch.lane
        batch.last_error = error
        if batch.attempts >= self._settings.retries:
            return [self._fail(batch, error)]
        lane.put_back(batch)
        lane.blocked_until_ms = max(lane.blocked_until_ms, now_ms + self._backoff_ms(batch.attempts))
        batch.attempts += 1
        heapq.heappush(self._wake, (lane.blocked_until_ms, next(self._numbers), lane))
        return []

    def _fail(self, batch: Batch, error: RayQueueError) -> Failed:
        batch.lane.drop(batch)
        self._make_ready(batch.lane)
        return Failed(batch, error)

    def _expire(self, now_ms: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._by_age and (self._by_age[0].state == DONE or self._by_age[0].deadline_ms <= now_ms):
            batch = self._by_age.popleft()
            if batch.state != DONE:
                effects.append(self._fail(batch, self._timeout(batch)))
        return effects

    def _timeout(self, batch: Batch) -> DeliveryTimeout:
        known = "the outcome is not known" if batch.sent else "it was never sent"
        return DeliveryTimeout(
            f"no ack for {batch.record_count} records of {batch.lane.topic}-{batch.lane.partition} within "
            f"delivery.timeout.ms={self._settings.delivery_timeout_ms:g}: {known}{self.trouble(batch.lane, batch)}"
        )

    def trouble(self, lane: Lane, batch: Batch | None = None) -> str:
        """What keeps a lane (or this batch of it) from its acks, as the end of a message; empty if nothing is known."""
        node = self._nodes.get(lane.node)
        error = (node.last_error if node is not None else None) or (batch.last_error if batch else lane.last_error)
        if error is not None:
            return f"; last error: {type(error).__name__}: {error}"
        return "; the partition has no leader (`rayqueue status`)" if lane.node is None else ""

    def _silent(self, key: Hashable, node: _Node, now_ms: float) -> list[Effect]:
        """A node that does not answer may hang, or be lost, and its link stand: perhaps another one leads by now."""
        sent_ms = next(iter(node.requests.values())).sent_ms
        if now_ms - sent_ms < self._settings.request_timeout_ms:
            if now_ms - max(sent_ms, node.asked_ms) < self._settings.silence_ms:
                return []
            node.asked_ms = now_ms
            topics = {batch.lane.topic: None for request in node.requests.values() for batch, _ in request.batches}
            return [effect for topic in topics for effect in self._refresh(topic)]
        error = RequestTimeout(f"no answer within request.timeout.ms={self._settings.request_timeout_ms:g}")
        return [Disconnect(node.link), *self.disconnected(key, node.link, error, now_ms)]

    def _refresh(self, topic: str) -> list[Effect]:
        if topic in self._refreshing:
            return []
        self._refreshing.add(topic)
        return [RefreshMetadata(topic)]

    def validate(self) -> None:
        """The invariants."""
        for node in self._nodes.values():
            assert len(node.requests) <= max(node.window, 1)
            assert node.link is not None or not node.requests
