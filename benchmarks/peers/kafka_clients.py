"""What the loads of confluent-kafka are made of: a producer, a consumer, and what notices that the broker is gone.

A consumer assigns its partitions itself, so no group's rebalance gets in the way, unless a group is asked for. Tunings
are librdkafka's settings with underscores, such as linger_ms=0.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

ACK_TIMEOUT_S = 60.0
SILENCE_MAX_S = 30.0
METADATA_TIMEOUT_S = 30.0
WAIT_S = 1.0
JOIN_WAIT_S = 0.1
SUSPICION_S = 30.0
FETCH_HELD_S = 0.6  # fetch.wait.max.ms is 500 by default
QUEUE_FULL_WAIT_S = 0.1
NO_GROUP = "bench-unused"  # librdkafka wants a group id even of a consumer that assigns its partitions itself
LOG_CRITICAL = 2

T = TypeVar("T")
OnDelivery: TypeAlias = Callable[[KafkaError | None, Message], None]


class KafkaGone(RuntimeError):
    """The broker does not answer any more; the message is one line."""


class Lifeline:
    """Notices that the broker is gone, where librdkafka by itself would try again for minutes.

    librdkafka says only that its connections are down, which may be for a moment. Whether the broker is, its port
    tells: on loopback a port on which nobody listens refuses at once. A process that was killed may listen for a
    moment more, so it is asked again.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._suspected_until = self._asked_next = 0.0

    def on_error(self, error: KafkaError) -> None:
        """The client's `error_cb`; it is called within `poll`, `flush` and `consume`."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._suspected_until = time.monotonic() + SUSPICION_S

    def check(self) -> None:
        """To be called while one waits; cheap as long as nothing is suspected.

        Raises:
            KafkaGone: it is.
        """
        if not self._suspected_until:
            return
        now = time.monotonic()
        if now > self._suspected_until:
            self._suspected_until = 0.0
        elif now >= self._asked_next:
            self._asked_next = now + WAIT_S
            if self._refused():
                raise KafkaGone(f"kafka: the broker at {self._bootstrap_servers} is gone, it refuses connections")

    def _refused(self) -> bool:
        return all(self._refuses(server) for server in self._bootstrap_servers.split(","))

    @staticmethod
    def _refuses(server: str) -> bool:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=WAIT_S).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # it is slow, not gone; the timeouts of whoever waits decide
        return False


def settings(client: Mapping[str, Any], lifeline: Lifeline, **more: Any) -> dict[str, Any]:
    """What a librdkafka client is made with. `more`, by librdkafka's names with underscores, comes last."""
    return {
        "bootstrap.servers": client["bootstrap_servers"],
        "broker.address.family": "v4",
        "error_cb": lifeline.on_error,
        # A lost connection is told by `Lifeline`, in one line, not by librdkafka in one each time that it tries again.
        "log_level": LOG_CRITICAL,
        **{name.replace("_", "."): value for name, value in more.items()},
    }


class Sending:
    """A producer with acks=all, idempotent, that counts what was delivered.

    Args:
        client: what `System.client` says.
        tuning: settings of the producer.
    """

    def __init__(self, client: Mapping[str, Any], **tuning: Any) -> None:
        self.lifeline = Lifeline(client["bootstrap_servers"])
        promise = {"acks": "all", "enable_idempotence": True, "message_timeout_ms": int(ACK_TIMEOUT_S * 1000)}
        self.producer = Producer(settings(client, self.lifeline, **{**promise, **tuning}))
        self.acked = 0
        self._error: KafkaError | None = None

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        """Counts one record."""
        if error is None:
            self.acked += 1
        elif self._error is None:
            self._error = error

    def produce_waiting(self, topic: str, value: bytes | pa.Buffer, on_delivery: OnDelivery | None = None) -> None:
        """Produces one record, and waits for room as long as the queue is full.

        Args:
            on_delivery: called with (error or None, message) instead of counting it.
        """
        while True:
            try:
                self.producer.produce(topic, value, on_delivery=on_delivery or self.on_delivery)
                return
            except BufferError:
                self.producer.poll(QUEUE_FULL_WAIT_S)
                self.lifeline.check()

    def flush(self) -> None:
        """Waits until everything is acked.

        Raises:
            KafkaException: a record was not written.
            KafkaGone: the broker is gone.
            TimeoutError: it takes too long.
        """
        give_up = time.monotonic() + ACK_TIMEOUT_S
        # In short waits: whether the broker is gone is only known between them.
        while (left := self.producer.flush(WAIT_S)) > 0:
            self.lifeline.check()
            if time.monotonic() > give_up:
                raise TimeoutError(f"kafka: {left} records not acked after {ACK_TIMEOUT_S:g} s")
        if self._error is not None:
            raise KafkaException(self._error)

    def close(self) -> None:
        """Drops what was not acked; there is nothing when all went well."""
        self.producer.purge()
        self.producer.flush(WAIT_S)


