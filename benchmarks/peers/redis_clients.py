"""The roles of `harness/system.py`, played against Redis Streams by redis-py.

A topic's partition is a stream. A record is acked when XADD has answered; one that was got is acked with XACK.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.harness.latency import summary
from benchmarks.harness.payload import SUM_BELOW, random_values, touch_all
from rayqueue.perf.latency import NS_PER_S, STAMP, wake_on_time

ANSWER_WAIT_S = 60.0
SILENCE_MAX_S = 60.0
FIELD = b"v"
BATCH = 1000
BLOCK_MS = 1000
DISTINCT = 1000
ITEM_BYTES = 100
CONSUMER = "c"


def connect(client: Mapping[str, Any], wait_s: float = ANSWER_WAIT_S) -> Any:
    """A connection that waits so long for an answer, and asks once: what is added twice would count twice.

    Protocol 2, because all versions of redis-py give its answers in one shape.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    return redis.Redis(client["host"], client["port"], protocol=2, socket_timeout=wait_s, retry=once)


def topic_name(number: int, partitions: int) -> str:
    """A topic; its name says how many streams it has, so that a load needs nothing else."""
    return f"bench-{number}-{partitions}"


def streams_of(topic: str) -> list[str]:
    """The streams of a topic."""
    return [f"{topic}/{partition}" for partition in range(int(topic.rpartition("-")[2]))]


def groups_key(topic: str) -> str:
    """What counts the groups of a topic."""
    return f"{topic}/groups"


def add(connection: Any, stream: str, values: Iterable[bytes]) -> int:
    """Adds values to a stream in one pipeline, and waits for their acks; how many. An error of any is raised."""
    pipeline = connection.pipeline(transaction=False)
    for value in values:
        pipeline.xadd(stream, {FIELD: value})
    ids = pipeline.execute()
    if len(set(ids)) != len(ids):
        raise AssertionError(f"{len(ids)} records were acked at {len(set(ids))} places")
    return len(ids)


class Group:
    """A consumer group of its own with one consumer, which begins at the beginning of all streams of a topic.

    Args:
        ack: whether what was got is acked (XACK); else the server does not remember what it gave out (NOACK).
    """

    def __init__(self, connection: Any, topic: str, ack: bool) -> None:
        self._redis = connection
        self._streams = streams_of(topic)
        self._name = f"group-{connection.incr(groups_key(topic))}"
        self._ack = ack
        for stream in self._streams:
            connection.xgroup_create(stream, self._name, id="0", mkstream=True)

    def read(self, count: int) -> list[bytes]:
        """The next values, at most `count` of each stream; none when nothing came for `BLOCK_MS`."""
        streams = dict.fromkeys(self._streams, ">")
        answer = self._redis.xreadgroup(self._name, CONSUMER, streams, count, BLOCK_MS, not self._ack)
        values: list[bytes] = []
        for stream, entries in answer:
            values += [fields[FIELD] for _, fields in entries]
            if self._ack:
                self._redis.xack(stream, self._name, *[entry for entry, _ in entries])
        return values

    def wait(self, count: int, seen: int, wanted: int) -> list[bytes]:
        """The next values; some.

        Raises:
            TimeoutError: nothing came for too long; `seen` of `wanted` had.
        """
        give_up = time.monotonic() + SILENCE_MAX_S
        while not (values := self.read(count)):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{seen} of {wanted} records, then nothing for {SILENCE_MAX_S:g} s")
        return values

    def close(self) -> None:
        """Removes the group."""
        for stream in self._streams:
            self._redis.xgroup_destroy(stream, self._name)


