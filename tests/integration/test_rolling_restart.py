"""A rolling restart of a cluster on Ray, while records are produced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.cluster import Cluster, restart, start, status
from rayqueue.errors import ConfigError
from tests.integration.test_controlled_shutdown import Steady
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WAIT_S = 60.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Cluster]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with start(brokers=3, data_dir=tmp_path, config={"num.replica.actors": 1}) as cluster:
            yield cluster
    finally:
        ray.shutdown()


def test_brokers_are_restarted_one_after_the_other_and_nobody_notices(running: Cluster) -> None:
    servers = running.bootstrap_servers
    with rayqueue.AdminClient(bootstrap_servers=servers) as admin:
        admin.create_topic("t", 3, replication_factor=3)
        wanted = [p.leader for p in admin.describe_topic("t").partitions]
        eventually(lambda: all(p.state == "running" for p in status().processes), WAIT_S, "also those that stand by")
        pids = {p.pid for p in status().processes}
        load = Steady(servers)
        with load.running():
            load.more(50)
            assert restart(timeout_s=90) == [0, 1, 2]
            load.more(50)
        assert [p.leader for p in admin.describe_topic("t").partitions] == wanted, "leaders have gone back"
        with pytest.raises(ConfigError, match="no broker 7"):
            restart(brokers=[7])
    eventually(lambda: all(p.state == "running" for p in status().processes), WAIT_S, "also those that stand by")
    after = status()
    assert after.healthy and after.bootstrap_servers == servers
    assert len(after.processes) == len(pids) and not pids & {p.pid for p in after.processes}, "all are other processes"
    with rayqueue.Consumer("t", bootstrap_servers=servers, auto_offset_reset="earliest", stop_at="latest") as consumer:
        assert sorted(int(message.value) for message in consumer) == list(range(len(load.acked)))
    assert load.longest_gap_s() < 2.0
