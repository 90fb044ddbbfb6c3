"""Unit tests run without Ray: an import of it inside one fails there, however deep it hides."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import ray` raises ModuleNotFoundError ("import of ray halted"), also when another test has imported it."""
    monkeypatch.setitem(sys.modules, "ray", None)
