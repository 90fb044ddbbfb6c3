"""Settings of the metadata quorum: every time and every bound has its name here."""

from __future__ import annotations

from dataclasses import dataclass

from rayqueue.errors import ConfigError


@dataclass(frozen=True)
class QuorumConfig:
    """Times and bounds of one quorum node; all nodes should have the same.

    Attributes:
        election_timeout_ms_min, election_timeout_ms_max: silence of the leader after which a voter stands for
            election is drawn from between them. Below the first a voter helps nobody else to replace the leader; a
            leader that has not heard a majority for the second steps down.
        beat_ms: how often a leader that has nothing to say says so.
        voters_max, learners_max: size of a membership.
        entry_bytes_max: largest payload of a proposal.
        append_entries_max, append_bytes_max: of one append message (one entry always fits).
        inflight_max: append messages under way to one peer.
        uncommitted_entries_max, uncommitted_bytes_max: proposals beyond them are refused: back-pressure.
        reads_max: linearizable reads that wait.
        promises_max: answers that wait for the disk; beyond, the oldest are dropped as if the network had lost them.
        snapshot_after_entries, snapshot_after_bytes: log since the last snapshot at which the next is asked for.
        kept_entries: log kept below a snapshot, for followers that are a little behind.
        snapshot_chunk_bytes: of one snapshot message. snapshot_bytes_max: largest snapshot that is accepted.
    """

    election_timeout_ms_min: int = 600
    election_timeout_ms_max: int = 1_000
    beat_ms: int = 200
    voters_max: int = 5
    learners_max: int = 5
    entry_bytes_max: int = 8 * 1024 * 1024
    append_entries_max: int = 1_024
    append_bytes_max: int = 1024 * 1024
    inflight_max: int = 8
    uncommitted_entries_max: int = 4_096
    uncommitted_bytes_max: int = 64 * 1024 * 1024
    reads_max: int = 4_096
    promises_max: int = 256
    snapshot_after_entries: int = 10_000
    snapshot_after_bytes: int = 16 * 1024 * 1024
    kept_entries: int = 1_000
    snapshot_chunk_bytes: int = 256 * 1024
    snapshot_bytes_max: int = 1024 * 1024 * 1024

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (0 if name == "kept_entries" else 1):
                raise ConfigError(f"{name} is {value}: it must be positive")
        if not self.beat_ms < self.election_timeout_ms_min < self.election_timeout_ms_max:
            raise ConfigError("beat_ms < election_timeout_ms_min < election_timeout_ms_max does not hold")
