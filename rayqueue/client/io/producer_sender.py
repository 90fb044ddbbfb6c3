"""The sender: the thread that turns closed chunks into batches and does what the delivery machine says.

Answers are taken on the links' own threads, so that an ack reaches its future without another hop; they step the same
machine under its lock. One thread at a time sends, the sender's or a caller's with a lone record, so requests leave in
the order in which the machine made them.
"""

# size: the one place where what the machine says is done

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from rayqueue.client.accumulator import Accumulator
from rayqueue.client.delivery import Delivery
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
from rayqueue.client.io.backlog import Backlog, Work
from rayqueue.client.io.doorbell import Doorbell
from rayqueue.client.io.future import Part, Receipt
from rayqueue.client.io.interrupts import Uninterrupted
from rayqueue.client.io.producer_batches import TablePiece, chunk_to_batches, pieces_to_batches
from rayqueue.client.io.producer_links import ProduceLink, Results
from rayqueue.client.io.send_guard import SendGuard
from rayqueue.client.io.shared_memory import ClientMemory
from rayqueue.client.io.topics import ProducerTopic, leader_of
from rayqueue.client.lanes import Batch, Lane
from rayqueue.config.clients import ProducerConfig
from rayqueue.errors import BrokerNotAvailable, RayQueueError, UnknownTopicOrPartition
from rayqueue.protocol.messages import MetadataResponse, TopicInfo

log = logging.getLogger("rayqueue.producer")

# With no linger, records that are close behind each other wait for the answer to the first, but no longer than this.
GATHER_MS = 25.0


def assert_never(value: NoReturn) -> NoReturn:
    """Closes a match: the type checker proves that nothing gets here (`typing.assert_never` needs Python 3.11)."""
    raise AssertionError(f"unexpected {value!r}")


def now_ms() -> float:
    """The clock of linger, backoff and deadlines."""
    return time.monotonic() * 1000


