"""The quorum's golden scenarios say what they said. To change one: `python -m tests.scenarios --rewrite`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.golden import rewritten
from tests.scenarios.quorum_world import World

FILES = sorted((Path(__file__).resolve().parent / "quorum").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    assert rewritten(text, World().run) == text


def test_there_are_scenarios_and_they_have_no_errors() -> None:
    assert len(FILES) >= 8
    assert [path.name for path in FILES if "error:" in path.read_text()] == []


def test_rewriting_shows_what_changed() -> None:
    assert rewritten("# Prose.\n> voters 1\nold output\n\n> show\n", World().run).startswith(
        "# Prose.\n> voters 1\n1 becomes candidate in epoch 2\n1 stores epoch 2, vote for 1\n\n> show\n1:"
    )
    with pytest.raises(ValueError, match="neither"):
        rewritten("output of nothing\n", World().run)
    assert World().run("1 sings")[0].startswith("error:")