class Receiving:
    """A consumer of a whole topic, which it reads from the beginning, as often as it is asked to.

    Args:
        client: what `System.client` says.
        group: it joins this group and takes what it is assigned; None: it assigns itself all partitions.
        tuning: settings of the consumer.
    """

    def __init__(self, client: Mapping[str, Any], topic: str, group: str | None = None, **tuning: Any) -> None:
        self._lifeline = Lifeline(client["bootstrap_servers"])
        base = {
            "group_id": group or NO_GROUP,
            "auto_offset_reset": "earliest",
            # A load rests while other systems are measured, which must not cost it its membership.
            "max_poll_interval_ms": 3_600_000,
        }
        if group is None:
            base["enable_auto_commit"] = False
        self.consumer = Consumer(settings(client, self._lifeline, **{**base, **tuning}))
        self._topic = topic
        self._busy_until = 0.0
        self._partitions: list[int] | None = None
        if group is None:
            self._partitions = self._all_partitions()
        else:
            self._join()

    def settle(self) -> None:
        """Waits for the end of the last fetch, which the broker holds back at the end of the log; librdkafka makes one
        at a time, so the next reading would begin with that wait.
        """
        time.sleep(max(0.0, self._busy_until - time.monotonic()))

    def rewind(self) -> None:
        """Goes to the beginning of its partitions, and fetches from now on.

        By assigning anew, in a group too: `seek` fails in the moment in which an assignment is not yet in effect.
        """
        mine = self._partitions
        if mine is None:
            mine = [one.partition for one in self.consumer.assignment()]
        beginning = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in mine]
        self.consumer.assign(beginning)
        self.consumer.resume(beginning)

    def rest(self) -> None:
        """Nothing more is wanted for now: stops fetching. A member of a group keeps what it is assigned."""
        if self._partitions is not None:
            self.consumer.unassign()
        else:
            self.consumer.pause(self.consumer.assignment())
        self._busy_until = time.monotonic() + FETCH_HELD_S

    def poll(self) -> Message:
        """The next record; raises as `waiting`."""
        message = self.consumer.poll(WAIT_S)
        return message if message is not None else self.waiting(lambda: self.consumer.poll(WAIT_S))

    def consume(self, number: int) -> list[Message]:
        """Some records, `number` at most, for which it waits out its timeout; raises as `waiting`."""
        return self.consumer.consume(number, WAIT_S) or self.waiting(lambda: self.consumer.consume(number, WAIT_S))

    def waiting(self, receive: Callable[[], T | None], seen: int = 0, wanted: float = math.inf) -> T:
        """What `receive` returns, asked again until that is something.

        Args:
            seen: what was received before, and `wanted`, for the message.

        Raises:
            KafkaGone: the broker is gone.
            TimeoutError: nothing came for too long.
        """
        give_up = time.monotonic() + SILENCE_MAX_S
        while not (found := receive()):
            self._lifeline.check()
            if time.monotonic() > give_up:
                told = f"{seen} of {wanted} records, then nothing" if seen else "nothing"
                raise TimeoutError(f"kafka: {told} of {self._topic} for {SILENCE_MAX_S:g} s")
        return found

    def close(self) -> None:
        """Closes the consumer."""
        self.consumer.close()

    def _all_partitions(self) -> list[int]:
        found = self.consumer.list_topics(self._topic, timeout=METADATA_TIMEOUT_S).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return list(found.partitions)

    def _join(self) -> None:
        joined: list[TopicPartition] = []
        self.consumer.subscribe([self._topic], on_assign=lambda _, partitions: joined.extend(partitions))
        self.waiting(lambda: self.consumer.poll(JOIN_WAIT_S) or joined)
        self.rest()


def value_of(message: Message) -> bytes:
    """Its value.

    Raises:
        KafkaException: it is not a record but an error.
    """
    error = message.error()
    if error is not None:
        raise KafkaException(error)
    return message.value() or b""


def values_of(messages: Sequence[Message]) -> list[bytes]:
    """Their values; raises as `value_of`. Two passes, for they cost less than a call a record."""
    for message in messages:
        if message.error() is not None:
            raise KafkaException(message.error())
    return [message.value() or b"" for message in messages]


def ipc_stream(table: pa.Table) -> pa.Buffer:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
