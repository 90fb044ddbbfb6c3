"""Arrow out of a log of 100 B records: mapped on the same host, and over the stream; every byte is touched.

CRC32C is checked on both (check.crcs), which touches the bytes a first time; the reader then sums them.
"""

from __future__ import annotations

import time
from typing import Any

import rayqueue
from benchmarks.harness.bench import GB, Bench
from benchmarks.harness.figures import Outcome, alternate
from benchmarks.harness.loads import Load
from benchmarks.harness.payload import touch, values_table

VALUE_BYTES = 100
BATCH_ROWS = 10_000
GOAL_GB_S = 2.0
TIMEOUT_S = 60.0


class ArrowReader:
    """One consumer process."""

    def __init__(self, settings: dict[str, Any], topic: str, mapped: bool) -> None:
        self._consumer = rayqueue.Consumer(topic, auto_offset_reset="earliest", mapped_reads=mapped, **settings)

    def run(self, records: int) -> dict[str, float]:
        """Reads the topic from its beginning until `records` are there, and sums every byte of their values.

        Returns:
            seconds, and the sum (equal for equal data).
        """
        seen = total = 0
        began = time.perf_counter()
        self._consumer.seek_to_beginning()
        while seen < records:
            if time.perf_counter() - began > TIMEOUT_S:
                raise TimeoutError(f"{seen} of {records} records after {TIMEOUT_S} s")
            table = self._consumer.consume_arrow(timeout=1.0)
            if table.num_rows:
                seen += table.num_rows
                total += touch(table["value"])
        return {"seconds": time.perf_counter() - began, "sum": total % (1 << 53)}

    def rows(self, records: int) -> dict[str, float]:
        """Reads record by record with `consume(500)`, as a Kafka user would; sums the lengths of the values."""
        seen = total = 0
        began = time.perf_counter()
        self._consumer.seek_to_beginning()
        while seen < records:
            messages = self._consumer.consume(500, timeout=1.0)
            seen += len(messages)
            total += sum(len(message.value) for message in messages)
        return {"seconds": time.perf_counter() - began, "sum": total}

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()


def run(bench: Bench) -> Outcome:
    """Fills a topic once, then reads it again and again, mapped and streamed in turn."""
    scale = bench.scale
    records = scale.bytes_max // VALUE_BYTES // BATCH_ROWS * BATCH_ROWS
    some = min(records, scale.rows_max // 4)
    outcome = Outcome("consume", settings={"records": records, "value_bytes": VALUE_BYTES, "partitions": 1})
    with bench.topic() as topic:
        _fill(bench, topic, records)
        settings = bench.target.client()
        with (
            bench.load(ArrowReader, "mapped-reader", settings=settings, topic=topic, mapped=True) as mapped,
            bench.load(ArrowReader, "stream-reader", settings=settings, topic=topic, mapped=False) as streamed,
        ):
            bench.say(f"consume: {records:,} records of {VALUE_BYTES} B")
            sides = {
                "mapped": lambda: _read(bench, mapped, "run", records),
                "streamed": lambda: _read(bench, streamed, "run", records),
                "rows": lambda: _read(bench, mapped, "rows", some),
            }
            results = alternate(sides, scale.repeats, scale.warm_up)
    sums = {one["sum"] for name in ("mapped", "streamed") for one in results[name]}
    if len(sums) != 1:
        raise AssertionError(f"readers saw different data: sums {sums}")
    rate = {name: [one["rate"] for one in rounds] for name, rounds in results.items()}
    outcome.add("Arrow, mapped", "GB/s", [r * VALUE_BYTES / GB for r in rate["mapped"]], goal=GOAL_GB_S)
    outcome.add("Arrow, over the stream", "GB/s", [r * VALUE_BYTES / GB for r in rate["streamed"]])
    outcome.add("rows, consume(500), mapped", "records/s", rate["rows"])
    for name in ("mapped", "streamed"):
        cpu = [one["cpu"] for one in results[name]]
        outcome.add(f"CPU of all processes, {name}", "s/GB", cpu, higher_is_better=False)
    return outcome


def _fill(bench: Bench, topic: str, records: int) -> None:
    table = values_table(BATCH_ROWS, VALUE_BYTES)
    with rayqueue.Producer(**bench.target.client()) as producer:
        futures = [producer.produce_batch(topic, table) for _ in range(records // BATCH_ROWS)]
        for future in futures:
            future.result(60)


def _read(bench: Bench, reader: Load, method: str, records: int) -> dict[str, float]:
    meter = bench.meter(reader)
    result = reader.call(method, records=records)
    used = sum(meter.used().values())
    rate = records / result["seconds"]
    return {"rate": rate, "cpu": used / (records * VALUE_BYTES / GB), "sum": result["sum"]}
