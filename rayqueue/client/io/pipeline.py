"""Everything behind a producer: memory, topics, the sender and its helpers' threads, flushing and closing.

The threads hold the pipeline, not the `Producer`, so a producer that is forgotten can be collected and warn.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from rayqueue.client.accumulator import Accumulator
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.io.callbacks import CallbackThread
from rayqueue.client.io.future import Receipt
from rayqueue.client.io.producer_links import ProduceLink
from rayqueue.client.io.producer_sender import Sender
from rayqueue.client.io.topics import ProducerTopic
from rayqueue.client.io.upkeep import Upkeep
from rayqueue.config.clients import ProducerConfig
from rayqueue.errors import BrokerNotAvailable, BufferFull, RayQueueError, RecordTooLarge
from rayqueue.protocol.messages import Empty, InitProducerIdResponse

log = logging.getLogger("rayqueue.producer")

T = TypeVar("T")

_JOIN_S = 2.0
_running: weakref.WeakSet[Pipeline] = weakref.WeakSet()


class Pipeline:
    """See the module.

    Args:
        config: the producer's settings.
        random: chooses where round robin begins; None: anywhere.

    Attributes:
        lock: guards accumulator, the topics' open chunks and `outstanding`.
        memory: what is left of buffer.memory.
        fast: the chunks that the hot path of `Producer.produce` appends to; empty when the producer is closed.
        outstanding: receipts that are not complete.
    """

    def __init__(self, config: ProducerConfig, random: Random | None = None) -> None:
        self.config = config
        if config.idempotence_lost:
            log.warning(
                "this producer is not idempotent although acks=all, because of %s: a retry may write a record twice or "
                "out of order. Leave that setting out, or say so with enable.idempotence=False",
                config.idempotence_lost,
            )
        self._random = Random() if random is None else random
        self.cluster = ClusterClient(config)
        self.lock = threading.Lock()
        self.accumulator = Accumulator(config.linger_ms, config.batch_size, config.buffer_memory)
        self.memory = self.accumulator.memory
        self.fast = self.accumulator.fast
        self.outstanding: dict[Receipt, None] = {}
        self.callbacks = CallbackThread("rayqueue-producer-callbacks")
        self._topics: dict[str, ProducerTopic] = {}
        self._room = threading.Condition(self.lock)
        self._waiting = 0
        self._opening = threading.Lock()
        self._has_id = not config.enable_idempotence
        self._closed: RayQueueError | None = None
        self._pid = os.getpid()
        self._upkeep = Upkeep(self.cluster, self._on_metadata, self._on_producer_id)
        self._sender = Sender(
            config,
            self.accumulator,
            self.lock,
            freed=self._freed,
            make_link=self._make_link,
            refresh=self._upkeep.refresh,
            renew_id=self._upkeep.renew_producer_id,
            topic_gone=self._topic_gone,
            died=self._died,
            backoff_ms=lambda attempt: self.cluster.backoff(attempt) * 1000,
        )
        self.ring = self._sender.bell.ring
        self.send_now = self.ring if config.linger_ms > 0 else self._sender.send_now
        self.send_pieces = self._sender.send_pieces
        self.trouble = self._sender.trouble
        _running.add(self)

    # --- topics ----------------------------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Refuses work after `close` and in a forked child."""
        self.cluster.check_process()
        self.check_not_closed()

    def check_not_closed(self) -> None:
        """Refuses work after `close`."""
        if self._closed is not None:
            raise type(self._closed)(str(self._closed))

    def topic(self, name: str) -> ProducerTopic:
        """The topic's state, asked for when it is first produced to.

        Raises:
            UnknownTopicOrPartition: there is no such topic; InvalidTopic: the name is none.
            BrokerNotAvailable, RequestTimeout: nobody told within `max.block.ms`.
        """
        topic = self._topics.get(name)
        return topic if topic is not None else self._open_topic(name)

    def _open_topic(self, name: str) -> ProducerTopic:
        if not isinstance(name, str):
            raise TypeError(f"the topic is a str, not {type(name).__name__}")
        deadline = time.monotonic() + self.config.max_block_ms / 1000
        if not self._opening.acquire(timeout=self.config.max_block_ms / 1000):
            raise BrokerNotAvailable(
                f"no metadata of topic {name!r} within max.block.ms={self.config.max_block_ms}: other threads still "
                "wait for theirs; is the cluster up (`rayqueue status`)?"
            )
        try:
            if name in self._topics:
                return self._topics[name]
            info = self._ask(deadline, lambda left: self.cluster.topic(name, auto_create=True, timeout_s=left))
            if not self._has_id:
                self._on_producer_id(self._ask(deadline, self._new_producer_id))
            topic = ProducerTopic(info, self.config, self._random)
            self._sender.add_topic(topic)
            topic.full_at = self.accumulator.full_at(topic.partitions)
            with self.lock:
                self._topics[name] = topic
            return topic
        except RayQueueError as error:
            if error.retriable and self.config.max_block_ms < self.config.request_timeout_ms:
                # Too short for an answer perhaps: the next call finds what comes in the background (as in Kafka).
                self._upkeep.refresh(name)
                if not self._has_id:
                    self._upkeep.renew_producer_id()
            raise
        finally:
            self._opening.release()

    def _new_producer_id(self, timeout_s: float) -> InitProducerIdResponse:
        return self.cluster.call_broker("init_producer_id", Empty(), InitProducerIdResponse, timeout_s)

    def _ask(self, deadline: float, call: Callable[[float], T]) -> T:
        """`call(seconds)`, each try within `request.timeout.ms`, again and again until the deadline (of monotonic)."""
        one_s = self.config.request_timeout_ms / 1000
        left = max(0.0, deadline - time.monotonic())
        try:
            return self.cluster.retry(lambda left: call(min(left, one_s)), left)
        except RayQueueError as error:
            if not error.retriable:
                raise
            raise type(error)(f"{error} (produce tried for max.block.ms={self.config.max_block_ms})") from error

    def refresh_topic(self, topic: ProducerTopic) -> None:
        """Brings the topic's metadata up to date, on the caller's thread."""
        deadline = time.monotonic() + self.config.max_block_ms / 1000
        answer = self._ask(deadline, lambda left: self.cluster.refresh([topic.name], timeout_s=left))
        self._sender.take_metadata([topic.name], answer)
        topic.full_at = self.accumulator.full_at(topic.partitions)

    def _topic_gone(self, topic: ProducerTopic) -> None:
        with self.lock:
            if self._topics.get(topic.name) is topic:
                del self._topics[topic.name]
            self.accumulator.close(topic)

    # --- what the threads call -------------------------------------------------------------------------------------

    def _make_link(self, node: Any, sender: Sender) -> ProduceLink:
        timeout_s = self.config.socket_connection_setup_timeout_ms / 1000
        return ProduceLink(node, self.cluster, sender, self.config.client_id, timeout_s)

    def _on_metadata(self, names: list[str], answer: Any) -> None:
        self._sender.take_metadata(names, answer)
        for name in names:
            topic = self._topics.get(name)
            if topic is not None:
                topic.full_at = self.accumulator.full_at(topic.partitions)

    def _on_producer_id(self, answer: InitProducerIdResponse) -> None:
        self._sender.take_producer_id(answer.producer_id, answer.producer_epoch)
        self._has_id = True

    def _freed(self, size: int, complete: list[Receipt]) -> None:
        with self.lock:
            self.memory.give(size)
            for receipt in complete:
                self.outstanding.pop(receipt, None)
            if self._waiting:
                self._room.notify_all()

    def _died(self, error: BaseException) -> None:
        with self.lock:
            self._closed = RayQueueError(f"this producer has failed ({error!r}, see the log): make a new one")
            self._shut()
        self._sender.abort(
            RayQueueError(f"the producer failed: {error!r}; whether these records were written is not known")
        )

    def _shut(self) -> None:
        """Closes the open chunks, so that what comes now has to pass `check_open`; the caller holds the lock."""
        for topic in self.accumulator.open_topics():
            self.accumulator.close(topic)

    # --- memory ----------------------------------------------------------------------------------------------------

    def reserve(self, size: int, roomy: int = 0, block: bool = True) -> None:
        """Waits till there is memory; the caller holds `lock`, which is let go meanwhile, and then takes it.

        Args:
            size: bytes that are needed.
            roomy: bytes to wait for once it waits, so that what is taken then is not a crumb at a time.
            block: wait at most `max.block.ms`; False: as long as it takes (part of a call was taken already; every
                batch ends within `delivery.timeout.ms`, so there will be room).

        Raises:
            BufferFull: there was no room in time. RecordTooLarge: there never will be.
        """
        memory = self.memory
        if size > memory.limit:
            raise RecordTooLarge(
                f"{size} bytes are more than buffer.memory={memory.limit}: raise it, or send less at once"
            )
        deadline = time.monotonic() + self.config.max_block_ms / 1000
        while not memory.fits(size):
            size = max(size, min(roomy, memory.limit // 4))
            left = deadline - time.monotonic() if block else 60.0
            if left <= 0:
                raise BufferFull(
                    f"buffer.memory={memory.limit} stayed full for max.block.ms={self.config.max_block_ms}: the "
                    "brokers take records more slowly than they are produced, or not at all; slow down, or raise either"
                )
            self._waiting += 1
            self.accumulator.hurry += 1  # what lingers is what fills the memory
            self.ring()
            try:
                self._room.wait(left)
            finally:
                self._waiting -= 1
                self.accumulator.hurry -= 1
            if self._closed is not None:
                raise RayQueueError(str(self._closed))

    # --- flushing and closing --------------------------------------------------------------------------------------

    def undelivered(self) -> int:
        """Records without an outcome."""
        with self.lock:
            receipts = list(self.outstanding)
        return sum(receipt.undelivered() for receipt in receipts)

    def flush(self, timeout: float | None) -> int:
        """Waits until everything produced so far has its outcome and its callbacks have run; how many have not."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            receipts = list(self.outstanding)
            self.accumulator.hurry += 1
        self.ring()
        try:
            if all(receipt.wait_complete(deadline) for receipt in receipts):
                self.callbacks.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            with self.lock:
                self.accumulator.hurry -= 1
        return sum(receipt.undelivered() for receipt in receipts)

    def close(self, timeout: float | None) -> int:
        """Refuses new records, flushes, ends all threads and connections. How many records were not delivered."""
        if self.is_forked:
            return 0  # the parent's; nothing here works in a forked child
        with self.lock:
            first = self._closed is None
            self._closed = self._closed or RayQueueError("this producer is closed: make a new one")
            self._shut()
        if not first:
            return 0
        try:
            self.flush(timeout)
        finally:
            left = self._stop()
        return left

    def _stop(self) -> int:
        _running.discard(self)
        with self.lock:
            self._room.notify_all()
        self._upkeep.stop()
        self._sender.stop(_JOIN_S)
        self._upkeep.join(_JOIN_S)
        left = self.undelivered()
        if left:
            log.warning("a producer was closed with %d records undelivered", left)
            error = RayQueueError("the producer was closed before an ack came: whether it was written is not known")
            self._sender.abort(error)
        self.callbacks.stop()
        self.cluster.close()
        return left

    def close_when_flushed(self) -> None:
        """Flushes and closes in the background: nobody holds the producer any more."""
        threading.Thread(target=self.close, args=(None,), name="rayqueue-producer-close", daemon=True).start()

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more records."""
        return self._closed is not None

    @property
    def is_forked(self) -> bool:
        """Whether this is a forked child, where nothing of the parent's works (a lock may be held for ever)."""
        return os.getpid() != self._pid


def _in_child() -> None:
    for pipeline in list(_running):
        pipeline.fast.clear()  # the hot path is shut, so that `check_open` speaks up


def _at_exit() -> None:
    for pipeline in list(_running):
        if pipeline.is_forked:
            continue
        left = pipeline.undelivered()
        if left:
            log.warning("the process ends with %d records undelivered: close() or flush() the producer", left)
        pipeline.close(pipeline.config.request_timeout_ms / 1000)


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
