"""Arrow batches of 100 B records from one producer process, against a bare Flight stream into a file.

rayqueue: acks=all, idempotent, CRC32C computed by the client and checked by the leader, written to the page cache (no
fsync, as Kafka), one partition. Bytes are those of the values. The baseline sends the same column of values.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import Any

import rayqueue
from benchmarks.baselines.flight_sink import BARE, CHECKED, FlightSink, FlightWriter
from benchmarks.harness.bench import GB, Bench
from benchmarks.harness.figures import Outcome, alternate, ratios
from benchmarks.harness.loads import Load
from benchmarks.harness.payload import values_table

VALUE_BYTES = 100
ROWS = (2_500, 10_000)
WAITING_MAX = 64
GOAL_RATIO = 0.7


class BatchProducer:
    """One producer process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._producer = rayqueue.Producer(**settings)

    def run(self, topic: str, rows: int, seconds: float, bytes_max: int) -> dict[str, float]:
        """Produces the same table again and again until the time is over, and waits for every ack.

        Returns:
            records acked, and the seconds from the first call to the last ack.
        """
        table = values_table(rows, VALUE_BYTES)
        self._producer.produce_batch(topic, table).result(30)  # connects, and warms the path
        waiting: deque[Any] = deque()
        sent = acked = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and sent * VALUE_BYTES < bytes_max:
            waiting.append(self._producer.produce_batch(topic, table))
            sent += rows
            if len(waiting) > WAITING_MAX:
                acked += _records(waiting.popleft())
        self._producer.flush()
        took = time.perf_counter() - began
        acked += sum(_records(future) for future in waiting)
        if acked != sent:
            raise AssertionError(f"{sent} records sent, {acked} acked")
        return {"records": acked, "seconds": took}

    def close(self) -> None:
        """Closes the producer."""
        self._producer.close()


def _records(future: Any) -> int:
    return sum(count for _, _, count in future.result(30))


def run(bench: Bench) -> Outcome:
    """Measures each batch size, the sides in turn."""
    scale = bench.scale
    outcome = Outcome("produce_batches", settings={"value_bytes": VALUE_BYTES, "partitions": 1, "acks": "all"})
    with (
        bench.load(FlightSink, "flight-sink", directory=str(bench.directory)) as sink,
        bench.load(FlightWriter, "flight-writer", port=sink.call("port")) as writer,
        bench.load(BatchProducer, "batch-producer", settings=bench.target.client()) as producer,
    ):
        for rows in ROWS:
            bench.say(f"produce_batches: {rows} records of {VALUE_BYTES} B a batch")
            sides = {
                BARE: partial(_flight, bench, sink, writer, BARE, rows),
                CHECKED: partial(_flight, bench, sink, writer, CHECKED, rows),
                "rayqueue": partial(_rayqueue, bench, producer, rows),
            }
            results = alternate(sides, scale.repeats, scale.warm_up)
            _figures(outcome, rows, results)
        pids = bench.target.processes()["actors"]
        outcome.settings["actors"] = len(pids)
    return outcome


def _flight(bench: Bench, sink: Load, writer: Load, grade: str, rows: int) -> dict[str, float]:
    scale = bench.scale
    meter = bench.meter(sink, writer)
    result = writer.call(
        "run", grade=grade, rows=rows, value_bytes=VALUE_BYTES, seconds=scale.seconds, bytes_max=scale.bytes_max
    )
    return _rate(result, meter.used(), ("clients",))


def _rayqueue(bench: Bench, producer: Load, rows: int) -> dict[str, float]:
    with bench.topic() as topic:
        meter = bench.meter(producer)
        result = producer.call(
            "run", topic=topic, rows=rows, seconds=bench.scale.seconds, bytes_max=bench.scale.bytes_max
        )
        return _rate(result, meter.used(), ("clients", "actors", "ray"))


def _rate(result: dict[str, float], cpu: dict[str, float], groups: tuple[str, ...]) -> dict[str, float]:
    size = result["records"] * VALUE_BYTES
    used = {f"cpu_{name}": cpu[name] / (size / GB) for name in groups}
    return {"rate": size / result["seconds"] / 1e6, "cpu": sum(used.values()), **used}


def _figures(outcome: Outcome, rows: int, results: dict[str, list[dict[str, float]]]) -> None:
    size = f"{rows * VALUE_BYTES // 1000} KB batches"
    rate = {name: [one["rate"] for one in rounds] for name, rounds in results.items()}
    outcome.add(f"bare Flight stream into a file, {size}", "MB/s", rate[BARE])
    outcome.add(f"the same, CRC32C and an ack a batch, {size}", "MB/s", rate[CHECKED])
    outcome.add(f"rayqueue, {size}", "MB/s", rate["rayqueue"])
    outcome.add(f"rayqueue / bare, {size}", "ratio", ratios(rate["rayqueue"], rate[BARE]), goal=GOAL_RATIO)
    outcome.add(f"rayqueue / checked, {size}", "ratio", ratios(rate["rayqueue"], rate[CHECKED]))
    for side in (BARE, CHECKED, "rayqueue"):
        samples = [one["cpu"] for one in results[side]]
        outcome.add(f"CPU of all processes, {side}, {size}", "s/GB", samples, higher_is_better=False)
    for group in ("clients", "actors"):
        samples = [one[f"cpu_{group}"] for one in results["rayqueue"]]
        outcome.add(f"of it rayqueue's {group}, {size}", "s/GB", samples, higher_is_better=False)
