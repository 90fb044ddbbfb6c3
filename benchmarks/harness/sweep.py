"""Sweeps: which settings suit a system best, found by trying each in a short run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from benchmarks.harness.system import System

Measure: TypeAlias = Callable[[dict[str, Any]], float]


class Sweeps:
    """What was tried, and what came out; each is tried once in a run.

    Attributes:
        found: "system role key" → label of the tuning → what was measured with it.
        on_the_way: what was measured on the way for a sweep to come, by a name the workload chooses.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.on_the_way: dict[str, float] = {}

    def best(
        self, system: System, role: str, measure: Measure, higher_is_better: bool = True, key: str = ""
    ) -> tuple[str, dict[str, Any]]:
        """The label and arguments of the best tuning; see `Bench.sweep`."""
        tunings = system.tunings.get(role) or {"default": {}}
        if len(tunings) == 1:
            return next(iter(tunings.items()))
        name = " ".join(filter(None, (system.name, role, key)))
        if name not in self.found:
            self.found[name] = {label: measure(dict(tuning)) for label, tuning in tunings.items()}
        measured = self.found[name]
        label = (max if higher_is_better else min)(measured, key=lambda one: measured[one])
        return label, dict(tunings[label])