class Sender:
    """See the module.

    Args:
        config: the producer's settings.
        accumulator: where records wait; lock: guards it.
        freed: called with the bytes and receipts of finished parts.
        make_link: makes a link to a node, not started.
        refresh: asks for a topic's metadata. renew_id: asks for a producer id.
        topic_gone: called with a topic that was deleted, or replaced by another of its name.
        backoff_ms: wait before try n + 1.
    """

    def __init__(
        self,
        config: ProducerConfig,
        accumulator: Accumulator,
        lock: threading.Lock,
        *,
        freed: Callable[[int, list[Receipt]], None],
        make_link: Callable[[Any, Sender], ProduceLink],
        refresh: Callable[[str], None],
        renew_id: Callable[[], None],
        topic_gone: Callable[[ProducerTopic], None],
        died: Callable[[BaseException], None],
        backoff_ms: Callable[[int], float],
    ) -> None:
        self._config = config
        self._accumulator = accumulator
        self._lock = lock
        self._freed = freed
        self._make_link = make_link
        self._refresh = refresh
        self._renew_id = renew_id
        self._topic_gone = topic_gone
        self._died = died
        self._machine = Delivery(
            DeliverySettings(
                acks=config.acks,
                idempotent=config.enable_idempotence,
                retries=config.retries,
                max_in_flight=config.max_in_flight,
                max_request_size=config.max_request_size,
                request_timeout_ms=config.request_timeout_ms,
                delivery_timeout_ms=config.delivery_timeout_ms,
            ),
            backoff_ms,
        )
        self._core = threading.Lock()
        self._stepping = threading.Lock()  # held by who makes and sends requests, so that they leave in order
        self._asked = False  # for a step; who holds `_stepping` looks again after letting it go
        self._links: set[ProduceLink] = set()
        self._topics: dict[str, ProducerTopic] = {}
        self._backlog = Backlog()  # belongs to who holds `_stepping`
        self._stopping = False
        self._sleeps_until = math.inf
        self._awake = False
        self._guard = SendGuard(config.request_timeout_ms / 1000, self._hanging)
        self.bell = Doorbell()
        self._thread = threading.Thread(target=self._run, name="rayqueue-producer-sender", daemon=True)
        self._started = False

    # --- topics ----------------------------------------------------------------------------------------------------

    def add_topic(self, topic: ProducerTopic) -> None:
        """A topic that is produced to from now on; starts the thread."""
        with self._core:
            self._topics[topic.name] = topic
            self._lead(topic, topic.info)
            if not self._started and not self._stopping:
                self._started = True
                self._guard.start()
                self._thread.start()

    def _lead(self, topic: ProducerTopic, info: TopicInfo) -> None:
        for number in range(len(topic.lanes), len(info.partitions)):
            topic.lanes.append(self._machine.make_lane(info.name, info.topic_id, number))
        topic.update(info, self._config)
        topic.refreshed_ms = now_ms()
        for partition in info.partitions:
            self._machine.set_leader(topic.lanes[partition.partition], leader_of(partition), partition.leader_epoch)

    def take_metadata(self, names: list[str], answer: MetadataResponse | None) -> None:
        """News of some topics; None: nobody answered."""
        effects: list[Effect] = []
        gone = []
        found = {info.name: info for info in answer.topics} if answer is not None else {}
        with self._core:
            for name in names:
                topic, info = self._topics.get(name), found.get(name)
                self._machine.refreshed(name)
                if topic is None or answer is None:
                    continue
                if info is not None and info.topic_id == topic.info.topic_id:
                    self._lead(topic, info)
                    continue
                del self._topics[name]
                gone.append(topic)
                error = UnknownTopicOrPartition(f"topic {name!r} was deleted while records for it were on their way")
                effects += self._machine.remove_topic(topic.lanes, error)
            hanging = self._guard.hanging
            lanes = [lane for topic in self._topics.values() for lane in topic.lanes] if hanging else []
        for topic in gone:
            self._topic_gone(topic)
        if hanging is not None and not any(lane.node == hanging.node for lane in lanes):
            self._guard.release(hanging)
        self._perform(effects)
        self.bell.ring()

    def take_producer_id(self, producer_id: int, producer_epoch: int) -> None:
        """The id under which batches are numbered."""
        with self._core:
            self._machine.set_producer_id(producer_id, producer_epoch)
        self.bell.ring()

    def trouble(self, topic: str, partition: int) -> str:
        """What keeps a partition (-1: any) from its acks, as the end of a message; empty if nothing is known."""
        with self._core:
            state = self._topics.get(topic)
            lanes = [] if state is None else state.lanes if partition < 0 else [state.lanes[partition]]
            return next(filter(None, map(self._machine.trouble, lanes)), "")

    # --- links, on their own threads -------------------------------------------------------------------------------

    def link_opened(self, link: ProduceLink, window: int) -> None:
        """The link can be sent on."""
        with self._core:
            self._machine.connected(link.node, link, window)
        self.bell.ring()

    def link_answered(self, link: ProduceLink, results: Results) -> None:
        """The oldest request of the link is answered."""
        with self._core:
            effects = self._machine.answered(link.node, link, results, now_ms())
            deadline = self._machine.next_deadline_ms()
            gathering = self._config.linger_ms == 0 and self._machine.owing == 1 and not self._accumulator.closed
            more = self._machine.has_work or self._backlog or (self._accumulator.pending and not gathering)
            direct = bool(self._accumulator.closed or self._backlog) and self._is_direct()
        if direct:
            self._step_here()
            more, deadline = False, None
        self._perform(effects)
        # Waking the sender for nothing would hold up the caller who waits for this very ack.
        if more or (deadline is not None and deadline < self._sleeps_until):
            self.bell.ring()

    def link_ended(self, link: ProduceLink, opened: bool, error: RayQueueError) -> None:
        """The link broke, was closed, or could not be opened."""
        with self._core:
            self._links.discard(link)
            effects = self._machine.disconnected(link.node, link if opened else None, error, now_ms())
            stopping = self._stopping
        if effects and not stopping:
            log.info("link to %s:%s ended: %s", link.node[0], link.node[1], error)
        self._perform(effects)
        self.bell.ring()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self._stepping:
                    self._awake = True
                    self._sleeps_until = math.inf  # who finds something with a deadline rings, and it is kept
                    self._asked = False
                    deadline = self._step()
                if self._asked:
                    continue  # by somebody who found us at it
                if self._config.linger_ms == 0:
                    with self._core:
                        owing = self._machine.owing
                    if owing:
                        deadline = min(deadline or math.inf, now_ms() + GATHER_MS)
                if deadline is None:
                    self._awake = False
                    self.bell.wait(None)
                elif (left := deadline - now_ms()) > 0:
                    self._sleeps_until = deadline
                    self._awake = False
                    self.bell.wait(left / 1000)
        except BaseException as error:
            log.exception("the producer's sender failed")
            self._died(error)

    def send_now(self) -> None:
        """Has a record that opened a chunk sent.

        By this thread, if nothing is on its way: it is spared the waking of another. If one server owes an answer: by
        that answer, with all that gathers till then, or by the sender after `GATHER_MS`. Else by the sender.
        """
        with self._core:
            owing = self._machine.owing
            alone = not owing and not self._backlog and self._machine.next_deadline_ms() is None
        # While answers are owed the sender sleeps no longer than that; of a request that was not its own it is told.
        bounded = self._awake or self._sleeps_until <= now_ms() + GATHER_MS
        if owing == 1 and bounded and not self._accumulator.closed:
            return
        if alone:
            self._step_here()
        else:
            self.bell.ring()

    def send_pieces(self, topic: ProducerTopic) -> None:
        """Has the pieces of a table sent that were added: by this thread, if that is no more than a few bytes.

        When there is no room, nobody is woken for them: the answer that makes room sends them, or the sender, who is
        awake, or has a deadline, when a batch waits for anything else.
        """
        with self._core:
            if not self._machine.has_room(topic.lanes):
                return
            direct = self._is_direct()
        if direct:
            self._step_here()
        else:
            self.bell.ring()

    def _is_direct(self) -> bool:
        """Whether a send is but a notice, to the one server there is: then no thread is kept from other servers."""
        return len(self._links) == 1 and all(link.memory is not None for link in self._links)

    def _step_here(self) -> None:
        """Steps on the calling thread, unless another one is at it: that one steps once more."""
        with Uninterrupted():
            deadline: float | None = None
            self._asked = True
            try:
                while self._asked and self._stepping.acquire(blocking=False):
                    try:
                        self._asked = False
                        deadline = 0.0  # should the step end early, the sender looks what is left
                        deadline = self._step()
                    finally:
                        self._stepping.release()
            except BaseException as error:
                log.exception("the producer's sender failed")
                self._died(error)
                raise
            finally:
                if deadline is not None and deadline < self._sleeps_until:
                    self.bell.ring()

    def _step(self) -> float | None:
        """Takes what is due, sends what may be sent; when there will be more to do."""
        accumulator = self._accumulator
        now = now_ms()
        with self._lock:
            topics = accumulator.open_topics()
        with self._core:
            roomy = {topic for topic in topics if self._machine.has_room(topic.lanes)}
        with self._lock:
            work = accumulator.take_due(now, roomy)
            linger = accumulator.next_deadline_ms(roomy)
        self._backlog.extend(work)
        run, due = self._take(), None
        if not run:
            due = self._offer([], now)
            run = self._take()  # what went out and gets no answer (acks=0) has made room that nobody else will tell of
        while run and not self._stopping:
            due = self._offer(self._encode(run, now), now)
            run = self._take()
        return due if linger is None else linger if due is None else min(linger, due)

    def _take(self) -> list[Work]:
        """What can be encoded and sent now."""
        if not self._backlog:
            return []
        with self._core:
            return self._backlog.take(lambda topic: self._machine.has_room(topic.lanes), self._config.max_request_size)

    def _offer(self, batches: list[Batch], now: float) -> float | None:
        """Gives batches to the machine and does what it says; its next deadline."""
        with self._core:
            self._machine.add(batches)
            effects = self._machine.poll(now)
            deadline = self._machine.next_deadline_ms()
        self._perform(effects)
        return deadline

    def _encode(self, run: list[Work], now: float) -> list[Batch]:
        first = run[0]
        topic: ProducerTopic = first.topic
        if now - topic.refreshed_ms > self._config.metadata_max_age_ms:
            topic.refreshed_ms = now
            self._refresh(topic.name)
        deadline = (first.opened_ms if first.opened_ms >= 0 else now) + self._config.delivery_timeout_ms
        placed = False
        try:
            if self._topics.get(topic.name) is not topic:
                raise UnknownTopicOrPartition(f"topic {topic.name!r} was deleted")
            if isinstance(first, TablePiece):
                pieces = [piece for piece in run if isinstance(piece, TablePiece)]
                batches = pieces_to_batches(pieces, self._config.max_request_size, deadline, self._memory_of)
                if first.last and first.receipt.complete:
                    self._freed(0, [first.receipt])  # cut short: nothing is left that could complete it
            else:
                batches = chunk_to_batches(first, self._config.batch_size, deadline, self._memory_of)
            placed = True
            return batches
        except Exception as error:
            assert not placed
            for item in run:
                self.refuse(item, error)
            return []

    def _memory_of(self, lane: Lane) -> ClientMemory | None:
        """The memory shared with the lane's leader; with acks=0 nobody would say when it has been read."""
        link = self._machine.link(lane)
        return None if link is None or self._config.acks == 0 else link.memory

    def refuse(self, item: Work, error: Exception) -> None:
        """Fails records that were never offered."""
        ours = error if isinstance(error, RayQueueError) else RayQueueError(f"the records cannot be encoded: {error}")
        if not isinstance(error, RayQueueError):
            log.error("records of %s cannot be encoded", item.topic.name, exc_info=error)
        if isinstance(item, TablePiece):
            count, reserved, last = (0 if item.batch is None else item.batch.num_rows), item.reserved, item.last
        else:
            count, reserved, last = item.count, item.size, True
        part = Part(item.receipt, -1, range(count), reserved)
        item.receipt.place([part], last=last)
        complete = item.receipt.settle(part, -1, -1, ours)
        self._freed(reserved, [item.receipt] if complete else [])

    def _perform(self, effects: list[Effect]) -> None:
        freed = 0
        complete: list[Receipt] = []
        for effect in effects:
            match effect:
                case Delivered(batch, offset, timestamp):
                    freed += self._settle(batch, offset, timestamp, None, complete)
                case Failed(batch, error):
                    freed += self._settle(batch, -1, -1, error, complete)
                case Send(node, link, request, rows):
                    self._send(node, link, request, rows)
                case Connect(node):
                    self._connect(node)
                case Disconnect(link):
                    link.close()
                case RefreshMetadata(topic):
                    self._refresh(topic)
                case NeedProducerId():
                    self._renew_id()
                case _:
                    assert_never(effect)
        if freed or complete:
            self._freed(freed, complete)

    def _settle(
        self, batch: Batch, offset: int, timestamp: int, error: RayQueueError | None, complete: list[Receipt]
    ) -> int:
        parts: list[Part] = batch.part if isinstance(batch.part, list) else [batch.part]
        batch.message = None
        freed = 0
        for part in parts:
            receipt = part.receipt
            if receipt.settle(part, offset, timestamp, error):
                complete.append(receipt)
            freed += part.reserved
            if offset >= 0:
                offset += part.count
        return freed

    def _send(self, node: Any, link: ProduceLink, request: Any, rows: list[Any]) -> None:
        self._guard.begin(link)
        try:
            link.send(request, rows)
        except RayQueueError as error:
            self._guard.end()
            with self._core:
                effects = self._machine.disconnected(node, link, error, now_ms())
            link.close()
            self._perform(effects)
            self.bell.ring()  # what came back is due at another time than was thought
        else:
            self._guard.end()

    def _hanging(self, link: ProduceLink) -> None:
        """A send hangs: perhaps its server has been replaced (see `take_metadata`)."""
        with self._core:
            names = [topic.name for topic in self._topics.values() if any(x.node == link.node for x in topic.lanes)]
        for name in names:
            self._refresh(name)

    def _connect(self, node: Any) -> None:
        link = self._make_link(node, self)
        with self._core:
            if self._stopping:
                return
            self._links.add(link)
        try:
            link.start()
        except RuntimeError as error:  # the interpreter is ending: no thread can start
            self.link_ended(link, False, BrokerNotAvailable(f"no new connection can be made: {error}"))

    # --- the end ---------------------------------------------------------------------------------------------------

    def abort(self, error: RayQueueError) -> None:
        """Fails everything that is outstanding; called when the thread has ended, or by it."""
        with self._stepping:
            with self._lock:
                for topic in self._accumulator.open_topics():
                    self._accumulator.close(topic)
                self._backlog.extend(self._accumulator.take_due(now_ms(), ()))
            for item in self._backlog.drain():
                self.refuse(item, error)
        with self._core:
            effects = self._machine.abort(error)
        self._perform(effects)

    def stop(self, timeout_s: float) -> None:
        """Ends the thread and the links."""
        with self._core:
            self._stopping = True
            links = list(self._links)
        self._guard.stop()
        self.bell.ring()
        for link in links:
            link.close()
        if self._started and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        for link in links:
            link.join(timeout_s)
