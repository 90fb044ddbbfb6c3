"""Figures: samples of one quantity, their median and spread, and the goals they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


RATIO = "ratio"


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what was measured.
        unit: of the samples; a ratio has the unit "ratio".
        samples: a value a repeat, raw.
        must: what the project asks for, or None. A run passes when every `must` is reached.
        aim: what it hopes for, or None.
        higher_is_better: which side of a goal is good.
        note: how to read it, in a few words.
        side: whose figure it is: a system's name, or "ratio".
    """

    name: str
    unit: str
    samples: list[float]
    must: float | None = None
    aim: float | None = None
    higher_is_better: bool = True
    note: str = ""
    side: str = "rayqueue"

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
    def must_reached(self) -> bool | None:
        """Whether the median reaches `must`; None without one."""
        return self._reaches(self.must)

    @property
    def aim_reached(self) -> bool | None:
        """Whether the median reaches `aim`; None without one."""
        return self._reaches(self.aim)

    def _reaches(self, goal: float | None) -> bool | None:
        if goal is None:
            return None
        return self.median >= goal if self.higher_is_better else self.median <= goal

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the raw samples with them."""
        reached = {"must_reached": self.must_reached, "aim_reached": self.aim_reached}
        return {**asdict(self), "median": self.median, "low": self.low, "high": self.high, **reached}


@dataclass
class Outcome:
    """What a workload found.

    Attributes:
        workload: its name, such as "w1".
        figures: in the order of the table.
        settings: what one must know to read them, as JSON can carry it.
        notes: lines to say below the table.
    """

    workload: str
    figures: list[Figure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[Figure]:
        """The figures that do not reach their `must`."""
        return [figure for figure in self.figures if figure.must_reached is False]

    def add(
        self,
        name: str,
        unit: str,
        samples: Sequence[float],
        must: float | None = None,
        aim: float | None = None,
        higher_is_better: bool = True,
        note: str = "",
        side: str = "rayqueue",
    ) -> Figure:
        """Adds a figure; see `Figure`."""
        raw = [float(sample) for sample in samples]
        figure = Figure(name, unit, raw, must, aim, higher_is_better, note, side)
        self.figures.append(figure)
        return figure

    def ratio(
        self,
        name: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        must: float | None = None,
        aim: float | None = None,
        higher_is_better: bool = True,
        note: str = "",
    ) -> Figure:
        """Adds the ratio of the two in each round; with `must` it decides whether the run passes."""
        return self.add(name, RATIO, ratios(ours, theirs), must, aim, higher_is_better, note, RATIO)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "workload": self.workload,
            "settings": self.settings,
            "notes": self.notes,
            "figures": [figure.to_dict() for figure in self.figures],
        }


def alternate(sides: Mapping[K, Callable[[], T]], repeats: int, warm_up: int = 1) -> dict[K, list[T]]:
    """Runs the sides in turn, A B A B, so that the machine's moods meet both alike.

    Args:
        sides: what to run, by name or any other key.
        repeats: measured rounds.
        warm_up: rounds before, whose results are dropped.

    Returns:
        The results of each side; those of the same index belong to the same round.
    """
    results: dict[K, list[T]] = {name: [] for name in sides}
    for turn in range(warm_up + repeats):
        for name, run in sides.items():
            result = run()
            if turn >= warm_up:
                results[name].append(result)
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
