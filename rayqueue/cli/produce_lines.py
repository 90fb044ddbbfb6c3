"""From lines to records: plain lines, JSON records, JSON rows of a typed topic.

Each reads what is there, so a line typed by hand is sent at once, and stops at the first error that a delivery
reports. Nothing is kept but what the producer buffers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from rayqueue.cli.json_rows import parse_rows
from rayqueue.errors import RecordTooLarge, SerializationError

if TYPE_CHECKING:
    from rayqueue.cli.produce import Tally
    from rayqueue.producer import Producer

# max.message.bytes cannot be set higher than this; a longer line is no record.
MAX_LINE = 512 << 20
# Bytes of JSON rows that become one Arrow batch.
CHUNK = 1 << 20

_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder().encode


def numbered_lines(stream: IO[bytes], tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends, from 1, until the input or the delivery ends.

    Raises:
        RecordTooLarge: a line is longer than any record may be.
    """
    number = 0
    while tally.error is None:
        line = stream.readline(MAX_LINE)
        if not line:
            return
        number += 1
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise RecordTooLarge(f"line {number} is longer than {MAX_LINE} bytes; is the input text with lines?")
        yield number, line[:-1] if line.endswith(b"\n") else line


def send_plain(
    producer: Producer, topic: str, lines: IO[bytes], tally: Tally, separator: str | None, partition: int | None
) -> None:
    """Each line is a value, or key, separator and value.

    Raises:
        SerializationError: a line has no separator.
    """
    split = separator.encode() if separator else None
    for number, line in numbered_lines(lines, tally):
        key = None
        if split is not None:
            key, found, line = line.partition(split)
            if not found:
                raise SerializationError(f"line {number} has no {separator!r} between key and value")
        tally.track(producer.produce(topic, line, key, partition))


def send_json(producer: Producer, topic: str, lines: IO[bytes], tally: Tally, partition: int | None) -> None:
    """Each line is an object with value and, where wanted, key, headers, partition and timestamp.

    Raises:
        SerializationError: a line is no such object.
    """
    for number, line in numbered_lines(lines, tally):
        if not line.strip():
            continue
        record = _object(number, line)
        try:
            key, value = _bytes(record.get("key")), _bytes(record.get("value"))
            headers = [(str(name), _bytes(content)) for name, content in _pairs(record.get("headers"))]
        except (TypeError, ValueError) as error:
            raise SerializationError(
                f'line {number}: {error}; headers are [["name", "value"], ...], bytes {{"base64": "..."}}'
            ) from None
        tally.track(
            producer.produce(
                topic,
                value,
                key,
                partition=record.get("partition") if partition is None else partition,
                headers=headers or None,
                timestamp=record.get("timestamp"),
            )
        )


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        record = _decode_json(line)
    except msgspec.DecodeError as error:
        raise SerializationError(f"line {number} is not JSON: {error}") from None
    if not isinstance(record, dict) or not ("value" in record or "key" in record):
        raise SerializationError(f'line {number} is not an object with "value" (and "key", "headers", ...)')
    return record


def _pairs(headers: Any) -> list[Any]:
    if headers is None:
        return []
    return list(headers.items()) if isinstance(headers, dict) else list(headers)


def _bytes(value: Any) -> bytes | None:
    """Text as UTF-8, {"base64": ...} as the bytes it stands for, null as None, other values as JSON."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"], validate=True)
    return _encode_json(value)


def send_typed(
    producer: Producer,
    topic: str,
    lines: IO[bytes],
    tally: Tally,
    columns: pa.Schema,
    partition: int | None,
    key_column: str = "",
) -> None:
    """Each line is an object with the topic's columns, or one as `topic consume --json` prints it.

    Runs of lines become Arrow batches.

    Raises:
        SchemaMismatch: a line does not fit the columns; the message says where.
    """
    for first, chunk in _chunks(lines):
        if not chunk.strip():
            continue
        table = parse_rows(chunk, columns, first, key_column)
        if partition is not None:
            _send_rows(producer, topic, table, tally, partition)
            continue
        tally.track(producer.produce_batch(topic, table))
        if tally.error is not None:
            return


def _send_rows(producer: Producer, topic: str, table: pa.Table, tally: Tally, partition: int) -> None:
    """The rows one by one, to a partition of the caller's choice, which a batch does not have."""
    for row in table.to_pylist():
        stamp = row.pop("timestamp", None)
        tally.track(producer.produce(topic, row, partition=partition, timestamp=stamp))


def _chunks(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Whole lines as they come, about CHUNK bytes at most, with the number of the first."""
    rest, number = b"", 1
    read = getattr(stream, "read1", stream.read)
    while data := read(CHUNK):
        end = data.rfind(b"\n") + 1
        if not end:
            rest += data
            if len(rest) > MAX_LINE:
                raise RecordTooLarge(f"line {number} is longer than {MAX_LINE} bytes; is the input JSON in lines?")
            continue
        chunk, rest = rest + data[:end], data[end:]
        yield number, chunk
        number += chunk.count(b"\n")
    if rest:
        yield number, rest
