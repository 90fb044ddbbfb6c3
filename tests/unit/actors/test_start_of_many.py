"""A replica actor that comes back to more partitions than a batch of metadata has records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayqueue import AdminClient
from rayqueue.actors import partition_table, published_log
from rayqueue.replication import events as ev
from rayqueue.testing.inprocess import InProcessCluster

PARTITIONS = 40


def test_nothing_is_led_under_the_leader_epoch_of_the_process_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registration and the new leader epochs are one command; read in halves it would be led under the old ones."""
    monkeypatch.setattr(published_log, "BATCH_RECORDS_MAX", PARTITIONS // 4)
    told: list[tuple[int, int]] = []
    hosted = partition_table.HostedPartition

    class Noted(hosted):  # type: ignore[misc, valid-type]
        """Notes under which epochs each partition is told to lead."""

        def assign(self, assignment: ev.Assignment, *more: Any) -> None:
            told.append((self.partition, assignment.leader_epoch))
            super().assign(assignment, *more)

    with InProcessCluster(tmp_path) as cluster, AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        admin.create_topic("many", PARTITIONS)
        cluster.stop_replica(0)
        monkeypatch.setattr(partition_table, "HostedPartition", Noted)
        cluster.start_replica(0)
        found = admin.describe_topic("many").partitions
    assert sorted(told) == [(number, 1) for number in range(PARTITIONS)]
    assert [partition.leader_epoch for partition in found] == [1] * PARTITIONS
