"""What all tests share: the order they run in, hypothesis profiles, and an environment of their own.

`RAYQUEUE_SOAK=n` (make soak) multiplies hypothesis' examples; tests with loops of their own take the `soak` fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

SOAK = max(1, int(os.environ.get("RAYQUEUE_SOAK", "1")))

# Tests share two cores with whatever else runs: a slow example is no failure, so there is no deadline.
settings.register_profile(
    "rayqueue",
    deadline=None,
    max_examples=100 * SOAK,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("rayqueue")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a broken unit is seen before a Ray cluster is started for it."""

    def cost(item: pytest.Item) -> int:
        if item.get_closest_marker("slow"):
            return 3
        if item.get_closest_marker("integration") or "integration" in item.path.parts:
            return 2
        return 0 if "unit" in item.path.parts else 1

    items.sort(key=cost)


@pytest.fixture
def soak() -> int:
    """How many times longer than usual a test with a loop of its own should run."""
    return SOAK


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the developer's settings gets in, and no data is written to their home directory."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAYQUEUE_TOKEN", "RAYQUEUE_LOG", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("RAYQUEUE_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield
