"""How fast one consumer process reads what is there."""

from __future__ import annotations

from typing import Any

from rayqueue.cli.perf_report import Meter, Report, Summary
from rayqueue.perf.consume import ArrowOut, RowsOut


def consume_arrow(load: ArrowOut, report: Report, records: int | None = None) -> Summary:
    """Reads tables up to the end of every partition as of now, or `records`.

    Args:
        load: its consumer was made with stop_at="latest".
        report: told once a second.
    """
    with Meter("read", report, records) as meter:
        return _summary("consume, Arrow tables", load.run(records, meter.count, to_end=True))


def consume_rows(load: RowsOut, report: Report, records: int | None = None) -> Summary:
    """The same, a Message a record."""
    with Meter("read", report, records) as meter:
        return _summary("consume, rows", load.run(records, meter.count, to_end=True))


def _summary(what: str, found: dict[str, Any]) -> Summary:
    return Summary(what, found["records"], found["bytes"], found["seconds"], {})
