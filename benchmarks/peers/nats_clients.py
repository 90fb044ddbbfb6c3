"""The roles of `harness/system.py`, played against NATS JetStream by nats-py.

A topic's partition is a stream with one subject of the same name. A record is acked when the server has stored it;
one that was got is acked with a message back.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from benchmarks.harness.latency import summary
from benchmarks.harness.payload import SUM_BELOW, random_values, touch_all
from benchmarks.peers.redis_clients import due_together
from rayqueue.perf.latency import STAMP, wake_on_time

T = TypeVar("T")

CONNECT_WAIT_S = 10.0
CALL_WAIT_S = 300.0
CLOSE_WAIT_S = 5.0
SILENCE_MAX_S = 60.0
FETCH_WAIT_S = 1.0
IN_FLIGHT = 500
BATCH = 500
DISTINCT = 1000
BLOCK = 100


def topic_name(number: int, partitions: int) -> str:
    """A topic; its name says how many streams it has, so that a load needs nothing else."""
    return f"bench-{number}-{partitions}"


def streams_of(topic: str) -> list[str]:
    """The streams of a topic."""
    return [f"{topic}-{partition}" for partition in range(int(topic.rpartition("-")[2]))]


class Connection:
    """A connection whose event loop runs in a thread of its own, so that it answers the server between calls too.

    Attributes:
        client: of nats-py; to be used on the loop only, by `run`.
    """

    def __init__(self, client: dict[str, Any], wait_s: float = CONNECT_WAIT_S) -> None:
        """Connects once; it does not connect again when the server has gone."""
        import nats

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        try:
            connecting = nats.connect(client["url"], allow_reconnect=False, connect_timeout=wait_s, error_cb=_no_log)
            self.client = self.run(connecting, wait_s)
        except BaseException:
            self._end_loop()
            raise

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs it on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], wait_s: float = CALL_WAIT_S) -> T:
        """Runs it on the loop, and waits for what it returns.

        Raises:
            TimeoutError: it takes too long; it is cancelled then.
        """
        future = self.begin(work)
        try:
            return future.result(wait_s)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Closes the connection and ends the loop."""
        try:
            self.run(self.client.close(), CLOSE_WAIT_S)
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_WAIT_S)
        self._loop.close()


async def _no_log(error: Exception) -> None:
    """Errors reach who waits for an answer; nats-py would log them besides."""


