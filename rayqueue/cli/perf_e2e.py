"""How long a record takes from `produce` in one process to `poll` in another, at a fixed rate.

Open loop: a record's clock starts when it should have been sent, so a stall counts for every record it delays.
"""

from __future__ import annotations

import multiprocessing
import struct
import time
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING, Any

from rayqueue.cli.perf_report import Latencies, Meter, Report, Summary
from rayqueue.errors import RayQueueError

if TYPE_CHECKING:
    from rayqueue.producer import Producer

# Both processes read the same monotonic clock.
_STAMP = struct.Struct("<q")
SMALLEST = _STAMP.size
READY_TIMEOUT_S = 60.0
# Records on their way when the last one is sent.
DRAIN_TIMEOUT_S = 30.0


def end_to_end(
    producer: Producer, settings: dict[str, Any], topic: str, rate: float, seconds: float, size: int, report: Report
) -> Summary:
    """Sends at a rate and times every record.

    Args:
        producer: with the linger to measure.
        settings: for the consumer's process (address, token).
        topic: an untyped topic.
        rate: records a second.
        seconds: how long.
        size: bytes of each value, at least 8.
        report: told once a second.

    Raises:
        RayQueueError: the reader could not start, or did not get all records.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    records = max(1, int(rate * seconds))
    reader = spawn.Process(target=_read, args=(theirs, settings, topic, records), daemon=True)
    reader.start()
    theirs.close()
    try:
        _expect(ours, "ready", READY_TIMEOUT_S)
        meter = Meter("sent", report)
        _send(producer, topic, records, rate, size, meter)
        latencies = _expect(ours, "latencies", DRAIN_TIMEOUT_S)
        return Summary(
            f"end to end, {rate:g} records/s of {size} bytes",
            meter.records,
            meter.bytes,
            time.perf_counter() - meter.started,
            latencies,
        )
    finally:
        ours.close()
        reader.join(timeout=5)
        if reader.is_alive():
            reader.terminate()
            reader.join()


def _send(producer: Producer, topic: str, records: int, rate: float, size: int, meter: Meter) -> None:
    padding = bytes(size - SMALLEST)
    begin = time.monotonic_ns()
    step = 1e9 / rate
    for number in range(records):
        due = begin + int(number * step)
        wait = (due - time.monotonic_ns()) / 1e9
        if wait > 0:
            time.sleep(wait)
        producer.produce(topic, _STAMP.pack(due) + padding)
        meter.count(1, size)
    producer.flush()


def _expect(pipe: Pipe, kind: str, timeout_s: float) -> Any:
    """What the reader says next.

    Raises:
        RayQueueError: it failed, ended, or says nothing in time.
    """
    try:
        if not pipe.poll(timeout_s):
            raise RayQueueError(f"the reading process said nothing for {timeout_s:g} s: look at `rayqueue status`")
        said, value = pipe.recv()
    except EOFError:
        raise RayQueueError("the reading process ended early: RAYQUEUE_LOG=debug shows why") from None
    if said != kind:
        raise RayQueueError(f"the reading process failed: {value}")
    return value


def _read(pipe: Pipe, settings: dict[str, Any], topic: str, records: int) -> None:
    """The reading process: from the present end, `records` records."""
    from rayqueue.consumer import Consumer

    latencies = Latencies()
    try:
        with Consumer(topic, **settings, auto_offset_reset="latest") as consumer:
            consumer.poll(timeout=0.2)  # the stream is open before the first record is sent
            pipe.send(("ready", None))
            while records > 0:
                message = consumer.poll(timeout=DRAIN_TIMEOUT_S)
                if message is None:
                    raise RayQueueError(f"{records:,} records did not arrive within {DRAIN_TIMEOUT_S:g} s")
                latencies.add((time.monotonic_ns() - _STAMP.unpack_from(message.value)[0]) // 1000)
                records -= 1
        pipe.send(("latencies", latencies.percentiles()))
    except KeyboardInterrupt:
        return
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
