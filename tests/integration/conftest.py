"""What the consumers' tests share: a cluster for each of their modules, and both ways of reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.consumer_cluster import World


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
