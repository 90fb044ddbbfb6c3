"""`rayqueue topic produce`: lines from standard input become records, in bounded memory however long the input is."""

from __future__ import annotations

import sys
from collections import Counter, deque
from typing import IO, TYPE_CHECKING, Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples
from rayqueue.cli.progress import Advance, progress_bar
from rayqueue.errors import RayQueueError

if TYPE_CHECKING:
    from rayqueue.client.io.future import BatchFuture, RecordFuture
    from rayqueue.producer import Producer

# After Ctrl-C, how long records that were already read may take to arrive.
LAST_FLUSH_S = 5.0
# Calls whose outcome has not been looked at; the producer's own buffer bounds the bytes.
IN_FLIGHT = 100_000
LOOK_EVERY = 256


class Tally:
    """Follows what was sent: how many records went to which partition, and the first error.

    Attributes:
        partitions: records written, by partition.
        failed: `produce` and `produce_batch` calls whose records were not, or not all, written.
        error: the first of their errors.
    """

    def __init__(self, advance: Advance) -> None:
        """advance: told of records written."""
        self._advance = advance
        self._pending: deque[RecordFuture | BatchFuture] = deque()
        self.partitions: Counter[int] = Counter()
        self.failed = 0
        self.error: RayQueueError | None = None

    def track(self, future: RecordFuture | BatchFuture) -> None:
        """Follows one more call; waits for old ones when there are very many."""
        self._pending.append(future)
        count = len(self._pending)
        # Looking costs as much as sending: at every line while lines are few, now and then when they pour in.
        if (count < LOOK_EVERY or not count % LOOK_EVERY) and self._pending[0].done():
            self.collect(IN_FLIGHT)
        elif count > IN_FLIGHT:
            self.collect(IN_FLIGHT // 2)

    def collect(self, keep: int = 0) -> None:
        """Counts what is done, and waits until at most `keep` calls are not."""
        pending = self._pending
        before = self.total
        while pending and (len(pending) > keep or pending[0].done()):
            try:
                result = pending.popleft().result()
            except RayQueueError as error:
                self.failed += 1
                self.error = self.error or error
                continue
            if isinstance(result, list):
                for partition, _, count in result:
                    self.partitions[partition] += count
            else:
                self.partitions[result.partition] += 1
        self._advance(self.total - before)

    def give_up(self) -> None:
        """Counts what is done, and forgets the rest: whether that was written is not known."""
        self.collect(len(self._pending))
        self._pending.clear()

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
    help="Each line is a JSON object as `topic consume --json` prints it: key, value, headers, partition, timestamp. "
    "For a typed topic it may also be the columns alone; its partition is the topic's to choose.",
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

    from rayqueue.cli.topic_facts import typed_columns
    from rayqueue.producer import Producer

    settings |= {"client.id": "rayqueue-cli", "acks": acks, "compression.type": compression, "linger.ms": 5}
    columns, key_column = typed_columns(connection, topic)
    if columns is not None and key_separator:
        raise click.UsageError(f"topic {topic!r} has columns: give lines of JSON, without --key-separator")
    with progress_bar("producing", None, wanted=not lines.isatty()) as advance:
        tally = Tally(advance)
        producer = Producer(settings)
        try:
            _send(producer, topic, lines, tally, key_separator, partition, as_json, columns, key_column)
            producer.flush()
            tally.collect()
        except BaseException:
            producer.flush(timeout=LAST_FLUSH_S)
            tally.give_up()
            if tally.total:
                output.say(tally.text())
            raise
        finally:
            producer.close(timeout=LAST_FLUSH_S)
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
    key_column: str,
) -> None:
    from rayqueue.cli import produce_lines

    if columns is not None:
        produce_lines.send_typed(producer, topic, lines, tally, columns, partition, key_column)
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
        raise tally.error
