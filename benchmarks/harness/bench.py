"""What a workload is given: the cluster, how long and how often, and the means to start load."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

import rayqueue
from benchmarks.harness.accounting import CpuMeter
from benchmarks.harness.loads import Load, ProcessLoad
from benchmarks.harness.target import Target

GB = 1e9

StartLoad = Callable[..., Load]


@dataclass(frozen=True)
class Scale:
    """How much of everything: bounded in time and in bytes.

    Attributes:
        seconds: of one measurement.
        repeats: of each, after `warm_up`.
        bytes_max: written by one measurement, and the size of a log that is read.
        rows_max: records that one measurement of single rows produces.
        partitions: idle ones, each round.
    """

    seconds: float = 2.0
    repeats: int = 5
    warm_up: int = 1
    bytes_max: int = 512 << 20
    rows_max: int = 1_000_000
    partitions: int = 1000


@dataclass
class Bench:
    """A run's surroundings.

    Attributes:
        target: the cluster.
        directory: for what baselines write; on the same file system as the cluster's data.
        start_load: makes a load from class, label and arguments: `ProcessLoad`, or the object itself in tests.
        console: for progress.
    """

    target: Target
    directory: Path
    scale: Scale
    start_load: StartLoad = ProcessLoad
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def load(self, kind: type, label: str, **arguments: Any) -> Iterator[Load]:
        """A load that ends with the block."""
        load = self.start_load(kind, label, **arguments)
        try:
            yield load
        finally:
            load.close()

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **more: Any) -> Iterator[str]:
        """A fresh topic, deleted at the end of the block; `more` goes to `create_topic`."""
        name = f"bench-{next(self._numbers)}"
        with rayqueue.AdminClient(**self.target.client()) as admin:
            admin.create_topic(name, partitions, **more)
            try:
                yield name
            finally:
                admin.delete_topic(name)

    def meter(self, *clients: Load) -> CpuMeter:
        """Counts CPU from now on: of rayqueue's actors, of Ray's own processes, and of these loads."""
        pids = [load.pid for load in clients if load.pid is not None]
        return CpuMeter({**self.target.processes(), "clients": pids})

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(text)
