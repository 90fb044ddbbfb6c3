"""Sweeps: which settings suit a system, found by trying each in some short runs, in turns.

Short runs err. What a sweep finds are candidates: a workload runs the best two of them at full length, beside the
default, and its own rounds say which is called best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias

from benchmarks.harness.figures import alternate
from benchmarks.harness.system import System

# Runs of each tuning, of which the best counts: a stall of the machine must not choose.
TRIES = 2

Measure: TypeAlias = Callable[[], float]
# Makes ready what a tuning is measured with, until the stack closes; a measure for each key.
Open: TypeAlias = Callable[[ExitStack, dict[str, Any]], Mapping[str, Measure]]


class Sweeps:
    """What was tried, and what came out; each is tried once in a run.

    Attributes:
        found: "system role key" → label of the tuning → what was measured with it.
        settled: the same name → the label that full rounds have found to be the best.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.settled: dict[str, str] = {}

    def ranked(
        self, system: System, role: str, opened: Open, key: str, between: Callable[[], None] | None = None
    ) -> list[str]:
        """The labels of the system's tunings, the best (the highest) first; see `Bench.sweep`."""
        tunings = system.tunings.get(role) or {"default": {}}
        name = sweep_name(system, role, key)
        if len(tunings) > 1 and name not in self.found:
            self._make(system, role, tunings, opened, between)
        measured = self.found.get(name, dict.fromkeys(tunings, 0.0))
        best_first = sorted(tunings, key=lambda label: -measured[label])
        settled = self.settled.get(name, best_first[0])
        return [settled, *(label for label in best_first if label != settled)]

    def _make(
        self,
        system: System,
        role: str,
        tunings: Mapping[str, dict[str, Any]],
        opened: Open,
        between: Callable[[], None] | None,
    ) -> None:
        with ExitStack() as stack:
            measures = {
                (sweep_name(system, role, key), label): measure
                for label, tuning in tunings.items()
                for key, measure in opened(stack, dict(tuning)).items()
            }
            for (name, label), samples in alternate(measures, TRIES, 0, between).items():
                self.found.setdefault(name, {})[label] = max(samples)


def sweep_name(system: System, role: str, key: str) -> str:
    """What a sweep is called in the results."""
    return " ".join(filter(None, (system.name, role, key)))
