"""`rayqueue topic consume`: records of one or more topics, to a terminal, a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples
from rayqueue.cli.positions import Start, parse_start
from rayqueue.cli.progress import progress_bar
from rayqueue.cli.record_format import FIELDS, Render, compile_format, render_json
from rayqueue.errors import UnknownTopicOrPartition

if TYPE_CHECKING:
    import pyarrow as pa

    from rayqueue.cli.record_sinks import KeyColumn, Sink
    from rayqueue.consumer import Consumer
    from rayqueue.types import TopicPartition

# Records taken from the consumer at once: enough to be fast, few enough that output starts soon.
POLL_RECORDS = 10_000

_FORMATS = ", ".join(f"%{letter} {what}" for letter, what in FIELDS.items())


class _StartType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3
    name = "where"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Start:
        return value if isinstance(value, Start) else parse_start(value)


class _FormatType(click.ParamType):  # type: ignore[type-arg]
    name = "format"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Render:
        return compile_format(value) if isinstance(value, str) else value


@click.command(
    epilog=examples(
        "rayqueue topic consume clicks                          new records, until Ctrl-C",
        "rayqueue topic consume clicks -o start -e              all there is now, then exit",
        "rayqueue topic consume clicks -o -10 -e -f '%p %o %T %k %v\\n'",
        "rayqueue topic consume clicks -o @2026-01-31T12:00 -n 5 --output json | jq .value",
        "rayqueue topic consume flights -o start -e --output parquet flights.parquet",
        "rayqueue topic consume clicks --group stats -o start    as one of a group, going on where it was",
    )
    + f"\n\n\b\nFormat: {_FORMATS},\n  %% a percent sign; \\n \\t \\r \\0 \\\\ \\xNN."
)
@click.argument("topics", metavar="TOPIC[,TOPIC...]")
@click.argument("file", required=False, type=click.Path(dir_okay=False, writable=True))
@click.option(
    "-o",
    "--offset",
    "start",
    type=_StartType(),
    default="end",
    show_default=True,
    help="Where to begin in every partition: start, end, an offset, -N for the last N, @TIME (2026-01-31, "
    "2026-01-31T12:00, local unless it ends in Z or +02:00, or ms since 1970).",
)
@click.option("-n", "--count", type=click.IntRange(min=0), help="End after so many records.")
@click.option("-e", "--exit-at-end", is_flag=True, help="End at what is the end of every partition now.")
@click.option(
    "-p",
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    help="Only this partition; may be repeated.",
)
@click.option(
    "-G",
    "--group",
    metavar="NAME",
    help="As a member of this consumer group: its share of the partitions, from what the group has committed; -o start "
    "or end is for partitions where that is nothing. What was printed is committed.",
)
@click.option("-f", "--format", "render", type=_FormatType(), help=r"How to print a record; else '%v\n'.")
@click.option(
    "--output", "kind", type=click.Choice(["text", "json", "parquet"]), help="Else by FILE's name, else text."
)
@click.option("--json", "as_json", is_flag=True, help="Same as --output json.")
@connection_options
def consume(
    topics: str,
    file: str | None,
    start: Start,
    count: int | None,
    exit_at_end: bool,
    partitions: tuple[int, ...],
    group: str | None,
    render: Render | None,
    kind: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Prints records of TOPIC, or writes them to FILE. Several topics stand between commas."""
    kind = _kind(kind, as_json, file, render)
    names = [name for name in topics.split(",") if name]
    if not names:
        raise click.UsageError("give a topic")
    if group is not None:
        _check_group_use(partitions, start)
    settings = client_keywords(connection)

    from rayqueue.cli.topic_facts import KeyColumns
    from rayqueue.consumer import Consumer

    key_columns = KeyColumns(connection)
    sink = _sink(kind, file, render or compile_format("%v\\n"), key_columns)
    written = 0
    try:
        with Consumer(**settings, auto_offset_reset=start.reset, **_of_group(group, file)) as consumer:
            there = join(consumer, names) if group is not None else begin(consumer, names, partitions, start)
            with progress_bar("consuming", _total(there, count, exit_at_end), wanted=file is not None) as advance:
                for table in tables(consumer, count, exit_at_end):
                    sink.write(table)
                    written += table.num_rows
                    advance(table.num_rows)
            sink.finish()
            if group is not None and file is not None:
                consumer.commit()
    except (KeyboardInterrupt, SystemExit):
        sink.finish()
        raise
    except BaseException:
        sink.abandon()
        raise
    finally:
        key_columns.close()
    if file is not None:
        output.say(
            f"{output.count_text(written, 'record')} in {file}" if written else f"no records, {file} not written"
        )


