"""The coordinator that founded a cluster loses its directory: on Ray, which starts it again as it was started first."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.cluster import start, status
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BACK_S = 60.0


@pytest.fixture
def one_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_founder_that_lost_its_directory_joins_the_cluster_it_founded(one_ray: None, tmp_path: Path) -> None:
    """Ray starts it again as it was started at first: to found a cluster."""
    settings = {"num.replica.actors": 1, "num.standby.replica.actors": 0}
    with start("founded", brokers=3, data_dir=tmp_path, config=settings) as cluster:
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("kept")
        before = cluster.status()
        (founder,) = [p for p in before.processes if p.coordinator_id == 0]
        shutil.rmtree(founder.data_dir)
        os.kill(founder.pid, signal.SIGKILL)
        eventually(
            lambda: status("founded").coordinator.pid not in (0, founder.pid), BACK_S, "another active coordinator"
        )
        again = start("founded", brokers=3)
        assert again.cluster_id == cluster.cluster_id
        eventually(lambda: status("founded").voters == [0, 1, 2], BACK_S, "three voters")
        eventually(lambda: status("founded").healthy, BACK_S, "a healthy cluster")
        seen = status("founded")
        assert seen.cluster_id == before.cluster_id
        assert [topic.name for topic in seen.topics] == ["kept"]
        assert [p.broker_id for p in seen.brokers] == [0, 1, 2]
