"""Loads that run in the test's own process, and systems that consist of the roles a test gives them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness.bench import Bench, Scale
from benchmarks.harness.system import System

SCALE = Scale(seconds=0.02, sweep_seconds=0.01, repeats=2, warm_up=0, bytes_max=2_000_000, rows_max=20_000, sync=False)


class InlineLoad:
    """A load as the workloads see it; its arguments and results pass through JSON, as through the pipes."""

    pid = None

    def __init__(self, kind: type, label: str, **arguments: Any) -> None:
        self._load = kind(**json.loads(json.dumps(arguments)))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=label)

    def begin(self, method: str, **arguments: Any) -> Future[Any]:
        return self._thread.submit(self._run, method, arguments)

    def call(self, method: str, **arguments: Any) -> Any:
        return self.begin(method, **arguments).result()

    def _run(self, method: str, arguments: dict[str, Any]) -> Any:
        return json.loads(json.dumps(getattr(self._load, method)(**json.loads(json.dumps(arguments)))))

    def close(self) -> None:
        self._load.close()
        self._thread.shutdown()


class RolesSystem:
    """A system without servers; its client settings are its name."""

    def __init__(
        self,
        name: str,
        roles: Mapping[str, type],
        tunings: Mapping[str, Mapping[str, dict[str, Any]]] | None = None,
    ) -> None:
        self.name = name
        self.roles = roles
        self.tunings = tunings or {}
        self.settings: dict[str, Any] = {}
        self._numbers = itertools.count()

    def client(self) -> dict[str, Any]:
        return {"name": self.name}

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        yield f"{self.name}-{next(self._numbers)}"

    def processes(self) -> dict[str, list[int]]:
        return {"servers": []}

    def bytes_on_disk(self) -> int:
        return 0


def bench_of(directory: Path, *systems: System, scale: Scale = SCALE) -> Bench:
    """What a workload gets, with loads in this process."""
    return Bench(list(systems), directory, scale, InlineLoad, Console(quiet=True))
