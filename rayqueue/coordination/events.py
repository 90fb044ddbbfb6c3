"""What goes into the coordinator's machine, and what comes out.

    Call, Committed, WatchStarted, WatchEnded, Applied, Stalled, Tick  ->  machine

    machine  ->  Append, Publish, Reply, Refuse, Warn

Effects are performed in the order given. The shell answers `Append` with `Committed` once the records are durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayqueue.coordination.records import Record
from rayqueue.errors import RayQueueError

# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A request from outside. `call` names it until it is answered by Reply or Refuse, exactly once."""

    call: int
    request: Any  # a message of protocol.messages


@dataclass(frozen=True)
class Committed:
    """All records below index `end` are durable."""

    end: int


@dataclass(frozen=True)
class WatchStarted:
    """A process (by incarnation) has opened a stream of the metadata log; it may have several open for a moment."""

    watcher: str


@dataclass(frozen=True)
class WatchEnded:
    """One of its streams has ended."""

    watcher: str


@dataclass(frozen=True)
class Applied:
    """A process has acted on the metadata log below `index`."""

    watcher: str
    index: int


@dataclass(frozen=True)
class Stalled:
    """The coordinator's process stood still for a while: streams that end now ended because of that."""


@dataclass(frozen=True)
class Tick:
    """Time has passed: `next_deadline_ms` was reached."""


Event = Call | Committed | WatchStarted | WatchEnded | Applied | Stalled | Tick

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Append:
    """Write these records to the metadata log, from `index` on, and make them durable: then `Committed`."""

    index: int
    records: list[Record]


@dataclass(frozen=True)
class Publish:
    """Watchers may be sent the records below index `end`."""

    end: int


@dataclass(frozen=True)
class Reply:
    """Answers a call. The records behind it are durable."""

    call: int
    response: Any


@dataclass(frozen=True)
class Refuse:
    """Answers a call with an error; nothing has changed."""

    call: int
    error: RayQueueError


@dataclass(frozen=True)
class Warn:
    """Something that an operator must not overlook."""

    message: str


Effect = Append | Publish | Reply | Refuse | Warn
