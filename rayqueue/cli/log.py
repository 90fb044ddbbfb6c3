"""`rayqueue log ...`: a log's files, read where they lie, without the cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import examples, json_option
from rayqueue.cli.progress import progress_bar
from rayqueue.cli.record_format import Render, compile_format, render_json

if TYPE_CHECKING:
    from rayqueue.cli.record_format import Row
    from rayqueue.storage.verify import DumpedBatch, Problem, SegmentReport

_PARTITION_DIRECTORY = re.compile(r"(?P<topic>.+)-[0-9a-f]{32}-(?P<partition>\d+)")
_path_argument = click.argument("path", type=click.Path(exists=True))


@click.group("log")
def log_group() -> None:
    """Files of logs: what is in them, and whether it is sound. Needs no cluster, changes nothing.

    PATH is a segment (.arrow), a partition's directory, or any directory above, such as the data directory.
    """


@log_group.command(
    epilog=examples(
        "rayqueue log dump DATA_DIR/0/partitions/clicks-.../ --batches",
        "rayqueue log dump 00000000000000000000.arrow -f '%o %k %v\\n'",
    )
)
@_path_argument
@click.option("--batches", is_flag=True, help="A line a batch, not a line a record.")
@click.option(
    "-f", "--format", "template", default="%o %T %k %v\\n", show_default=True, help="As `topic consume` has it."
)
@click.option("-n", "--count", type=click.IntRange(min=0), help="End after so many lines.")
@json_option
def dump(path: str, batches: bool, template: str, count: int | None, as_json: bool) -> None:
    """Prints the records, or the batches, in the files at PATH.

    What cannot be read is skipped and named on standard error; exit status 1 then.
    """
    render = compile_format(template)
    skips = _Skips()
    if batches:
        lines = _batch_lines(path, skips, as_json)
    else:
        lines = _record_lines(path, skips, render_json if as_json else render)
    stream = output.binary_stdout()
    for number, line in enumerate(lines):
        if count is not None and number >= count:
            break
        stream.write(line)
    stream.flush()
    if skips.count:
        output.say(f"{output.count_text(skips.count, 'place')} skipped; rayqueue log verify looks closer")
        raise click.exceptions.Exit(1)


class _Skips:
    """Says what a dump leaves out, where it does."""

    def __init__(self) -> None:
        self.count = 0

    def rest(self, problem: Problem) -> None:
        """A file makes no sense from some place on."""
        self._say(f"{problem.path}: skipped from byte {problem.position} on: {problem.message}")

    def batch(self, batch: DumpedBatch) -> None:
        """A batch does not match its CRC32C, or holds no rows of its schema; its header may be damaged, too."""
        header = batch.header
        self._say(
            f"{batch.path}: skipped {batch.length} bytes at byte {batch.position}: offsets {header.base_offset} to "
            f"{header.last_offset}, as their header says, are damaged"
        )

    def _say(self, text: str) -> None:
        self.count += 1
        output.say(text)


def _batch_lines(path: str, skips: _Skips, as_json: bool) -> Iterator[bytes]:
    import msgspec

    for batch in _batches(path, skips):
        if batch.rows is None:
            skips.batch(batch)
        fields = batch_fields(batch)
        if as_json:
            yield msgspec.json.encode(fields) + b"\n"
        else:
            shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("path", "sound"))
            yield f"{shown}{'' if batch.sound else ' DAMAGED'}\n".encode()


def batch_fields(batch: DumpedBatch) -> dict[str, Any]:
    """A batch's header, by name."""
    header = batch.header
    names = (
        "base_offset",
        "last_offset",
        "record_count",
        "leader_epoch",
        "producer_id",
        "producer_epoch",
        "base_sequence",
    )
    return {
        "path": batch.path,
        "position": batch.position,
        "length": batch.length,
        **{name: getattr(header, name) for name in names},
        "min_timestamp": _moment(header.min_timestamp),
        "max_timestamp": _moment(header.max_timestamp),
        "attributes": header.attributes,
        "crc": f"{header.crc:08x}",
        "sound": batch.sound,
    }


