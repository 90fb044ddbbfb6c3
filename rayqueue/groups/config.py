"""Bounds and times of the group coordinators."""

from __future__ import annotations

from dataclasses import dataclass

# Longest group, member and instance id, as of a topic's name.
ID_CHARS_MAX = 249


@dataclass(frozen=True)
class GroupConfig:
    """Times are ms of the boot clock, but `offsets_retention_ms`, which is of the wall clock.

    Attributes:
        heartbeat_interval_ms: told to members; one whose session is short is told a third of that.
        disconnect_grace_ms: what is left of a member's session once its exchange ended; -1: all of it.
        assignment_interval_ms: from one target assignment of a group to the next at least: members that come together
            are counted in together. The first one waits for nothing.
        behind_warn_ms: a member that has not given up for so long what it was asked for is warned of, once.
        stalled_ms: a deadline noticed so late means that the process stood still, and heard nobody.
        stall_grace_ms: what every session has at least after that, and after a shard was taken over.
        offsets_retention_ms: offsets are kept so long after their group became empty.
        upkeep_interval_ms: how often is looked for those, and for groups that have nothing left.
        absent_topic_ms: how long a topic must be absent before its offsets go, unless its end was seen: who has just
            taken over a shard may know of fewer topics yet than its predecessor did.
        metadata_bytes_max: of the string that is committed with an offset.
    """

    heartbeat_interval_ms: int = 5_000
    disconnect_grace_ms: int = 3_000
    assignment_interval_ms: int = 200
    behind_warn_ms: int = 60_000
    stalled_ms: int = 1_000
    stall_grace_ms: int = 10_000
    offsets_retention_ms: int = 7 * 24 * 3600 * 1000
    upkeep_interval_ms: int = 600_000
    absent_topic_ms: int = 60_000
    metadata_bytes_max: int = 4096
