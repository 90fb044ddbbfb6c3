"""`rayqueue topic produce`: lines from standard input become records, in bounded memory however long the input is."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples
from rayqueue.cli.progress import Advance, progress_bar
from rayqueue.errors import RayQueueError

if TYPE_CHECKING:
    from rayqueue.producer import Producer

# After Ctrl-C, how long records that were already read may take to arrive.
LAST_FLUSH_S = 5.0


class Tally:
    """How many records went to which partition, and the first error; told from the producer's threads."""

    def __init__(self, advance: Advance) -> None:
        self._lock = threading.Lock()
        self._advance = advance
        self.partitions: Counter[int] = Counter()
        self.failed = 0
        self.error: BaseException | None = None

    def delivered(self, error: BaseException | None, message: Any) -> None:
        """A record's fate: a producer's `on_delivery`."""
        with self._lock:
            if error is None:
                self.partitions[message.partition] += 1
            else:
                self.failed += 1
                self.error = self.error or error
        self._advance(1)

    def batch(self, parts: list[tuple[int, int, int]]) -> None:
        """A batch's fate: (partition, base offset, count) of each part."""
        with self._lock:
            for partition, _, count in parts:
                self.partitions[partition] += count
        self._advance(sum(count for _, _, count in parts))

    @property
    def total(self) -> int:
        """Records that were written."""
        return sum(self.partitions.values())

    def text(self) -> str:
        """For a person: how many, and where."""
        where = ", ".join(f"{count:,} to partition {partition}" for partition, count in sorted(self.partitions.items()))
        failed = f"; {self.failed:,} failed" if self.failed else ""
        return f"{output.count_text(self.total, 'record')} written{': ' + where if where else ''}{failed}"

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        parts = {str(partition): count for partition, count in sorted(self.partitions.items())}
        return {"records": self.total, "partitions": parts, "failed": self.failed}


@click.command(
    epilog=examples(
        "echo hello | rayqueue topic produce clicks",
        "printf 'u1:login\\nu2:logout\\n' | rayqueue topic produce clicks -k :",
        "cat flights.jsonl | rayqueue topic produce flights --json",
        'echo \'{"key": "u1", "value": "hi", "headers": [["source", "web"]]}\' | rayqueue topic produce clicks --json',
        "rayqueue topic consume a -o start -e --json | rayqueue topic produce b --json",
    )
)
@click.argument("topic")
@click.option("-k", "--key-separator", metavar="SEP", help="Each line is key SEP value.")
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Send all to this partition.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Each line is a JSON object: the columns of a typed topic; else key, value, headers, partition, timestamp "
    "(as `topic consume --json` prints them).",
)
@click.option("--acks", type=click.Choice(["all", "1", "0"]), default="all", show_default=True)
@click.option("--compression", type=click.Choice(["none", "lz4", "zstd"]), default="none", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all went well.")
@click.option("--summary-json", is_flag=True, help="How many records went where, as JSON on standard output.")
@connection_options
def produce(
    topic: str,
    key_separator: str | None,
    partition: int | None,
    as_json: bool,
    acks: str,
    compression: str,
    quiet: bool,
    summary_json: bool,
    connection: Connection,
) -> None:
    """Reads lines from standard input and appends each to TOPIC as a record."""
    if key_separator == "":
        raise click.UsageError("--key-separator is empty: give one or more characters")
    if as_json and key_separator:
        raise click.UsageError("--key-separator is for plain lines: with --json a line has its own key")
    lines = sys.stdin.buffer
    if lines.isatty() and not quiet:
        output.say("Type lines, end with Ctrl-D.")
    settings = connection.settings()

    from rayqueue.producer import Producer

    settings |= {"client.id": "rayqueue-cli", "acks": acks, "compression.type": compression, "linger.ms": 2}
    columns = _typed_columns(connection, topic)
    if columns is not None and key_separator:
        raise click.UsageError(f"topic {topic!r} has columns: give lines of JSON, without --key-separator")
    with progress_bar("producing", None, wanted=not lines.isatty()) as advance:
        tally = Tally(advance)
        producer = Producer(settings)
        try:
            _send(producer, topic, lines, tally, key_separator, partition, as_json, columns)
            producer.flush()
        except KeyboardInterrupt:
            producer.flush(timeout=LAST_FLUSH_S)
            output.say(tally.text())
            raise
        except Exception:
            producer.flush(timeout=LAST_FLUSH_S)
            if tally.total:
                output.say(tally.text())
            raise
        finally:
            producer.close()
    _finish(tally, quiet, summary_json)


def _send(
    producer: Producer,
    topic: str,
    lines: IO[bytes],
    tally: Tally,
    separator: str | None,
    partition: int | None,
    as_json: bool,
    columns: Any,
) -> None:
    from rayqueue.cli import produce_lines

    if columns is not None:
        produce_lines.send_typed(producer, topic, lines, tally, columns, partition)
    elif as_json:
        produce_lines.send_json(producer, topic, lines, tally, partition)
    else:
        produce_lines.send_plain(producer, topic, lines, tally, separator, partition)


def _finish(tally: Tally, quiet: bool, summary_json: bool) -> None:
    if summary_json:
        output.write_json(tally.to_dict())
    elif not quiet or tally.error is not None:
        output.say(tally.text())
    if tally.error is not None:
        raise tally.error if isinstance(tally.error, RayQueueError) else RayQueueError(str(tally.error))


def _typed_columns(connection: Connection, topic: str) -> Any:
    """The user's columns of a typed topic, or None."""
    from rayqueue.admin_topics import user_schema
    from rayqueue.client.cluster_client import ClusterClient
    from rayqueue.config import AdminConfig

    client = ClusterClient(AdminConfig.parse(connection.settings()))
    try:
        return user_schema(client.topic(topic, auto_create=True))
    finally:
        client.close()