def _moment(timestamp: int) -> str:
    try:
        return (
            datetime.fromtimestamp(timestamp / 1000, timezone.utc)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
    except (ValueError, OverflowError, OSError):
        return f"{timestamp} ms"  # beyond what a calendar has; a producer may set any


def _record_lines(path: str, skips: _Skips, render: Render) -> Iterator[bytes]:
    from rayqueue.protocol.messages import SPARSE_BATCH

    for batch in _batches(path, skips):
        sparse = batch.header.attributes & SPARSE_BATCH
        if batch.rows is None or (batch.rows.num_rows != batch.header.record_count and not sparse):
            skips.batch(batch)
            continue
        for row in _rows(batch):
            yield render(row)


def _rows(batch: DumpedBatch) -> Iterator[Row]:
    """A batch's records as `consume_arrow` would give them."""
    import pyarrow as pa

    from rayqueue.cli.record_sinks import rows
    from rayqueue.protocol.messages import LOG_APPEND_TIME, SPARSE_BATCH

    header = batch.header
    stored = batch.rows
    assert stored is not None
    count = stored.num_rows
    topic, partition = partition_of(Path(batch.path))
    table = pa.Table.from_batches([stored])
    if not header.attributes & SPARSE_BATCH:  # those have their offsets
        offsets = pa.array(range(header.base_offset, header.base_offset + count), pa.int64())
        table = table.append_column("offset", offsets)
    if header.attributes & LOG_APPEND_TIME:
        stamps = pa.array([header.max_timestamp] * count, pa.int64()).cast(table.schema.field("timestamp").type)
        table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", stamps)
    table = table.append_column("topic", pa.array([topic] * count))
    table = table.append_column("partition", pa.array([partition] * count, pa.int32()))
    return rows(table)


def partition_of(segment: Path) -> tuple[str, int]:
    """Topic and partition by the name of the segment's directory; ("", -1) when it has another one."""
    found = _PARTITION_DIRECTORY.fullmatch(segment.resolve().parent.name)
    return (found["topic"], int(found["partition"])) if found else ("", -1)


@log_group.command(epilog=examples("rayqueue log verify ~/.rayqueue/default", "rayqueue log verify PATH --json"))
@_path_argument
@json_option
def verify(path: str, as_json: bool) -> None:
    """Reads every byte of the files at PATH, checks what can be checked, and says what is wrong and where.

    Exit status 1 when something is wrong. While a broker writes, the newest batches may lack index entries.
    """
    reports: list[SegmentReport] = []
    logs = log_paths(path)
    total = sum(file.stat().st_size for log in logs for file in _segments(log))
    with progress_bar("verifying bytes", total) as advance:
        for report in _reports(logs):
            reports.append(report)
            advance(report.size)
            if not as_json:
                _show(report)
    problems = sum(len(report.problems) for report in reports)
    records = sum(report.records for report in reports)
    if as_json:
        output.write_json(
            {
                "sound": not problems,
                "segments": [_report_dict(report) for report in reports],
                "records": records,
                "problems": problems,
            }
        )
    else:
        found = output.count_text(problems, "problem") if problems else "all sound"
        segments, read = output.count_text(len(reports), "segment"), output.count_text(records, "record")
        output.write(f"{segments}, {read}: {found}")
    if problems:
        raise click.exceptions.Exit(1)


def _show(report: SegmentReport) -> None:
    state = "closed" if report.closed else "open"
    mark = click.style("fail", fg="red") if report.problems else click.style("ok  ", fg="green")
    output.write(
        f"{mark}  {report.path}: offsets {report.base_offset} to {report.next_offset}, "
        f"{output.count_text(report.records, 'record')} in {output.count_text(report.batches, 'batch')}, "
        f"{output.size_text(report.size)}, {state}"
    )
    for problem in report.problems:
        where = f"{os.path.basename(problem.path)} at byte {problem.position}"
        output.write(f"      {where}: {problem.message}")


def _report_dict(report: SegmentReport) -> dict[str, Any]:
    return {
        "path": report.path,
        "base_offset": report.base_offset,
        "next_offset": report.next_offset,
        "batches": report.batches,
        "records": report.records,
        "size": report.size,
        "closed": report.closed,
        "problems": [problem._asdict() for problem in report.problems],
    }


def _batches(path: str, skips: _Skips) -> Iterator[DumpedBatch]:
    from rayqueue.storage.verify import dump as dump_log

    for log in log_paths(path):
        yield from dump_log(str(log), skips.rest)


def _reports(logs: list[Path]) -> Iterator[SegmentReport]:
    from rayqueue.storage.verify import verify as verify_log

    for log in logs:
        yield from verify_log(str(log))


def log_paths(path: str) -> list[Path]:
    """The logs at a path: the path itself, or every log directory below a directory that is none.

    A path without any log is given back, for the error that says so.
    """
    given = Path(path)
    if not given.is_dir() or _segments(given):
        return [given]
    below = sorted({file.parent for file in given.rglob("*.arrow") if file.stem.isdigit()})
    return below or [given]


def _segments(log: Path) -> list[Path]:
    return [log] if log.is_file() else sorted(log.glob("[0-9]*.arrow"))
