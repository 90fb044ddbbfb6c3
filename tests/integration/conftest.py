"""What integration tests share: an admin client of a module's cluster; and the consumers' a cluster for each of their
modules, and both ways of reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayqueue import AdminClient
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.consumer_cluster import World


@pytest.fixture
def admin(cluster: InProcessCluster) -> Iterator[AdminClient]:
    """Of the cluster that the module has as its fixture."""
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with InProcessCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        made = World(cluster)
        yield made
        made.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    yield shared
    shared.close_consumers()


@pytest.fixture(params=[True, False], ids=["mapped", "streamed"])
def mapped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
