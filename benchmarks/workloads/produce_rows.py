"""Single records through `produce()`, each with its future: 100 B and 1 KB values, no key, one producer process."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import rayqueue
from benchmarks.harness.bench import GB, Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load
from benchmarks.harness.payload import random_values

VALUE_BYTES = (100, 1000)
DISTINCT = 1000
GOAL = {100: 600_000.0}
LINGER_MS = 5


class RowProducer:
    """One producer process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._producer = rayqueue.Producer(linger_ms=LINGER_MS, **settings)

    def run(self, topic: str, value_bytes: int, seconds: float, rows_max: int) -> dict[str, float]:
        """Produces record by record until time or records are used up, keeps every future, waits for every ack.

        Returns:
            records acked, and the seconds from the first call to the last ack.
        """
        values = random_values(DISTINCT, value_bytes)
        produce = self._producer.produce
        produce(topic, values[0]).result(30)  # connects, and warms the path
        futures: list[Any] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds and len(futures) < rows_max:
            futures += [produce(topic, value) for value in values]
        self._producer.flush()
        took = time.perf_counter() - began
        offsets = {(result.partition, result.offset) for result in (future.result(30) for future in futures)}
        if len(offsets) != len(futures):
            raise AssertionError(f"{len(futures)} records were acked at {len(offsets)} places")
        return {"records": len(futures), "seconds": took}

    def close(self) -> None:
        """Closes the producer."""
        self._producer.close()


def run(bench: Bench) -> Outcome:
    """Measures each value size."""
    outcome = Outcome("produce_rows", settings={"linger_ms": LINGER_MS, "partitions": 1, "acks": "all"})
    with bench.load(RowProducer, "row-producer", settings=bench.target.client()) as producer:
        sides = {str(size): partial(_run, bench, producer, size) for size in VALUE_BYTES}
        bench.say("produce_rows: produce() a record, with its future")
        results = alternate(sides, bench.scale.repeats, bench.scale.warm_up)
    for size in VALUE_BYTES:
        rounds = results[str(size)]
        outcome.add(f"produce(), {size} B values", "records/s", [one["rate"] for one in rounds], goal=GOAL.get(size))
        outcome.add(f"of values, {size} B", "MB/s", [one["rate"] * size / 1e6 for one in rounds])
        cpu = [one["cpu"] for one in rounds]
        outcome.add(f"CPU of all processes, {size} B", "s/GB", cpu, higher_is_better=False)
    outcome.notes.append("confluent-kafka is measured only against a running Kafka, which this version does not start.")
    return outcome


def _run(bench: Bench, producer: Load, size: int) -> dict[str, float]:
    with bench.topic() as topic:
        meter = bench.meter(producer)
        result = producer.call(
            "run", topic=topic, value_bytes=size, seconds=bench.scale.seconds, rows_max=bench.scale.rows_max
        )
        used = sum(meter.used().values())
    return {"rate": result["records"] / result["seconds"], "cpu": used / (result["records"] * size / GB)}
