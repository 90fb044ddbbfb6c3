"""Systems, peers and workloads that measure nothing, for tests of the run around them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.harness.bench import Bench, Scale
from benchmarks.harness.figures import Outcome
from benchmarks.harness.suite import Plan
from benchmarks.harness.system import PeerFailed, Say, System

TINY = Scale(seconds=0.01, repeats=1, warm_up=0, bytes_max=1000, rows_max=10, partitions=1, sync=False)
WAITS = [sys.executable, "-c", "import time; time.sleep(100)"]


class FakeSystem:
    """A system whose server, if it has one, does nothing but run."""

    roles: Mapping[str, type] = {}
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = {}

    def __init__(self, name: str, server: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.server = server
        self.settings = {"started": name}

    def client(self) -> dict[str, Any]:
        return {}

    def processes(self) -> dict[str, list[int]]:
        return {"server": [self.server.pid]} if self.server else {}


class FakePeer:
    """A peer with a server process, missing or broken as the test asks for.

    Attributes:
        started: the system, while it runs.
    """

    def __init__(self, name: str, missing: str | None = None, fails: Exception | None = None) -> None:
        self.name = name
        self._missing = missing
        self._fails = fails
        self.started: FakeSystem | None = None

    def missing(self, cache: Path) -> str | None:
        return self._missing

    def prepare(self, cache: Path, say: Say) -> None:
        say(f"preparing {self.name}")

    @contextlib.contextmanager
    def start(self, directory: Path, cache: Path, say: Say) -> Iterator[FakeSystem]:
        assert directory.is_dir()
        if self._fails is not None:
            raise self._fails
        with subprocess.Popen(WAITS) as server:
            self.started = FakeSystem(self.name, server)
            try:
                yield self.started
            finally:
                self.started = None
                server.kill()


def failed(text: str) -> PeerFailed:
    return PeerFailed(text)


def finds(must: float | None = None, aim: float | None = None, name: str = "w1") -> Callable[[Bench], Outcome]:
    """A workload that finds the ratio 2 when Kafka is there."""

    def run(bench: Bench) -> Outcome:
        outcome = Outcome(name)
        outcome.add("rows in", "MB/s", [20.0])
        if any(system.name == "kafka" for system in bench.systems):
            outcome.add("rows in", "MB/s", [10.0], side="kafka")
            goal = None if must is None else Goal("rows_in", "rows in", name, must, aim)
            outcome.ratio("rows in, rayqueue / kafka", [20.0], [10.0], goal)
        return outcome

    return run


def plan(tmp_path: Path, workloads: Mapping[str, Callable[[Bench], Outcome]], *peers: FakePeer, **more: Any) -> Plan:
    """A run of these workloads with these peers below `tmp_path`."""

    @contextlib.contextmanager
    def start_rayqueue(directory: Path) -> Iterator[System]:
        yield FakeSystem("rayqueue")  # type: ignore[misc]

    data = tmp_path / "data"
    data.mkdir()
    given = {"cache": tmp_path / "cache", "out": tmp_path / "out", "data": data, "scale": TINY, "settings": {}, **more}
    return Plan(workloads=workloads, titles={}, peers=peers, start_rayqueue=start_rayqueue, **given)
