"""What retention takes: decisions only, in whole segments from the oldest on.

* `retention.ms`: a segment whose newest record is older goes, the active one too.
* `retention.bytes`, `retention.records`: the oldest segment goes while what remains is not below the limit. So at least
  that much is kept, and at most a segment more. Lest that be a whole large segment, the active one is closed when it
  holds a quarter of the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayqueue.config.topic import TopicConfig
from rayqueue.storage.segment import NO_TIMESTAMP, Segment

_PARTS = 4  # segments that a limit is spread over, at least


def expired(segments: Sequence[Segment], config: TopicConfig, now_ms: int, high_watermark: int, start: int) -> int:
    """How many of the segments, from the oldest on, are to be deleted.

    Args:
        now_ms: wall clock, ms.
        high_watermark: nothing at or above it is deleted.
        start: the log start offset; records below it count as gone.
    """
    if not config.deleted:
        return 0
    size = sum(segment.extent.size for segment in segments)
    records = segments[-1].next_offset - start if segments else 0
    for i, segment in enumerate(segments):
        if segment.next_offset > high_watermark or not segment.extent.entries:
            return i
        held = segment.next_offset - max(start, segment.base_offset)
        by_time = _older(segment, now_ms, config.retention_ms)
        by_size = 0 <= config.retention_bytes <= size - segment.extent.size
        by_count = 0 <= config.retention_records <= records - held
        if not (by_time or by_size or by_count):
            return i
        size -= segment.extent.size
        records -= held
    return len(segments)


def _older(segment: Segment, now_ms: int, retention_ms: int) -> bool:
    if retention_ms < 0:
        return False
    newest = segment.largest_timestamp()
    # Records without a time (negative) count from when they were appended, as far as that is known.
    newest = newest if newest >= 0 else segment.created_ms
    return newest != NO_TIMESTAMP and now_ms - newest > retention_ms


def wants_roll(active: Segment, config: TopicConfig, now_ms: int) -> bool:
    """Whether the active segment is so large a part of what may be kept that it should be closed, or has waited for
    compaction as long as it may."""
    if not active.extent.entries:
        return False
    if (
        config.compacted
        and active.created_ms != NO_TIMESTAMP
        and now_ms - active.created_ms > config.max_compaction_lag_ms
    ):
        return True
    if not config.deleted:
        return False
    records = active.next_offset - active.base_offset
    by_count = config.retention_records >= 0 and records * _PARTS >= config.retention_records
    by_size = config.retention_bytes >= 0 and active.extent.size * _PARTS >= config.retention_bytes
    return by_count or by_size


def epochs_from(epochs: Sequence[tuple[int, int]], start: int) -> list[tuple[int, int]]:
    """The leader epochs of a log that starts at `start`. Of those before it only the last one is kept, as that of the
    record before the start: by it an emptied log still tells whether another one ever held what is deleted here."""
    kept = [(epoch, first) for epoch, first in epochs if first >= start]
    before = [epoch for epoch, first in epochs if first < start]
    return [(before[-1], start - 1), *kept] if before else kept
