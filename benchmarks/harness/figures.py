"""Figures: samples of one quantity, their median and spread, and the goal they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what was measured.
        unit: of the samples.
        samples: a value a repeat, raw.
        goal: what the project asks for, or None.
        higher_is_better: which side of the goal is good.
        note: how to read it, in a few words.
    """

    name: str
    unit: str
    samples: list[float]
    goal: float | None = None
    higher_is_better: bool = True
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The smallest sample."""
        return min(self.samples)

    @property
    def high(self) -> float:
        """The largest sample."""
        return max(self.samples)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.higher_is_better else self.median <= self.goal

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the raw samples with them."""
        return {**asdict(self), "median": self.median, "low": self.low, "high": self.high, "reached": self.reached}


@dataclass
class Outcome:
    """What a workload found: figures, settings that matter to read them, and lines to say."""

    workload: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, unit: str, samples: Sequence[float], **more: Any) -> Figure:
        """Adds a figure; see `Figure` for `more`."""
        figure = Figure(name, unit, [float(sample) for sample in samples], **more)
        self.figures.append(figure)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "workload": self.workload,
            "settings": self.settings,
            "notes": self.notes,
            "figures": [figure.to_dict() for figure in self.figures],
        }


def alternate(sides: Mapping[str, Callable[[], T]], repeats: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Runs the sides in turn, A B A B, so that the machine's moods meet both alike.

    Args:
        sides: what to run, by name.
        repeats: measured rounds.
        warm_up: rounds before, whose results are dropped.

    Returns:
        The results of each side; those of the same index belong to the same round.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(warm_up + repeats):
        for name, run in sides.items():
            result = run()
            if turn >= warm_up:
                results[name].append(result)
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
