"""How fast one consumer process reads what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from rayqueue.cli.perf_report import Meter, Report, Summary

if TYPE_CHECKING:
    from rayqueue.consumer import Consumer

BATCH_RECORDS = 100_000
COUNT_EVERY = 1000


def consume_arrow(consumer: Consumer, report: Report, records: int | None = None) -> Summary:
    """Reads tables up to the end of every partition as of now, or `records`.

    Args:
        consumer: subscribed or assigned.
        report: told once a second.
    """
    meter = Meter("read", report)
    for table in consumer.iter_batches(max_records=BATCH_RECORDS, stop_at="latest"):
        meter.count(table.num_rows, _value_bytes(table))
        if records is not None and meter.records >= records:
            break
    return meter.summary("consume, Arrow tables")


def consume_rows(consumer: Consumer, report: Report, records: int | None = None) -> Summary:
    """The same, a Message a record.

    Args:
        consumer: made with stop_at="latest".
    """
    meter = Meter("read", report)
    count = size = 0
    for message in consumer:
        count += 1
        size += len(message.value) if isinstance(message.value, bytes) else 0
        if count == COUNT_EVERY:
            meter.count(count, size)
            count = size = 0
        if records is not None and meter.records + count >= records:
            break
    meter.count(count, size)
    return meter.summary("consume, rows")


def _value_bytes(table: pa.Table) -> int:
    """Bytes of the values; of a typed topic, of all its columns."""
    return int(table["value"].nbytes) if "value" in table.column_names else int(table.nbytes)
