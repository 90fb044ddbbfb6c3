"""What clients did and saw, as JSON lines: one file a client, one object a line, in the order in which it happened.

Every line has `time` (ns of the machine's monotonic clock, so that files can be laid beside each other), `process` (the
client; one that was killed and started again has another name) and `event`:

    send     value, partition (absent: the log chooses)      before the producer is asked
    ack      value, partition, offset                        promised with acks=all
    fail     value, error                                    it was never handed to the log: it must not be read
    unknown  value, error                                    no answer, a broken connection, a timeout: it may be read
    assign   offsets: {partition: offset}                    a consumer goes on from there
    read     records: [[partition, offset, value], ...]      in the order in which they were handed out
    error    error                                           a consumer got an error, or does not get on
    done                                                     a consumer has read all there was when it was told to end

Members of the group (`tests.chaos.member`):

    given, revoked, lost  offsets: {partition: -1}           partitions that came and went
    handled  records: [[partition, offset, value], ...]      as `read`; the member may be given them again after a loss
    commit   offsets: {partition: offset}                    before it is asked for
    committed  offsets                                       the answer to the commit before
    uncommitted  error                                       the same: it may have happened

A `send` without an answer is unknown. Processes named `final...` read everything from the beginning, after all else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

FINAL = "final"


@dataclass(frozen=True)
class Anomaly:
    """Something that must not be. kind: see `checker.KINDS`."""

    kind: str
    text: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line; see the module for which event has what."""

    time: int
    process: str
    event: str
    value: str | None = None
    partition: int | None = None
    offset: int | None = None
    error: str | None = None
    offsets: dict[str, int] | None = None
    records: list[tuple[int, int, str]] | None = None


class Recorder:
    """Writes the history of one client. Every line is with the operating system before `add` returns: what a client
    did before it was killed is known."""

    def __init__(self, path: Path, process: str) -> None:
        self._file = path.open("ab", buffering=0)
        self._process = process
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()

    def add(self, event: str, **fields: object) -> None:
        """Adds a line."""
        with self._lock:
            line = Event(time.monotonic_ns(), self._process, event, **fields)  # type: ignore[arg-type]
            self._file.write(self._encoder.encode(line) + b"\n")


def load(paths: Iterable[Path]) -> Iterator[Event]:
    """The events of some files, each file's in its order, without the torn last line of a client that was killed."""
    decoder = msgspec.json.Decoder(Event)
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield decoder.decode(line)
