"""What a partition's replica is told (events) and what it wants done (effects).

The shell performs effects in order. `Append`s of one drain of the queue go to the log in one write; the shell then
tells `Written`, and only because of that event does an ack follow. The same for `Flush` and `Flushed`, and for
`Truncate` or `ResetLog` and `Truncated` or `CutFailed`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rayqueue.protocol.messages import BatchHeader, ProduceBatch
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.producer_state import ProducerStates

NO_LEADER = -1


class Assignment(msgspec.Struct, frozen=True):
    """What the metadata log says of a partition.

    Attributes:
        leader: broker id, or NO_LEADER.
        leader_epoch, partition_epoch: the first rises with every new leadership, the second with every change.
        isr: the committed in-sync replicas.
        incarnations: of the replica actors that host the replicas, by broker id, as they are registered.
        report: nobody leads before all logs have been compared, and this one's end is not known yet.
    """

    leader: int
    leader_epoch: int
    partition_epoch: int
    replicas: list[int]
    isr: list[int]
    incarnations: dict[int, str]
    report: bool = False


# --- events: the log -----------------------------------------------------------------------------------------------


class Written(msgspec.Struct, frozen=True, gc=False):
    """All appends so far are in the page cache."""


class Rolled(msgspec.Struct, frozen=True, gc=False):
    """The last write has closed a segment: what is closed should become durable soon, acks do not wait for it."""


class WriteFailed(msgspec.Struct, frozen=True, gc=False):
    """The appends since the last `Written` are not in the log: the shell has cut it back to `written_end`."""

    message: str


class Flushed(msgspec.Struct, frozen=True, gc=False):
    """Everything below `end` is on stable storage: the answer to `Flush`."""

    end: int


class LogFailed(msgspec.Struct, frozen=True, gc=False):
    """The log is offline for good: an fsync or a write failed, and what the disk holds is not known any more."""

    message: str


class Truncated(msgspec.Struct, frozen=True):
    """`Truncate` or `ResetLog` has been performed; this is the log now."""

    log_start: int
    log_end: int
    epochs: LeaderEpochs
    producers: ProducerStates


class CutFailed(msgspec.Struct, frozen=True, gc=False):
    """`Truncate` or `ResetLog` could not be performed, the disk is full: the log is as it was."""

    message: str


class StartMoved(msgspec.Struct, frozen=True, gc=False):
    """Retention, or a user who deletes records, has moved the log's start."""

    log_start: int


class Tick(msgspec.Struct, frozen=True, gc=False):
    """A deadline may have passed."""


# --- events: from the metadata log ---------------------------------------------------------------------------------


class Assign(msgspec.Struct, frozen=True):
    """What the metadata log says now. Told only while the log is settled: nothing is appended that is not written,
    no truncation is under way. A process is told of its own leadership only when that was committed for it, and not
    for an incarnation before it."""

    assignment: Assignment


# --- events at the leader ------------------------------------------------------------------------------------------


class Produce(msgspec.Struct, gc=False):
    """A checked batch has come. ref: the shell's, handed back in `Append` and `Reply`. acks: 0, 1 or -1."""

    ref: Any
    acks: int
    batch: ProduceBatch


class FetchFrom(msgspec.Struct, frozen=True, gc=False):
    """A follower begins, or begins anew: its log ends at `offset`, and its last batch is of `last_epoch`, also where
    that is deleted (-1: it knows of none). Answered by `Feed` or `RefuseFetch`."""

    follower: int
    incarnation: str
    leader_epoch: int
    offset: int
    last_epoch: int


class FetchAcked(msgspec.Struct, frozen=True, gc=False):
    """A follower holds everything below `end`, as durably as the topic asks. leader_epoch: the one in `AckFetch`."""

    follower: int
    incarnation: str
    leader_epoch: int
    end: int


class FetchEnded(msgspec.Struct, frozen=True, gc=False):
    """A follower's stream is gone, and no other has taken its place."""

    follower: int
    incarnation: str


class IsrRefused(msgspec.Struct, frozen=True, gc=False):
    """The coordinator will not take the proposal made under this partition epoch. An unknown outcome is not told: the
    shell asks again. Acceptance comes as `Assign`."""

    partition_epoch: int
    error: str


# --- events at a follower: leader_epoch is the one of the `Follow` that is answered ---------------------------------


class Fed(msgspec.Struct, gc=False):
    """The leader's answer to the latest `Follow`: batches, or only news of its watermarks. refs: the shell's."""

    leader_epoch: int
    headers: list[BatchHeader]
    refs: list[Any]
    high_watermark: int
    log_start: int


class Diverged(msgspec.Struct, frozen=True, gc=False):
    """The logs part: of the epochs up to the follower's last one the leader's latest is `epoch`, and ends at `end`.
    producers: when it has none of them, as they are known below `end`."""

    leader_epoch: int
    epoch: int
    end: int
    producers: ProducerStates | None = None