def _of_group(group: str | None, file: str | None) -> dict[str, Any]:
    """Settings of a member. What goes into a file is committed when that is whole."""
    return {} if group is None else {"group_id": group, "enable_auto_commit": file is None}


def client_keywords(connection: Connection) -> dict[str, Any]:
    """The connection's settings as keywords of a Consumer."""
    return {name.replace(".", "_"): value for name, value in connection.settings().items()}


def _kind(kind: str | None, as_json: bool, file: str | None, render: Render | None) -> str:
    if as_json and kind not in (None, "json"):
        raise click.UsageError(f"--json and --output {kind} contradict each other")
    suffix = Path(file).suffix.lower() if file else ""
    chosen = (
        "json" if as_json else kind or {".parquet": "parquet", ".json": "json", ".jsonl": "json"}.get(suffix, "text")
    )
    if render is not None and chosen != "text":
        raise click.UsageError(f"--format is for text, not for {chosen}: leave one of the two out")
    if chosen == "parquet" and file is None and output.stdout().isatty():
        raise click.UsageError("Parquet is not for a terminal: give a FILE")
    return chosen


def _sink(kind: str, file: str | None, render: Render, key_column: KeyColumn) -> Sink:
    from rayqueue.cli.record_sinks import LineSink, ParquetSink

    if kind == "parquet":
        return ParquetSink(Path(file)) if file else ParquetSink(None, output.binary_stdout())
    chosen = render_json if kind == "json" else render
    if file:
        return LineSink(open(file, "wb"), chosen, close=True, key_column=key_column)
    return LineSink(output.binary_stdout(), chosen, key_column=key_column)


def _check_group_use(partitions: tuple[int, ...], start: Start) -> None:
    if partitions:
        raise click.UsageError("--group shares the partitions among its members: leave out --partition")
    if start.kind not in ("start", "end"):
        raise click.UsageError("with --group, -o is start or end; `rayqueue group seek` moves what is committed")


def join(consumer: Consumer, topics: list[str]) -> dict[TopicPartition, tuple[int, int]]:
    """Subscribes as a member of the consumer's group; what it will get is not known yet."""
    consumer.subscribe(topics)
    return {}


def begin(
    consumer: Consumer, topics: list[str], partitions: tuple[int, ...], start: Start
) -> dict[TopicPartition, tuple[int, int]]:
    """Sets the consumer to begin at `start` in every partition (or those given) of the topics.

    Reading whole topics from their start or end, the consumer stays subscribed and finds partitions added later.

    Returns:
        First offset to read and present end, by partition.

    Raises:
        UnknownTopicOrPartition: there is no such topic or partition.
        OffsetOutOfRange: no partition has such an offset.
    """
    from rayqueue.types import TopicPartition

    consumer.subscribe(topics)
    there = consumer.assignment()
    wanted = [tp for tp in there if tp.partition in partitions] if partitions else there
    for name in topics if partitions else ():
        for number in sorted(set(partitions)):
            if TopicPartition(name, number) not in wanted:
                count = sum(tp.topic == name for tp in there)
                raise UnknownTopicOrPartition(f"topic {name!r} has partitions 0 to {count - 1}, not {number}")
    marks = {tp: consumer.get_watermark_offsets(tp) for tp in wanted}
    named = {f"{tp.topic}-{tp.partition}": marks[tp] for tp in wanted}
    places = start.offsets(named, lambda text: output.say(f"warning: {text}"))
    starts = {tp: places[f"{tp.topic}-{tp.partition}"] for tp in wanted}
    if start.kind == "time":
        for tp, found in consumer.offsets_for_times(dict.fromkeys(wanted, start.number)).items():
            if found is not None:
                starts[tp] = found.offset
    if partitions or start.kind not in ("start", "end"):
        consumer.assign([TopicPartition(tp.topic, tp.partition, offset) for tp, offset in starts.items()])
    return {tp: (starts[tp], marks[tp].high) for tp in wanted}


def tables(consumer: Consumer, count: int | None, exit_at_end: bool) -> Iterator[pa.Table]:
    """Tables as they come: for ever, up to `count` records, or up to the end as of now."""
    if count == 0:
        return
    stop_at: Any = "latest" if exit_at_end else None
    if count is None:
        yield from consumer.iter_batches(max_records=POLL_RECORDS, stop_at=stop_at)
        return
    left = count
    while left > 0:  # never more than are wanted: a member of a group commits all that it was handed
        table = next(consumer.iter_batches(max_records=min(POLL_RECORDS, left), stop_at=stop_at), None)
        if table is None:
            return
        yield table
        left -= table.num_rows


def _total(there: dict[TopicPartition, tuple[int, int]], count: int | None, exit_at_end: bool) -> int | None:
    if not exit_at_end:
        return count
    records = sum(max(0, end - start) for start, end in there.values())
    return records if count is None else min(count, records)
