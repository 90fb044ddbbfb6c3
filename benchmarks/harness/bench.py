"""What a workload is given: the systems, how long and how often, and the means to start load."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from rich.console import Console

from benchmarks.harness.accounting import CpuMeter, MachineMeter
from benchmarks.harness.figures import alternate
from benchmarks.harness.loads import Anew, Load, ProcessLoad, path_of
from benchmarks.harness.sweep import Open, Sweeps
from benchmarks.harness.system import System

FEW_ROUNDS = 3
MB = 1e6
GB = 1e9

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
StartLoad: TypeAlias = Callable[..., Load]


@dataclass(frozen=True)
class Scale:
    """How much of everything: bounded in time and in bytes.

    Attributes:
        seconds: of one measurement.
        sweep_seconds: of all measurements of a tuning in a sweep.
        repeats: of each, after `warm_up`.
        bytes_max: written by one measurement, and the size of a log that is read.
        rows_max: records that one measurement of single rows produces.
        partitions: idle ones, each round.
        sync: whether the disk is to be calm before each side's turn (sync(2)).
    """

    seconds: float = 1.0
    sweep_seconds: float = 0.5
    repeats: int = 5
    warm_up: int = 1
    bytes_max: int = 512 << 20
    rows_max: int = 2_000_000
    partitions: int = 1000
    sync: bool = True


@dataclass
class Bench:
    """A run's surroundings.

    Attributes:
        systems: rayqueue first, then the peers that were started.
        directory: for what baselines write; on the same file system as the systems' data.
        start_load: makes a load from class, label and arguments: `ProcessLoad`, or the object itself in tests.
        console: for progress.
        sweeps: what sweeps have found.
        turns: what the machine was doing in each side's turn, one after the other; see `MachineMeter.look`.
    """

    systems: list[System]
    directory: Path
    scale: Scale
    start_load: StartLoad = ProcessLoad
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    sweeps: Sweeps = field(default_factory=Sweeps)
    turns: list[tuple[float, float, float]] = field(default_factory=list)
    _machine: MachineMeter = field(default_factory=MachineMeter)

    @property
    def few(self) -> int:
        """Rounds of what no goal hangs on."""
        return min(FEW_ROUNDS, self.scale.repeats)

    @property
    def rayqueue(self) -> System:
        """The system this project is."""
        return self.systems[0]

    @property
    def peers(self) -> list[System]:
        """The others."""
        return self.systems[1:]

    def having(self, *roles: str) -> list[System]:
        """The systems that play all of these roles, rayqueue first."""
        return [system for system in self.systems if all(role in system.roles for role in roles)]

    def find(self, name: str, *roles: str) -> System | None:
        """The system of that name, if it was started and plays all of these roles."""
        return next((system for system in self.having(*roles) if system.name == name), None)

    @contextlib.contextmanager
    def load(self, system: System, role: str, **arguments: Any) -> Iterator[Load]:
        """A load that plays the role against the system, and ends with the block."""
        label = f"{system.name}-{role}"
        with self.process(system.roles[role], label, client=system.client(), **arguments) as load:
            yield load

    @contextlib.contextmanager
    def load_anew(self, system: System, role: str, **arguments: Any) -> Iterator[Load]:
        """A process for loads of this role, of which `make(topic=...)` makes one after the other; see `loads.Anew`."""
        of = path_of(system.roles[role])
        with self.process(Anew, f"{system.name}-{role}", of=of, client=system.client(), **arguments) as load:
            yield load

    @contextlib.contextmanager
    def process(self, kind: type, label: str, **arguments: Any) -> Iterator[Load]:
        """A load of any class, which ends with the block; `load` is for the roles of systems."""
        load = self.start_load(kind, label, **arguments)
        try:
            yield load
        finally:
            load.close()

    def meter(self, *counted: System | Load) -> CpuMeter:
        """Counts CPU from now on, of the processes of these systems, by their groups, and of loads ("clients")."""
        groups: dict[str, list[int]] = {"clients": []}
        for one in counted:
            if hasattr(one, "roles"):
                for name, pids in one.processes().items():
                    groups.setdefault(name, []).extend(pids)
            elif one.pid is not None:
                groups["clients"].append(one.pid)
        return CpuMeter(groups)

    def sweep(self, system: System, role: str, opened: Open, key: str = "") -> list[str]:
        """The labels of the system's tunings in this role, the best first: by full rounds, else by a sweep.

        Args:
            opened: `opened(stack, tuning)` makes ready what is measured; a measure for each key, the higher the better.
            key: what else the best depends on, such as "100 B"; each is swept once in a run.
        """
        return self.sweeps.ranked(system, role, opened, key, self.calm)

    def alternate(
        self, sides: Mapping[K, Callable[[], T]], repeats: int | None = None, warm_up: int | None = None
    ) -> dict[K, list[T]]:
        """See `figures.alternate`: as often as the scale says, and calm between two sides."""
        scale = self.scale
        return alternate(
            sides,
            scale.repeats if repeats is None else repeats,
            scale.warm_up if warm_up is None else warm_up,
            self.calm,
        )

    def calm(self) -> None:
        """Between two turns: has the disk written what the last side left to be written, which the next one would pay
        for, and notes what the machine was doing meanwhile.
        """
        self.turns.append(self._machine.look())
        if self.scale.sync:
            os.sync()
            self._machine.look()  # not in anybody's turn

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(text)
