"""Figures: samples of one quantity, their median and spread, and the goals they are held against."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from benchmarks.goals import RATIO, Goal

__all__ = ["RATIO", "Figure", "Outcome", "alternate", "ratios"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


# Of the rounds, those that must reach a goal, beside their median: a verdict is not to hang on noise.
ROUNDS_SHARE = 0.8


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what was measured.
        unit: of the samples; a ratio has the unit "ratio".
        samples: a value a repeat, raw.
        goal: what it is held against, or None: a row of `benchmarks.goals`.
        higher_is_better: which side of a goal is good.
        note: how to read it, in a few words.
        side: whose figure it is: a system's name, or "ratio".
        pooled: of all rounds together, where one round has too few samples to say it, such as a p99; or None.
    """

    name: str
    unit: str
    samples: list[float]
    goal: Goal | None = None
    higher_is_better: bool = True
    note: str = ""
    side: str = "rayqueue"
    pooled: float | None = None

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def value(self) -> float:
        """What the table shows and goals are held against: of all rounds together, else their median."""
        return self.median if self.pooled is None else self.pooled

    @property
    def low(self) -> float:
        """The smallest sample."""
        return min(self.samples)

    @property
    def high(self) -> float:
        """The largest sample."""
        return max(self.samples)

    @property
    def must(self) -> float | None:
        """What the project asks for, or None. A run passes when every `must` is reached."""
        return None if self.goal is None else self.goal.must

    @property
    def aim(self) -> float | None:
        """What it hopes for, or None."""
        return None if self.goal is None else self.goal.aim

    @property
    def must_reached(self) -> bool | None:
        """Whether the value reaches `must`, and four of five rounds do; None without one."""
        return self._reaches(self.must)

    @property
    def aim_reached(self) -> bool | None:
        """Whether the value reaches `aim`, and four of five rounds do; None without one."""
        return self._reaches(self.aim)

    @property
    def undecided(self) -> bool:
        """Whether the value reaches `must` and too few rounds do: which is missed, too."""
        return self.must is not None and self.must_reached is False and self._good(self.value, self.must)

    def _reaches(self, goal: float | None) -> bool | None:
        if goal is None:
            return None
        rounds = sum(self._good(sample, goal) for sample in self.samples)
        return self._good(self.value, goal) and rounds >= math.ceil(ROUNDS_SHARE * len(self.samples))

    def _good(self, value: float, goal: float) -> bool:
        return value >= goal if self.higher_is_better else value <= goal

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the raw samples with them."""
        plain = {**asdict(self), "goal": None if self.goal is None else self.goal.key}
        reached = {"must_reached": self.must_reached, "aim_reached": self.aim_reached, "undecided": self.undecided}
        goals = {"must": self.must, "aim": self.aim}
        found = {"value": self.value, "median": self.median, "low": self.low, "high": self.high}
        return {**plain, **goals, **found, **reached}


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
        goal: Goal | None = None,
        higher_is_better: bool = True,
        note: str = "",
        side: str = "rayqueue",
        pooled: float | None = None,
    ) -> Figure:
        """Adds a figure; see `Figure`. With a goal that decides which side is good, and the unit has to be its own."""
        if goal is not None:
            if goal.unit != unit:
                raise ValueError(f"the goal {goal.key} is in {goal.unit}, {name} in {unit}")
            higher_is_better = goal.higher_is_better
        raw = [float(sample) for sample in samples]
        figure = Figure(name, unit, raw, goal, higher_is_better, note, side, pooled)
        self.figures.append(figure)
        return figure

    def ratio(
        self,
        name: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        goal: Goal | None = None,
        higher_is_better: bool = True,
        note: str = "",
        pooled: float | None = None,
    ) -> Figure:
        """Adds the ratio of the two in each round; with a goal it decides whether the run passes."""
        return self.add(name, RATIO, ratios(ours, theirs), goal, higher_is_better, note, RATIO, pooled)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "workload": self.workload,
            "settings": self.settings,
            "notes": self.notes,
            "figures": [figure.to_dict() for figure in self.figures],
        }


def alternate(
    sides: Mapping[K, Callable[[], T]], repeats: int, warm_up: int = 1, between: Callable[[], None] | None = None
) -> dict[K, list[T]]:
    """Runs the sides in turn, so that the machine's moods meet all alike: A B C, B C A, C A B, ...

    Args:
        sides: what to run, by name or any other key.
        repeats: measured rounds.
        warm_up: rounds before, whose results are dropped.
        between: called after each run: what a side left behind is not to cost the next one.

    Returns:
        The results of each side; those of the same index belong to the same round.
    """
    results: dict[K, list[T]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(warm_up + repeats):
        for name in order:
            result = sides[name]()
            if turn >= warm_up:
                results[name].append(result)
            if between is not None:
                between()
        order.append(order.pop(0))
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