class _Client:
    """What all roles share: a connection."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._connection = Connection(client)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class RowsIn(_Client):
    """One producer, which does not wait for one ack before the next record.

    Args:
        in_flight: records that wait for their acks, at most.
    """

    def __init__(self, client: dict[str, Any], in_flight: int = IN_FLIGHT) -> None:
        super().__init__(client)
        self._in_flight = in_flight

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        """Produces until time or records are used up.

        Args:
            topic: gets one record more, before the time begins: it connects, and warms the path.

        Returns:
            records acked, and the seconds from the first call to the last ack.
        """
        values = random_values(DISTINCT, value_bytes)
        return self._connection.run(self._produce(streams_of(topic), values, seconds, records_max))

    async def _produce(
        self, subjects: Sequence[str], values: Sequence[bytes], seconds: float, records_max: int
    ) -> dict[str, float]:
        stream = self._connection.client.jetstream(publish_async_max_pending=self._in_flight)
        await stream.publish(subjects[0], values[0])
        publish = stream.publish_async
        endless = zip(itertools.cycle(subjects), itertools.cycle(values), strict=True)
        acks: list[Any] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and len(acks) < records_max:
            for subject, value in itertools.islice(endless, min(BLOCK, records_max - len(acks))):
                acks.append(await publish(subject, value))
        found = await asyncio.gather(*acks)
        took = time.perf_counter() - began
        places = {(ack.stream, ack.seq) for ack in found}
        if len(places) != len(acks):
            raise AssertionError(f"{len(acks)} records were acked at {len(places)} places")
        return {"records": len(acks), "seconds": took}


class RowsOut(_Client):
    """One consumer that pulls and acks.

    Args:
        batch: messages of one pull, at most.
        ack: "each": every message is acked by itself; "last": the last one of a pull, which acks those before it.
    """

    def __init__(self, client: dict[str, Any], topic: str, batch: int = BATCH, ack: str = "each") -> None:
        super().__init__(client)
        self._streams = streams_of(topic)
        self._batch = batch
        self._ack = ack

    def run(self, records: int) -> dict[str, Any]:
        """Reads the topic from its beginning until `records` are there.

        Returns:
            seconds, and the sum of the values (`payload.touch_all`).

        Raises:
            TimeoutError: too few records came.
        """
        return self._connection.run(self._read(records))

    async def _read(self, records: int) -> dict[str, Any]:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        context = self._connection.client.jetstream()
        policy = AckPolicy.ALL if self._ack == "last" else AckPolicy.EXPLICIT
        config = ConsumerConfig(ack_policy=policy, deliver_policy=DeliverPolicy.ALL)
        pulls = [await context.pull_subscribe(name, stream=name, config=config) for name in self._streams]
        reading = _Reading(records)
        began = time.perf_counter()
        tasks = [asyncio.ensure_future(self._pull(one, reading)) for one in pulls]
        # The first one that ends has seen the last record, or failed.
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        took = time.perf_counter() - began
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in ended:
            task.result()
        for stream, pull in zip(self._streams, pulls, strict=True):
            await context.delete_consumer(stream, (await pull.consumer_info()).name)
            await pull.unsubscribe()
        return {"seconds": took, "sum": reading.total % SUM_BELOW}

    async def _pull(self, subscription: Any, reading: _Reading) -> None:
        """Pulls until all are there, from whichever stream."""
        waiting = 1
        while reading.left:
            # Never more than there are: a pull that is not filled lasts until its time is over.
            count = max(1, min(self._batch, waiting, reading.left))
            try:
                messages = await subscription.fetch(count, FETCH_WAIT_S)
            except asyncio.TimeoutError:
                reading.nothing()
                continue
            reading.add([message.data for message in messages[: reading.left]])
            for message in messages if self._ack == "each" else messages[-1:]:
                await message.ack()
            waiting = messages[-1].metadata.num_pending


class _Reading:
    """What a reader has read so far, of all streams.

    Attributes:
        left: records that it still wants.
        total: sum of the values.
    """

    def __init__(self, records: int) -> None:
        self._records = self.left = records
        self.total = 0
        self._heard = time.monotonic()

    def add(self, values: Sequence[bytes]) -> None:
        """These have been read."""
        self.left -= len(values)
        self.total += touch_all(values)
        self._heard = time.monotonic()

    def nothing(self) -> None:
        """There was nothing.

        Raises:
            TimeoutError: for too long.
        """
        if time.monotonic() - self._heard > SILENCE_MAX_S:
            seen = self._records - self.left
            raise TimeoutError(f"{seen} of {self._records} records, then nothing for {SILENCE_MAX_S:g} s")


class Sender(_Client):
    """Sends at a fixed rate, and does not wait for one ack before the next record."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        super().__init__(client)
        self._subject = streams_of(topic)[0]
        self._stream = self._connection.client.jetstream()
        # Connects, and bears no moment.
        self._connection.run(self._stream.publish(self._subject, bytes(STAMP)))

    def run(self, begin_ns: int, count: int, rate: float, value_bytes: int) -> dict[str, float]:
        """Sends `count` records of `value_bytes` (8 or more) each, the first at `begin_ns`, and waits for their acks.

        Returns:
            late_ms: the worst lateness of a send.
        """
        wake_on_time()
        padding = random_values(1, value_bytes - STAMP)[0]
        late = 0
        sending = []
        for due in due_together(begin_ns, count, rate, BATCH):
            late = max(late, time.monotonic_ns() - due[0])
            values = [moment.to_bytes(STAMP, "little") + padding for moment in due]
            sending.append(self._connection.begin(self._publish(values)))
        for part in sending:
            self._connection.run(_acked(part.result(CALL_WAIT_S)))
        return {"late_ms": late / 1e6}

    async def _publish(self, values: Sequence[bytes]) -> list[Any]:
        return [await self._stream.publish_async(self._subject, value) for value in values]


async def _acked(acks: Sequence[Any]) -> None:
    await asyncio.gather(*acks)


class Receiver(_Client):
    """The server pushes messages as they come; the time is taken when nats-py hands one over, and then it is acked."""

    def __init__(self, client: dict[str, Any], topic: str) -> None:
        super().__init__(client)
        self._subject = streams_of(topic)[0]
        self._arrived: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._connection.run(self._subscribe())

    async def _subscribe(self) -> None:
        from nats.js.api import DeliverPolicy

        context = self._connection.client.jetstream()
        await context.subscribe(
            self._subject,
            stream=self._subject,
            cb=self._take,
            manual_ack=True,
            deliver_policy=DeliverPolicy.ALL,
        )

    async def _take(self, message: Any) -> None:
        self._arrived.put((int.from_bytes(message.data[:STAMP], "little"), time.monotonic_ns()))
        await message.ack()

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        """Receives the records that should have been sent at `begin_ns` or later until there are `count`.

        Returns:
            See `latency.summary`.

        Raises:
            TimeoutError: too few records came.
        """
        seen = 0
        latencies = []
        while seen < count:
            try:
                intended, arrived = self._arrived.get(timeout=SILENCE_MAX_S)
            except queue.Empty:
                text = f"{seen} of {count} records, then nothing for {SILENCE_MAX_S:g} s"
                raise TimeoutError(text) from None
            if intended < begin_ns:
                continue  # a sender's first record, or one of a round before
            seen += 1
            if intended >= begin_ns + skip_ns:
                latencies.append(arrived - intended)
        return summary(latencies)
