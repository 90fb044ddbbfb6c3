"""`rayqueue perf ...`: simple, honest measurements of a running cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples, json_option
from rayqueue.errors import ConfigError, TopicAlreadyExists

DEFAULT_TOPIC = "rayqueue-perf"

_topic_option = click.option(
    "--topic", default=DEFAULT_TOPIC, show_default=True, help="Made when it is missing; it stays afterwards."
)
_partitions_option = click.option(
    "--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="Of a topic that has to be made."
)
_replication_option = click.option(
    "-r",
    "--replication-factor",
    type=click.IntRange(min=1),
    help="Of a topic that has to be made; else the cluster's default.",
)
_size_option = click.option(
    "--size", type=click.IntRange(min=0), default=100, show_default=True, help="Bytes of a value."
)
_acks_option = click.option("--acks", type=click.Choice(["all", "1", "0"]), default="all", show_default=True)


@click.group()
def perf() -> None:
    """Measures a cluster: a line a second on standard error, a summary at the end.

    These run against the cluster as it is, with this process as the client: they say what you get here and now.
    """


@perf.command(
    epilog=examples(
        "rayqueue perf produce --records 2000000",
        "rayqueue perf produce --api arrow --records 20000000 --batch-records 20000",
        "rayqueue perf produce --rate 5000 --records 50000 --linger 5",
    )
)
@_topic_option
@_partitions_option
@_replication_option
@click.option("-n", "--records", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@_size_option
@click.option(
    "--api", type=click.Choice(["rows", "arrow"]), default="rows", show_default=True, help="produce or produce_batch."
)
@click.option(
    "--batch-records", type=click.IntRange(min=1), default=10_000, show_default=True, help="With --api arrow."
)
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Records a second, open loop; else as fast as possible."
)
@_acks_option
@click.option("--linger", type=click.FloatRange(min=0), default=5.0, show_default=True, help="linger.ms")
@click.option("--compression", type=click.Choice(["none", "lz4", "zstd"]), default="none", show_default=True)
@json_option
@connection_options
def produce(
    topic: str,
    partitions: int,
    replication_factor: int | None,
    records: int,
    size: int,
    api: str,
    batch_records: int,
    rate: float | None,
    acks: str,
    linger: float,
    compression: str,
    as_json: bool,
    connection: Connection,
) -> None:
    """Writes records, all acked, and times them from `produce` to the ack; with --rate, from when each was due."""
    if rate and api == "arrow":
        raise click.UsageError("--rate is for --api rows")
    from rayqueue.cli import perf_produce
    from rayqueue.cli.consume import client_keywords

    _make_topic(connection, topic, partitions, replication_factor)
    settings = {**client_keywords(connection), "acks": acks, "linger_ms": linger, "compression_type": compression}
    if api == "rows":
        summary = perf_produce.produce_rows(settings, topic, records, size, _report(as_json), rate)
    else:
        summary = perf_produce.produce_batches(settings, topic, records, size, _report(as_json), batch_records)
    _show(summary, as_json)


@perf.command(epilog=examples("rayqueue perf consume", "rayqueue perf consume --topic clicks --api rows"))
@click.option("--topic", default=DEFAULT_TOPIC, show_default=True)
@click.option("-n", "--records", type=click.IntRange(min=1), help="At most so many; else all there are.")
@click.option("--api", type=click.Choice(["arrow", "rows"]), default="arrow", show_default=True)
@click.option("--no-mapping", is_flag=True, help="Stream from the leader also where its files could be mapped.")
@json_option
@connection_options
def consume(topic: str, records: int | None, api: str, no_mapping: bool, as_json: bool, connection: Connection) -> None:
    """Reads a topic from its start to its present end."""
    from rayqueue.cli import perf_consume
    from rayqueue.cli.consume import client_keywords
    from rayqueue.perf.consume import ArrowOut, RowsOut

    settings = {**client_keywords(connection), "mapped_reads": not no_mapping, "stop_at": "latest"}
    with ArrowOut(settings, topic) if api == "arrow" else RowsOut(settings, topic) as load:
        consumer = load.client
        if all(low == high for low, high in map(consumer.get_watermark_offsets, consumer.assignment())):
            raise ConfigError(
                f"topic {topic!r} is empty: write to it first, with `rayqueue perf produce --topic {topic}`"
            )
        if isinstance(load, ArrowOut):
            summary = perf_consume.consume_arrow(load, _report(as_json), records)
        else:
            summary = perf_consume.consume_rows(load, _report(as_json), records)
    _show(summary, as_json)


@perf.command(epilog=examples("rayqueue perf e2e", "rayqueue perf e2e --rate 10000 --linger 1 --seconds 30"))
@click.option("--topic", default=DEFAULT_TOPIC + "-e2e", show_default=True, help="Made when it is missing.")
@_partitions_option
@_replication_option
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=1000.0, show_default=True, help="Records a second."
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--size", type=click.IntRange(min=8), default=100, show_default=True, help="Bytes of a value.")
@_acks_option
@click.option("--linger", type=click.FloatRange(min=0), default=0.0, show_default=True, help="linger.ms")
@json_option
@connection_options
def e2e(
    topic: str,
    partitions: int,
    replication_factor: int | None,
    rate: float,
    seconds: float,
    size: int,
    acks: str,
    linger: float,
    as_json: bool,
    connection: Connection,
) -> None:
    """Times records from one process to another at a fixed rate (open loop)."""
    from rayqueue.cli.consume import client_keywords
    from rayqueue.cli.perf_e2e import end_to_end
    from rayqueue.perf.latency import Sender

    _make_topic(connection, topic, partitions, replication_factor)
    settings = client_keywords(connection)
    with Sender(settings, topic, acks=acks, linger_ms=linger) as sender:
        summary = end_to_end(sender, settings, topic, rate, seconds, size, _report(as_json))
    _show(summary, as_json)


def _make_topic(connection: Connection, topic: str, partitions: int, replication_factor: int | None) -> None:
    with connection.admin() as admin:
        try:
            admin.create_topic(topic, partitions, replication_factor)
        except TopicAlreadyExists:
            if admin.describe_topic(topic).schema is not None:
                raise ConfigError(f"topic {topic!r} has columns: measure with a plain one, --topic OTHER") from None


def _report(as_json: bool) -> Callable[[str], None]:
    return (lambda line: None) if as_json else output.say


def _show(summary: Any, as_json: bool) -> None:
    if as_json:
        output.write_json(summary.to_dict())
    else:
        output.write(summary.text())
