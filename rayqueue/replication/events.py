"""What a partition's replica is told (events) and what it wants done (effects).

The shell performs effects in order. `Append`s of one drain of the queue go to the log in one write; the shell then
tells `Written`, and only because of that event does an ack follow. The same for `Flush` and `Flushed`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rayqueue.protocol.messages import BatchHeader, ProduceBatch

# --- events --------------------------------------------------------------------------------------------------------


class Produce(msgspec.Struct, gc=False):
    """A checked batch has come. ref: the shell's, handed back in `Append` and `Reply`. acks: 0, 1 or -1."""

    ref: Any
    acks: int
    batch: ProduceBatch


class Written(msgspec.Struct, frozen=True, gc=False):
    """All appends so far are in the page cache."""


class Rolled(msgspec.Struct, frozen=True, gc=False):
    """The last write has closed a segment: what is closed should become durable soon, acks do not wait for it."""


class WriteFailed(msgspec.Struct, frozen=True, gc=False):
    """The appends since the last `Written` are not in the log: the shell has cut it back to `log_end`."""

    message: str


class Flushed(msgspec.Struct, frozen=True, gc=False):
    """Everything below `end` is on stable storage."""

    end: int


class LogFailed(msgspec.Struct, frozen=True, gc=False):
    """The log is offline for good: an fsync or a write failed, and what the disk holds is not known any more."""

    message: str


class Tick(msgspec.Struct, frozen=True, gc=False):
    """A deadline may have passed."""


Event = Produce | Written | Rolled | WriteFailed | Flushed | LogFailed | Tick

# --- effects -------------------------------------------------------------------------------------------------------


class Append(msgspec.Struct, gc=False):
    """Write this batch at the end of the log."""

    ref: Any
    header: BatchHeader


class Reply(msgspec.Struct, gc=False):
    """Tell the producer. timestamp: the append time where the log's time counts, else -1."""

    ref: Any
    base_offset: int
    timestamp: int = -1
    error: str = ""
    message: str = ""


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Make what is written durable, then tell `Flushed`. At most one is under way."""


class HighWatermark(msgspec.Struct, frozen=True, gc=False):
    """Consumers may read below this offset."""

    offset: int


class Recover(msgspec.Struct, frozen=True, gc=False):
    """The log was cut back: read the producers' state from it again (`Leader.restore`)."""


Effect = Append | Reply | Flush | HighWatermark | Recover
