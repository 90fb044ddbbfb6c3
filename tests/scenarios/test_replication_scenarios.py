"""The replication scenarios print what their files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.golden import rewritten
from tests.scenarios.replication_words import DIRECTORY, World


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    assert rewritten(path.read_text(), World().run) == path.read_text()
