"""What a partition knows of producers whose records are deleted, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.replication import events as ev
from rayqueue.replication.limits import Limits
from rayqueue.replication.producer_state import Duplicate, ProducerStates
from rayqueue.storage.log import Log
from tests.unit.actors.test_cutting import ME, OTHER, Hands, assignment
from tests.unit.storage.harness import FastFiles, batch, config

FIRST, SECOND = (7, 0, 0), (8, 0, 0)  # producer id, epoch, sequence
WEEK_MS = 7 * 86_400_000


def opened(directory: Path) -> HostedPartition:
    """A process that has started on what the disk holds."""
    return HostedPartition(
        FastFiles(),
        directory,
        topic="t",
        topic_id=b"t" * 16,
        partition=0,
        schema=DEFAULT_SCHEMA,
        columns=None,
        config=config(),
        broker_id=ME,
        alone=True,
        limits=Limits(10_000, 100),
        wall_ms=0,
        max_batch_bytes=1 << 20,
        hands=Hands(),  # type: ignore[arg-type]
    )


def filled(directory: Path) -> Log:
    """A batch of each of two producers."""
    log = Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config())
    log.append([batch(0, 2, producer=FIRST)], 0)
    log.append([batch(2, 2, producer=SECOND)], 0)
    return log


def deleted(partition: HostedPartition, offset: int) -> None:
    """A user deletes records."""
    partition.assign(assignment(ME, 5), None, 0, 0)
    partition.delete_before(offset, 0, 0)


def expired(partition: HostedPartition, offset: int) -> None:
    """All are too old, also those of the active segment."""
    partition.assign(assignment(ME, 5), None, 0, 0)
    partition.retain(0, 2 * WEEK_MS, 4 * WEEK_MS)


def followed(partition: HostedPartition, offset: int) -> None:
    """The leader has deleted them."""
    partition.assign(assignment(OTHER, 5), None, 0, 0)
    partition.step(ev.Fed(5, [], [], 4, offset), 0, 0)


@pytest.mark.parametrize(("delete", "start"), [(deleted, 4), (deleted, 3), (expired, 4), (followed, 4)])
def test_a_restarted_replica_recognises_batches_that_are_deleted(
    tmp_path: Path, delete: Callable[[HostedPartition, int], None], start: int
) -> None:
    directory = tmp_path / "p"
    filled(directory).close()
    partition = opened(directory)
    delete(partition, start)
    assert partition.log.log_start_offset == start
    partition.log.close()
    producers = opened(directory).replica.producers
    assert producers.check(*FIRST, 2) == Duplicate(0, 1, 1_001)
    assert producers.check(*SECOND, 2) == Duplicate(2, 3, 1_001)
    assert producers.check(7, 0, 2, 1) is None


def test_a_follower_that_cuts_all_it_has_keeps_what_it_knew_of_what_was_deleted_before(tmp_path: Path) -> None:
    filled(tmp_path / "p").close()
    partition = opened(tmp_path / "p")
    deleted(partition, 2)
    partition.assign(assignment(OTHER, 6), None, 0, 0)
    event = partition.cut(ev.Truncate(2))
    assert isinstance(event, ev.Truncated) and (event.log_start, event.log_end) == (2, 2)
    assert event.producers.check(*FIRST, 2) == Duplicate(0, 1, 1_001)
    assert event.producers.check(*SECOND, 2) is None
    event = partition.cut(ev.ResetLog(9))
    assert isinstance(event, ev.Truncated) and len(event.producers) == 0


def test_a_snapshot_from_before_the_start_does_not_count(tmp_path: Path) -> None:
    """Disk full when records were deleted: the producer may have written what is deleted, and go on after it."""
    log = filled(tmp_path / "p")
    states = ProducerStates()
    states.replay([batch(0, 2, producer=FIRST)[0]], 0)
    log.write_snapshot(2, states.dump())
    log.append([batch(4, 2, producer=(7, 0, 2))], 0)
    log.delete_before(6)
    log.close()
    assert opened(tmp_path / "p").replica.producers.check(7, 0, 4, 1) is None
