"""A follower's log that is cut back, off the loop: what waits meanwhile, and a disk that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.errors import StorageError
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.replication import events as ev
from rayqueue.replication.limits import Limits
from rayqueue.storage.files import OsFiles
from rayqueue.storage.log import Log
from tests.unit.storage.harness import FastFiles, FullDisk, batch, config, expected, fill, values

ME, OTHER = 1, 2


class Hands:
    """Notes what the partition asks for; a cut is performed when the test says so."""

    def __init__(self) -> None:
        self.cuts: list[Any] = []
        self.asked: list[tuple[str, Any]] = []

    def cut(self, partition: HostedPartition, effect: Any) -> None:
        self.cuts.append(effect)

    def timed(self, partition: HostedPartition) -> None:
        """At each step; the machine itself is asked for its deadline."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.asked.append((name, args[1] if len(args) > 1 else None))


def assignment(leader: int, epoch: int) -> ev.Assignment:
    return ev.Assignment(leader, epoch, epoch, [ME, OTHER], [leader], {ME: "1a", OTHER: "2a"})


class Rig:
    """A follower with ten batches of three records of epoch 0, whose leader's log parts from it at offset 17."""

    def __init__(self, directory: Path, files: OsFiles) -> None:
        settings = config(segment_bytes=4096)
        log = Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, settings)
        fill(log, 10, count=3)
        log.close()
        self.hands = Hands()
        self.now_ms = 1_000
        self.partition = HostedPartition(
            files,
            directory,
            topic="t",
            topic_id=b"t" * 16,
            partition=0,
            schema=DEFAULT_SCHEMA,
            columns=None,
            config=settings,
            broker_id=ME,
            alone=False,
            limits=Limits(10_000, 100),
            wall_ms=0,
            max_batch_bytes=1 << 20,
            hands=self.hands,  # type: ignore[arg-type]
        )
        self.assign(OTHER, 5)

    def assign(self, leader: int, epoch: int) -> None:
        self.partition.assign(assignment(leader, epoch), None, self.now_ms, 0)

    def step(self, event: ev.Event) -> None:
        self.partition.step(event, self.now_ms, 0)

    def diverge(self) -> None:
        """The leader says where."""
        self.step(ev.Diverged(self.partition.replica.leader_epoch, 0, 17))

    def perform(self) -> Any:
        """What the thread does, and what comes of it."""
        event = self.partition.cut(self.hands.cuts.pop())
        self.partition.cut_done(event, self.now_ms, 0)
        return event


def test_the_loop_goes_on_while_a_log_is_cut(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "p", FastFiles())
    rig.diverge()
    assert rig.hands.cuts == [ev.Truncate(17)]
    assert rig.partition.log.log_end_offset == 30, "nothing is done on the loop"
    rig.partition.retain(rig.now_ms, 0, 1_000)
    assert isinstance(rig.perform(), ev.Truncated)
    assert values(rig.partition.log) == expected(0, 15)
    assert rig.hands.asked[-1] == ("follow", ev.Follow(OTHER, 5, 15, 0))


def test_what_is_assigned_meanwhile_counts_when_the_log_is_cut_and_of_several_the_last(tmp_path: Path) -> None:
    """A machine that led with a log that another thread is cutting would give offsets that are about to go."""
    rig = Rig(tmp_path / "p", FastFiles())
    rig.diverge()
    rig.assign(OTHER, 6)
    rig.assign(ME, 7)
    assert not rig.partition.leading and rig.partition.replica.leader_epoch == 5
    rig.perform()
    assert rig.partition.leading and rig.partition.replica.leader_epoch == 7
    assert rig.partition.replica.log_end == rig.partition.log.log_end_offset == 15


def test_a_full_disk_while_a_log_is_cut_costs_time_and_nothing_else(tmp_path: Path) -> None:
    files = FullDisk()
    rig = Rig(tmp_path / "p", files)
    files.room = 0
    for _ in range(3):
        rig.diverge()
        assert isinstance(rig.perform(), ev.CutFailed)
        assert rig.partition.log.online and not rig.partition.replica.offline
        assert values(rig.partition.log) == expected(0, 30)
        rig.now_ms += 100
        rig.step(ev.Tick())
        assert rig.hands.asked[-1] == ("follow", ev.Follow(OTHER, 5, 30, 0)), "it asks again"
    files.room = None
    rig.diverge()
    rig.perform()
    assert values(rig.partition.log) == expected(0, 15)


def test_a_disk_that_fails_while_a_log_is_cut_takes_the_replica_offline(tmp_path: Path) -> None:
    class Failing(FastFiles):
        failing = False

        def replace(self, source: str, target: str) -> None:
            if self.failing and target.endswith(".index"):
                raise OSError(5, "Input/output error")
            super().replace(source, target)

    files = Failing()
    rig = Rig(tmp_path / "p", files)
    rig.diverge()
    files.failing = True
    with pytest.raises(StorageError) as failure:
        rig.partition.cut(rig.hands.cuts.pop())
    rig.assign(ME, 6)
    rig.partition.cut_done(ev.LogFailed(str(failure.value)), rig.now_ms, 0)
    assert "offline" in rig.partition.replica.offline and not rig.partition.leading
    assert rig.hands.asked[-1] == ("resign", ev.Resign(6)), "it was elected meanwhile, and cannot lead"


def test_a_partition_that_is_dropped_meanwhile_hears_nothing_of_its_cut(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "p", FastFiles())
    rig.diverge()
    rig.partition.resign("UnknownTopicOrPartition", "the topic has been deleted", delete=True)
    asked = list(rig.hands.asked)
    with pytest.raises(StorageError, match="closed"):
        rig.partition.cut(rig.hands.cuts.pop())
    rig.partition.cut_done(ev.LogFailed("closed"), rig.now_ms, 0)
    assert rig.hands.asked == asked and not (tmp_path / "p").exists()


def test_records_that_a_follower_cannot_delete_on_a_full_disk_are_deleted_with_retention(tmp_path: Path) -> None:
    files = FullDisk()
    rig = Rig(tmp_path / "p", files)
    rig.step(ev.Fed(5, [], [], 30, 0))
    files.room = 0
    rig.step(ev.Fed(5, [], [], 30, 20))
    partition = rig.partition
    assert partition.replica.log_start == 20 > partition.log.log_start_offset and partition.log.online
    assert not partition.replica.offline
    files.room = None
    partition.retain(rig.now_ms, 0, 1_000)
    assert partition.log.log_start_offset == 20
    one = batch(30, epoch=5)
    rig.step(ev.Fed(5, [one.entry], [one], 30, 20))
    assert partition.dirty
