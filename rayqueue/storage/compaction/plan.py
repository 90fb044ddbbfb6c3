"""What is to be compacted, and when: decisions only, after Kafka's log cleaner.

::

    log start      compacted          cleanable           high watermark       log end
       |---- clean -----|------ dirty ------|-- not yet: lag ---|-- active segment --|

Only closed segments are cleaned, below the high watermark, and none that holds a record younger than
`min.compaction.lag.ms`. It is done when the dirty part is at least `min.cleanable.dirty.ratio` of all that would be
read, or something dirty is older than `max.compaction.lag.ms`, or a tombstone's time has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rayqueue.config.topic import TopicConfig


class SegmentFacts(NamedTuple):
    """A closed segment.

    Attributes:
        base, end: its first offset, and the offset after its last.
        size: bytes.
        oldest_ms, newest_ms: of its records; -1: not known, which counts as old.
        horizon_ms: when the first of its tombstones may go.
    """

    base: int
    end: int
    size: int
    oldest_ms: int
    newest_ms: int
    horizon_ms: int


class Plan(NamedTuple):
    """What to clean: keys from `dirty` on count, and everything below `end` is cleaned. It holds until the log is cut:
    `cuts` is how often it had been."""

    dirty: int
    end: int
    cuts: int = 0


def plan(
    segments: Sequence[SegmentFacts], compacted: int, high_watermark: int, now_ms: int, config: TopicConfig
) -> Plan | None:
    """What is due now.

    Args:
        segments: the closed ones, ascending.
        compacted: below this offset all has been compacted.
    """
    allowed = []
    for one in segments:
        young = config.min_compaction_lag_ms > 0 and now_ms - one.newest_ms < config.min_compaction_lag_ms
        if one.end > high_watermark or (young and one.end > compacted):
            break
        allowed.append(one)
    if not allowed:
        return None
    end = allowed[-1].end
    dirty = [one for one in allowed if one.end > compacted]
    dirty_size = sum(one.size for one in dirty)
    total = sum(one.size for one in allowed)
    overdue = any(now_ms - one.oldest_ms > config.max_compaction_lag_ms for one in dirty)
    tombstones = any(one.horizon_ms <= now_ms for one in allowed if one.end <= compacted)
    if tombstones or (dirty and (overdue or dirty_size >= config.min_cleanable_dirty_ratio * total)):
        return Plan(min(compacted, end), end)
    return None


def groups(segments: Sequence[SegmentFacts], segment_bytes: int) -> list[int]:
    """How many neighbouring segments become one, from the first on: as many as fit `segment.bytes` at their present
    size, so that what was compacted to little does not stay in many small files."""
    counts: list[int] = []
    size = base = 0
    for one in segments:
        if counts and size + one.size <= segment_bytes and one.end - base <= _SPAN_MAX:
            counts[-1] += 1
            size += one.size
        else:
            counts.append(1)
            size, base = one.size, one.base
    return counts


_SPAN_MAX = (1 << 31) - 1  # a batch's last offset stands as a 32-bit distance from its first
