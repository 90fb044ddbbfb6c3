"""A node comes back with a coordinator's directory whose number another copy has by now: `start` takes that one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import rayqueue
from rayqueue.actors.metadata_copies import read_copy
from rayqueue.actors.nodes import NodeReport, alive_nodes, cluster_on_disk, default_python_path, probe
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.waiting import eventually

WAIT_S = 60.0


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def votes(cluster: InProcessCluster) -> set[Voter]:
    return set(cluster.coordinator.quorum.membership.voters)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("on_ray")
def test_of_two_copies_of_a_number_the_one_that_votes_is_started(tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    with InProcessCluster(here, brokers=3, coordinators=3) as cluster:
        eventually(lambda: len(votes(cluster)) == 3, WAIT_S)
        lost = next(i for i, one in cluster.coordinators.items() if not one.active)
        old = next(voter for voter in votes(cluster) if voter.broker_id == lost)
        cluster.stop_coordinator(lost)
        back.mkdir()
        shutil.move(here / f"coordinator-{lost}", back)
        cluster.start_coordinator(lost)
        eventually(lambda: len(votes(cluster)) == 3 and old not in votes(cluster), WAIT_S, "the new copy votes")
        (new,) = (voter for voter in votes(cluster) if voter.broker_id == lost)
        assert read_copy(str(here), lost).me == new, "also while it is in use"
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("later")
    assert read_copy(str(back), lost).me == old

    reports = [found(here), found(back)]
    assert reports[1].directories == {lost: old.directory_id}
    for some in (reports, reports[::-1]):
        cluster_id, copies = cluster_on_disk(some, default_python_path())
        assert cluster_id and {number: one.data_dir for number, one in copies.items()} == dict.fromkeys(
            range(3), str(here)
        )
    (only,) = cluster_on_disk([reports[1]])[1].values()
    assert only.data_dir == str(back)


def found(data_dir: Path) -> NodeReport:
    """What `start` finds on a node with this data directory."""
    (report,) = probe(alive_nodes(), str(data_dir), default_python_path())
    return report
