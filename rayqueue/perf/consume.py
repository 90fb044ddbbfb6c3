"""Consumers at full speed: message by message, and by tables, mapped or streamed. Every byte is touched."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from rayqueue.consumer import Consumer
from rayqueue.message import Message
from rayqueue.perf.load import Load
from rayqueue.perf.payload import SUM_BELOW, Progress, touch, touch_all, value_bytes

# Without a record for so long, a reader gives up.
SILENCE_MAX_S = 60.0
NUM_MESSAGES = 500
WAIT_S = 1.0


class _Reader(Load[Consumer]):
    """One consumer of a whole topic, which it reads from the beginning, as often as it is asked to."""

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        super().__init__(Consumer(topic, **{"auto_offset_reset": "earliest", **client, **tuning}))


class _Silence:
    """Gives up on a reader that gets nothing."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SILENCE_MAX_S

    def broken(self) -> None:
        """There was something."""
        self._until = time.monotonic() + SILENCE_MAX_S

    def goes_on(self, seen: int, records: float) -> None:
        """There was nothing.

        Raises:
            TimeoutError: for too long.
        """
        if time.monotonic() > self._until:
            raise TimeoutError(f"{seen} of {records} records, then nothing for {SILENCE_MAX_S:g} s")


class RowsOut(_Reader):
    """A reader of messages.

    Args:
        client: the connection's settings.
        topic: what it reads.
        num_messages: of one `consume`; 1: it calls `poll`.
        tuning: settings of the consumer.
    """

    def __init__(self, client: dict[str, Any], topic: str, num_messages: int = NUM_MESSAGES, **tuning: Any) -> None:
        super().__init__(client, topic, **tuning)
        self._num_messages = num_messages

    def run(self, records: int | None = None, progress: Progress | None = None, to_end: bool = False) -> dict[str, Any]:
        """Reads the topic from its beginning, until `records` are there.

        Args:
            records: None: all there are.
            to_end: ends at the end of the topic as of now, also with fewer records; needs a consumer with
                stop_at="latest" among its tunings.

        Returns:
            records, bytes of their values, seconds, and the sum of the values (`payload.touch_all`).

        Raises:
            TimeoutError: too few records came.
        """
        wanted = math.inf if records is None else records
        seen = size = total = 0
        began = time.perf_counter()
        self.client.seek_to_beginning()
        for messages in self._to_end() if to_end else self._endless(wanted):
            if seen + len(messages) > wanted:
                del messages[int(wanted - seen) :]
            values = [message.value or b"" for message in messages]
            total += touch_all(values)
            more = sum(map(len, values))
            seen, size = seen + len(values), size + more
            if progress is not None:
                progress(len(values), more)
            if seen >= wanted:
                break
        took = time.perf_counter() - began
        return {"records": seen, "bytes": size, "seconds": took, "sum": total % SUM_BELOW}

    def _endless(self, records: float) -> Iterator[list[Message]]:
        silence = _Silence()
        seen = 0
        while True:
            messages = self._polled() if self._num_messages == 1 else self.client.consume(self._num_messages, WAIT_S)
            if messages:
                silence.broken()
                seen += len(messages)
                yield messages
            else:
                silence.goes_on(seen, records)

    def _polled(self) -> list[Message]:
        """Some records, each by a `poll` of its own; it waits for the first one only, and touches them together."""
        poll = self.client.poll
        first = poll(WAIT_S)
        if first is None:
            return []
        messages = [first]
        while len(messages) < NUM_MESSAGES and (message := poll(0)) is not None:
            messages.append(message)
        return messages

    def _to_end(self) -> Iterator[list[Message]]:
        messages: list[Message] = []
        for message in self.client:
            messages.append(message)
            if len(messages) >= self._num_messages:
                yield messages
                messages = []
        if messages:
            yield messages


class ArrowOut(_Reader):
    """A reader of tables, which maps the leader's files where they lie on this host.

    Args:
        client: the connection's settings.
        topic: what it reads.
        tuning: settings of the consumer.
    """

    def run(self, records: int | None = None, progress: Progress | None = None, to_end: bool = False) -> dict[str, Any]:
        """As `RowsOut.run`. Of a typed topic, whose columns have no common sum, it is the bytes that are summed up."""
        wanted = math.inf if records is None else records
        seen = size = total = 0
        began = time.perf_counter()
        self.client.seek_to_beginning()
        for table in self.client.iter_batches(stop_at="latest") if to_end else self._endless(wanted):
            if seen + table.num_rows > wanted:
                table = table.slice(0, int(wanted - seen))
            plain = "value" in table.column_names
            more = _value_bytes(table)
            total += touch(table["value"]) if plain else more
            seen, size = seen + table.num_rows, size + more
            if progress is not None:
                progress(table.num_rows, more)
            if seen >= wanted:
                break
        took = time.perf_counter() - began
        return {"records": seen, "bytes": size, "seconds": took, "sum": total % SUM_BELOW}

    def _endless(self, records: float) -> Iterator[pa.Table]:
        silence = _Silence()
        seen = 0
        while True:
            table = self.client.consume_arrow(timeout=WAIT_S)
            if table.num_rows:
                silence.broken()
                seen += table.num_rows
                yield table
            else:
                silence.goes_on(seen, records)


class ArrowOutStreamed(ArrowOut):
    """The same as a consumer on another node has it: over the stream."""

    def __init__(self, client: dict[str, Any], topic: str, **tuning: Any) -> None:
        super().__init__(client, topic, **{**tuning, "mapped_reads": False})


def _value_bytes(table: pa.Table) -> int:
    """Bytes of the values; of a typed topic, of all its columns."""
    return value_bytes(table["value"]) if "value" in table.column_names else int(table.nbytes)