class _Client:
    """What all roles share: a connection."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._redis = connect(client)

    def close(self) -> None:
        """Closes the connection; groups go with their topic."""
        self._redis.close()


class RowsIn(_Client):
    """One producer: records in pipelines, the next one when the last one has been acked.

    Args:
        batch: records of a pipeline.
    """

    def __init__(self, client: dict[str, Any], batch: int = BATCH) -> None:
        super().__init__(client)
        self._batch = batch

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        """Produces until time or records are used up.

        Args:
            topic: gets one record more, before the time begins: it connects, and warms the path.

        Returns:
            records acked, and the seconds from the first call to the last ack.
        """
        values = itertools.cycle(random_values(DISTINCT, value_bytes))
        streams = itertools.cycle(streams_of(topic))
        add(self._redis, streams_of(topic)[0], [next(values)])
        sent = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent < records_max:
            sent += add(self._redis, next(streams), itertools.islice(values, min(self._batch, records_max - sent)))
        return {"records": sent, "seconds": time.perf_counter() - began}


class RowsOut(_Client):
    """One consumer.

    Args:
        count: entries of one read, at most.
        ack: whether they are acked.
    """

    def __init__(self, client: dict[str, Any], topic: str, count: int = BATCH, ack: bool = True) -> None:
        super().__init__(client)
        self._topic = topic
        self._count = count
        self._ack = ack

    def run(self, records: int) -> dict[str, Any]:
        """Reads the topic from its beginning until `records` are there.

        Returns:
            seconds, and the sum of the values (`payload.touch_all`).

        Raises:
            TimeoutError: too few records came.
        """
        seen = total = 0
        with contextlib.closing(Group(self._redis, self._topic, self._ack)) as group:
            began = time.perf_counter()
            while seen < records:
                values = group.wait(self._count, seen, records)[: records - seen]
                seen += len(values)
                total += touch_all(values)
            took = time.perf_counter() - began
        return {"seconds": took, "sum": total % SUM_BELOW}


class Sender(_Client):
    """Sends at a fixed rate: all that is due goes at once, in one pipeline of at most `batch`."""

    def __init__(self, client: dict[str, Any], topic: str, batch: int = BATCH) -> None:
        super().__init__(client)
        self._stream = streams_of(topic)[0]
        self._batch = batch
        add(self._redis, self._stream, [bytes(STAMP)])  # connects, and bears no moment

    def run(self, begin_ns: int, count: int, rate: float, value_bytes: int) -> dict[str, float]:
        """Sends `count` records of `value_bytes` (8 or more) each, the first at `begin_ns`, and waits for their acks.

        Returns:
            late_ms: the worst lateness of a send.
        """
        wake_on_time()
        padding = random_values(1, value_bytes - STAMP)[0]
        late = 0
        for due in due_together(begin_ns, count, rate, self._batch):
            late = max(late, time.monotonic_ns() - due[0])
            add(self._redis, self._stream, [moment.to_bytes(STAMP, "little") + padding for moment in due])
        return {"late_ms": late / 1e6}


def due_together(begin_ns: int, count: int, rate: float, batch: int) -> Iterator[list[int]]:
    """Waits for the moments of an open loop, and gives those that have come, at most `batch` at a time."""
    moments = [begin_ns + int(number * NS_PER_S / rate) for number in range(count)]
    first = 0
    while first < count:
        wait = moments[first] - time.monotonic_ns()
        if wait > 0:
            time.sleep(wait / NS_PER_S)
        now = time.monotonic_ns()
        end = first + 1
        while end < count and end - first < batch and moments[end] <= now:
            end += 1
        yield moments[first:end]
        first = end


class Receiver(_Client):
    """Waits for entries, and takes the time when a read has returned them."""

    def __init__(self, client: dict[str, Any], topic: str, count: int = BATCH, ack: bool = True) -> None:
        super().__init__(client)
        self._group = Group(self._redis, topic, ack)
        self._count = count

    def run(self, begin_ns: int, count: int, skip_ns: int) -> dict[str, Any]:
        """Receives the records that should have been sent at `begin_ns` or later until there are `count`.

        Returns:
            See `latency.summary`.

        Raises:
            TimeoutError: too few records came.
        """
        wake_on_time()
        seen = 0
        latencies = []
        while seen < count:
            values = self._group.wait(self._count, seen, count)
            now = time.monotonic_ns()
            moments = [int.from_bytes(value[:STAMP], "little") for value in values]
            # Not a sender's first record, nor one of a round before.
            moments = [moment for moment in moments if moment >= begin_ns]
            seen += len(moments)
            latencies += [now - moment for moment in moments if moment >= begin_ns + skip_ns]
        return summary(latencies)


class OneByOne(_Client):
    """Items put into a stream and got out of it one by one.

    Args:
        ack: whether each is acked when it has been got, so that a crash loses none.
    """

    def __init__(self, client: dict[str, Any], topic: str, ack: bool = True) -> None:
        super().__init__(client)
        self._stream = streams_of(topic)[0]
        self._values = random_values(DISTINCT, ITEM_BYTES)
        self._group = Group(self._redis, topic, ack)

    def awaited(self, count: int) -> dict[str, float]:
        """Puts an item, waits until it is acked, gets it; then the next one.

        Returns:
            seconds it took.
        """
        began = time.perf_counter()
        for number in range(count):
            value = self._values[number % DISTINCT]
            self._redis.xadd(self._stream, {FIELD: value})
            if self._group.wait(1, number, count) != [value]:
                raise AssertionError("the next item is not the one that was put")
        return {"seconds": time.perf_counter() - began}

    def pipelined(self, count: int) -> dict[str, float]:
        """Puts all items, in pipelines, waits until all are acked, then gets all, many in a read.

        Returns:
            seconds it took.
        """
        seen = 0
        values = itertools.cycle(self._values)
        expected = itertools.cycle(self._values)
        began = time.perf_counter()
        while seen < count:
            seen += add(self._redis, self._stream, itertools.islice(values, min(BATCH, count - seen)))
        seen = 0
        while seen < count:
            for value in self._group.wait(BATCH, seen, count):
                if value != next(expected):
                    raise AssertionError("the next item is not the one that was put")
                seen += 1
        return {"seconds": time.perf_counter() - began}
