"""A client of the workload, in a process of its own without Ray: `python -m tests.chaos.workload producer|consumer`.

It writes its history until its standard input ends; then a producer flushes, and a consumer reads up to the end as of
then. The parent's death ends it too.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

import rayqueue
from rayqueue.errors import RayQueueError
from tests.chaos.history import Recorder

OUTSTANDING_MAX = 400
DELIVERY_TIMEOUT_MS = 60_000
FLUSH_TIMEOUT_S = 90.0
POLL_S = 0.3
# A consumer goes back to a place it has been at before, this often on average, by so many records at most.
REWIND_S = 4.0
REWIND = 1_000
TABLE_ROWS_MAX = 8
# Values end with filler of different lengths, so that segments roll and batches differ; one in OVERSIZED is too large.
FILLER_MAX = 400
OVERSIZED = 100
MESSAGE_BYTES_MAX = 4096
AFTER_ERROR_S = 0.5


class Producer:
    """Sends unique values at a pace; several are on their way at once."""

    def __init__(self, args: argparse.Namespace, history: Recorder) -> None:
        self._topic, self._name, self._partitions = args.topic, args.name, args.partitions
        self._rate, self._tables = args.rate, args.tables
        self._history, self._random = history, random.Random(args.seed)
        self._producer = rayqueue.Producer(
            bootstrap_servers=args.servers, acks=args.acks, delivery_timeout_ms=DELIVERY_TIMEOUT_MS, linger_ms=2
        )
        self._room = threading.BoundedSemaphore(OUTSTANDING_MAX)
        self._number = 0

    def run(self, stop: threading.Event) -> int:
        """Until `stop`; then waits for what is on its way. Exit status."""
        with self._producer:
            started, sent = time.monotonic(), 0
            while not stop.is_set():
                sent += self._send_table(stop) if self._tables else self._send_row(stop)
                # Not made up for after a pause: a fault would be followed by a burst, and load is not what is tested.
                started = max(started, time.monotonic() - (sent + self._rate) / self._rate)
                stop.wait(max(0.0, started + sent / self._rate - time.monotonic()))
            return 1 if self._producer.flush(FLUSH_TIMEOUT_S) else 0

    def _value(self, partition: int | None) -> tuple[str, bytes]:
        """A new value, recorded as sent; and the bytes that carry it."""
        self._number += 1
        value = f"{self._name}-{self._number}"
        oversized = self._number % OVERSIZED == 0
        self._history.add("send", value=value, partition=partition)
        return value, f"{value} ".encode() + b"." * (
            2 * MESSAGE_BYTES_MAX if oversized else self._random.randrange(FILLER_MAX)
        )

    def _take_room(self, stop: threading.Event) -> bool:
        while not self._room.acquire(timeout=POLL_S):
            if stop.is_set():
                return False
        return True

    def _send_row(self, stop: threading.Event) -> int:
        if not self._take_room(stop):
            return 0
        partition = self._random.choice([None, *range(self._partitions)])
        value, data = self._value(partition)

        def done(error: RayQueueError | None, where: Any) -> None:
            self._room.release()
            if error is None:
                self._history.add("ack", value=value, partition=where.partition, offset=where.offset)
            else:
                self._history.add("unknown", value=value, error=named(error))

        try:
            self._producer.produce(self._topic, data, partition=partition, on_delivery=done)
        except RayQueueError as error:
            self._refused([value], error)
        return 1

    def _send_table(self, stop: threading.Event) -> int:
        if not self._take_room(stop):
            return 0
        pairs = [self._value(None) for _ in range(self._random.randint(1, TABLE_ROWS_MAX))]
        values = [value for value, _ in pairs]

        def done(future: Any) -> None:
            self._room.release()
            error = future.exception()
            if error is not None:
                for value in values:
                    self._history.add("unknown", value=value, error=named(error))
                return
            places = [(p, base + i) for p, base, count in future.result() for i in range(count)]
            for value, (partition, offset) in zip(values, places, strict=True):
                self._history.add("ack", value=value, partition=partition, offset=offset)

        try:
            table = pa.table({"value": pa.array([data for _, data in pairs], pa.binary())})
            self._producer.produce_batch(self._topic, table).add_done_callback(done)
        except RayQueueError as error:
            self._refused(values, error)
        return len(values)

    def _refused(self, values: list[str], error: RayQueueError) -> None:
        """`produce` raised: it sent nothing, so these have definitely failed."""
        self._room.release()
        for value in values:
            self._history.add("fail", value=value, error=named(error))


class Consumer:
    """Reads all partitions by offset, from the beginning; messages over streams, or tables from mapped files."""

    def __init__(self, args: argparse.Namespace, history: Recorder) -> None:
        self._topic, self._history, self._random = args.topic, history, random.Random(args.seed)
        self._mapped, self._final = args.mapped, args.final
        self._timeout_s = args.end_timeout
        self._position = dict.fromkeys(range(args.partitions), 0)
        self._consumer = rayqueue.Consumer(
            bootstrap_servers=args.servers, auto_offset_reset="none", mapped_reads=args.mapped
        )

    def run(self, stop: threading.Event) -> int:
        """Until `stop`, and then to the end as of then. Exit status."""
        with self._consumer:
            self._assign(self._position)
            rewind = self._rewind_at()
            while not stop.is_set() and not self._final:
                self._guarded(self._poll)
                if time.monotonic() > rewind:
                    rewind = self._rewind_at()
                    self._assign({p: max(0, at - self._random.randint(0, REWIND)) for p, at in self._position.items()})
            return 0 if self._to_the_end() else 1

    def _rewind_at(self) -> float:
        return time.monotonic() + self._random.expovariate(1 / REWIND_S)

    def _assign(self, offsets: dict[int, int]) -> None:
        wanted = [rayqueue.TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._consumer.assign(wanted)
                break
            except RayQueueError as error:
                # A new process asks a broker, within request.timeout.ms: with all of them away for longer that is an
                # error.
                if not error.retriable or time.monotonic() > deadline:
                    raise
        self._position = dict(offsets)
        self._history.add("assign", offsets={str(partition): offset for partition, offset in offsets.items()})

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """What a step gives. An error is recorded, and reading goes on where it stood."""
        try:
            return step()
        except RayQueueError as error:
            self._history.add("error", error=named(error))
            threading.Event().wait(AFTER_ERROR_S)
            self._assign(self._position)
            return None

    def _poll(self) -> None:
        if self._mapped:
            table = self._consumer.consume_arrow(timeout=POLL_S, columns=["partition", "offset", "value"])
            rows = zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True)
            records = [(partition, offset, value_of(data)) for partition, offset, data in rows]
        else:
            messages = self._consumer.consume(500, timeout=POLL_S)
            records = [(m.partition, m.offset, value_of(m.value)) for m in messages]
        if records:
            self._history.add("read", records=records)
            for partition, offset, _ in records:
                self._position[partition] = offset + 1

    def _to_the_end(self) -> bool:
        deadline = time.monotonic() + self._timeout_s
        ends: dict[int, int] | None = None
        while time.monotonic() < deadline:
            if ends is None:
                ends = self._ends()
            elif all(self._position[partition] >= end for partition, end in ends.items()):
                self._history.add("done")
                return True
            self._guarded(self._poll)
        self._history.add("error", error=f"stands at {self._position} after {self._timeout_s:g} s, ends are {ends}")
        return False

    def _ends(self) -> dict[int, int] | None:
        """The ends of all partitions as of now; None while one cannot be had."""
        try:
            return {
                partition: self._consumer.get_watermark_offsets(rayqueue.TopicPartition(self._topic, partition)).high
                for partition in self._position
            }
        except RayQueueError as error:
            print(f"ends are not known yet: {named(error)}", file=sys.stderr, flush=True)
            return None


def value_of(data: bytes) -> str:
    """The value that some bytes carry."""
    return data.partition(b" ")[0].decode()


def named(error: BaseException) -> str:
    """An error in words."""
    return f"{type(error).__name__}: {error}"


def told_to_end() -> threading.Event:
    """Set when standard input ends."""
    stop = threading.Event()

    def listen() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock, held by this thread, would abort a process that ends
            pass
        stop.set()

    threading.Thread(target=listen, name="told-to-end", daemon=True).start()
    return stop


def arguments() -> argparse.ArgumentParser:
    """What `clients.py` passes."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.workload", description=__doc__)
    parser.add_argument("role", choices=["producer", "consumer"])
    parser.add_argument("--name", required=True, help="the client's, in its history")
    parser.add_argument("--history", required=True, type=Path, help="the file it is written to")
    parser.add_argument("--servers", required=True, help="bootstrap servers")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", required=True, type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=80.0, help="values a second, of a producer")
    parser.add_argument("--acks", default="all", help="of a producer")
    parser.add_argument("--tables", action="store_true", help="a producer sends tables, not records")
    parser.add_argument("--mapped", action="store_true", help="a consumer reads tables from mapped segments")
    parser.add_argument("--final", action="store_true", help="a consumer reads to the end at once, and ends")
    parser.add_argument(
        "--end-timeout", type=float, default=90.0, help="s a consumer may take to the end, or to a broker that answers"
    )
    return parser


def main() -> int:
    """Exit status: 1 when something did not come to an end in time."""
    args = arguments().parse_args()
    history = Recorder(args.history, args.name)
    client = Producer(args, history) if args.role == "producer" else Consumer(args, history)
    return client.run(told_to_end())


if __name__ == "__main__":
    sys.exit(main())