class OutOfRange(msgspec.Struct, frozen=True, gc=False):
    """The leader's log does not reach to where this one ends. producers: as they are known below `log_start`; None: the
    answer is not its machine's, what it was feeding was deleted."""

    leader_epoch: int
    log_start: int
    log_end: int
    producers: ProducerStates | None = None


class FeedRefused(msgspec.Struct, frozen=True, gc=False):
    """The leader does not feed this follower now: one of the two has not heard of something yet."""

    leader_epoch: int
    error: str


class FeedLost(msgspec.Struct, frozen=True, gc=False):
    """The stream from the leader broke, or there is none."""

    leader_epoch: int


LogEvent = Rolled | WriteFailed | Flushed | LogFailed | Truncated | CutFailed | StartMoved | Tick
LeaderEvent = Produce | FetchFrom | FetchAcked | FetchEnded | IsrRefused
FollowerEvent = Fed | Diverged | OutOfRange | FeedRefused | FeedLost
Event = Written | LogEvent | Assign | LeaderEvent | FollowerEvent

# --- effects: the log ----------------------------------------------------------------------------------------------


class Append(msgspec.Struct, gc=False):
    """Write this batch at the end of the log."""

    ref: Any
    header: BatchHeader


class Flush(msgspec.Struct, frozen=True, gc=False):
    """Make what is written durable, then tell `Flushed`. At most one is under way."""


class Truncate(msgspec.Struct, frozen=True, gc=False):
    """Cut the log back to `end`, then tell `Truncated` or `CutFailed`. At its start nothing is left of it but what it
    knows of what was deleted below: the producers, and the last leader epoch."""

    end: int


class ResetLog(msgspec.Struct, frozen=True, gc=False):
    """Empty the log and let it begin anew at `start`, with nothing known of what was below; then tell `Truncated` or
    `CutFailed`."""

    start: int


class AdvanceStart(msgspec.Struct, frozen=True, gc=False):
    """Records below `start` are gone at the leader: delete them here."""

    start: int


# --- effects: to clients -------------------------------------------------------------------------------------------


class Reply(msgspec.Struct, gc=False):
    """Tell the producer. timestamp: the append time where the log's time counts, else -1."""

    ref: Any
    base_offset: int
    timestamp: int = -1
    error: str = ""
    message: str = ""


class HighWatermark(msgspec.Struct, frozen=True, gc=False):
    """Consumers may read below this offset."""

    offset: int


# --- effects of a leader -------------------------------------------------------------------------------------------


class Feed(msgspec.Struct, frozen=True, gc=False):
    """Push to this follower what is written from `offset` on, with high watermark and log start: at once, even when
    there is nothing, and whenever one of them has moved."""

    follower: int
    incarnation: str
    offset: int


class RefuseFetch(msgspec.Struct, frozen=True, gc=False):
    """Answer a `FetchFrom`. error "": the logs diverge, (epoch, end, producers) is for `Diverged`. "OffsetOutOfRange":
    the log starts at `end`, as it is for `OutOfRange` with the producers."""

    follower: int
    incarnation: str
    error: str
    epoch: int = -1
    end: int = -1
    producers: ProducerStates | None = None


class StopFeeding(msgspec.Struct, frozen=True, gc=False):
    """Push nothing more to this follower."""

    follower: int
    incarnation: str


class ProposeIsr(msgspec.Struct, frozen=True, gc=False):
    """Ask the coordinator for this ISR: (broker id, incarnation) of each. At most one is asked for at a time.

    The coordinator takes it only under exactly these epochs, with every incarnation the registered one, and raises the
    partition epoch, also when the ISR is the one it has.
    """

    isr: list[tuple[int, str]]
    leader_epoch: int
    partition_epoch: int


class Resign(msgspec.Struct, frozen=True, gc=False):
    """This leader cannot go on, its log has failed: the coordinator should choose another."""

    leader_epoch: int


class ReportLogEnd(msgspec.Struct, frozen=True, gc=False):
    """Tell the coordinator where the log ends, and of which epoch its last batch is: the highest is to lead."""

    leader_epoch: int
    last_epoch: int
    log_end: int


# --- effects of a follower -----------------------------------------------------------------------------------------


class Follow(msgspec.Struct, frozen=True, gc=False):
    """Subscribe at the leader, in place of any subscription before: what that one still brings is dropped."""

    leader: int
    leader_epoch: int
    offset: int
    last_epoch: int


class Unfollow(msgspec.Struct, frozen=True, gc=False):
    """End the subscription."""


class AckFetch(msgspec.Struct, frozen=True, gc=False):
    """Tell the leader (`FetchAcked`)."""

    leader_epoch: int
    end: int


LogEffect = Append | Flush | Truncate | ResetLog | AdvanceStart
LeaderEffect = Reply | Feed | RefuseFetch | StopFeeding | ProposeIsr | Resign
FollowerEffect = Follow | Unfollow | AckFetch | ReportLogEnd
Effect = LogEffect | HighWatermark | LeaderEffect | FollowerEffect
