"""How long a record takes from `produce` in one process to `poll` in another, at a fixed rate.

Open loop: a record's clock starts when it should have been sent, so a stall counts for every record it delays.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

from rayqueue.cli.perf_report import Latencies, Meter, Report, Summary
from rayqueue.errors import RayQueueError
from rayqueue.perf.latency import STAMP, Receiver, Sender

SMALLEST = STAMP
# From when the reader is told to the first record.
LEAD_NS = 20_000_000
READY_TIMEOUT_S = 60.0
# Records on their way when the last one is sent.
DRAIN_TIMEOUT_S = 30.0


def end_to_end(
    sender: Sender, settings: dict[str, Any], topic: str, rate: float, seconds: float, size: int, report: Report
) -> Summary:
    """Sends at a rate and times every record.

    Args:
        sender: with the linger to measure.
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
        begin_ns = time.monotonic_ns() + LEAD_NS
        ours.send(begin_ns)
        with Meter("sent", report, records) as meter:
            sender.run(begin_ns, records, rate, size, meter.count)
        latencies = _expect(ours, "latencies", DRAIN_TIMEOUT_S)
        took = (time.monotonic_ns() - begin_ns) / 1e9
        return Summary(f"end to end, {rate:g} records/s of {size} bytes", meter.records, meter.bytes, took, latencies)
    finally:
        ours.close()
        reader.join(timeout=5)
        if reader.is_alive():
            reader.terminate()
            reader.join()


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
    latencies = Latencies()
    try:
        with Receiver(settings, topic, auto_offset_reset="latest") as receiver:
            receiver.warm()  # the stream is open before the first record is sent
            pipe.send(("ready", None))
            for latency in receiver.latencies(pipe.recv(), records):
                latencies.add(latency // 1000)
        pipe.send(("latencies", latencies.percentiles()))
    except KeyboardInterrupt:
        return
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
