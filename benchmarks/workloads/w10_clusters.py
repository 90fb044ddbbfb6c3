"""Clusters that w10 starts beside the run's own: it stops them, starts them again and kills their processes.

They run on the Ray of the run, or, in tests, inside this process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.rayqueue_system import RayqueueSystem
from rayqueue.testing.inprocess import InProcessCluster

REPLICA, BROKER, COORDINATOR = "replica", "broker", "coordinator"
TITLES = {REPLICA: "ray::PartitionReplica", BROKER: "ray::Broker", COORDINATOR: "ray::Coordinator"}
POLL_S = 0.2
WAIT_S = 60.0


class OwnSystem(RayqueueSystem):
    """A cluster as a system that is measured; its processes are those of this cluster alone, by role.

    Attributes:
        pids: by role; as of the last `OwnCluster.start`.
    """

    pids: dict[str, list[int]]

    def processes(self) -> dict[str, list[int]]:
        """See `System.processes`."""
        return self.pids


class OwnCluster:
    """A cluster of w10's own, on a directory that outlives its stops.

    Args:
        name: of the cluster, and of its directory in the run's.
        brokers: how many.
        config: the brokers' and the topics' settings.

    Attributes:
        processes: whether it has processes of its own, which can be killed.
    """

    def __init__(self, bench: Bench, name: str, brokers: int = 1, config: dict[str, Any] | None = None) -> None:
        self.name = name
        self.brokers = brokers
        self.config = config or {}
        self.data_dir = bench.directory / name
        self.processes = has_processes(bench)
        self._inside: InProcessCluster | None = None

    def start(self) -> OwnSystem:
        """Starts it, on what its directory holds; returns once every partition is led."""
        if self.processes:
            found = rayqueue.start(
                name=self.name, brokers=self.brokers, data_dir=str(self.data_dir), config=self.config
            )
            # The replica actors have registered by now; they run once they lead all that is theirs.
            self._wait(self._runs, f"{self.name} does not lead all of its partitions")
            system = OwnSystem(found.bootstrap_servers, found.token, self.data_dir, True, self._settings())
            system.pids = self.pids()
        else:
            self._inside = InProcessCluster(self.data_dir, self.brokers, self.config)
            self._inside.start()
            system = OwnSystem(self._inside.bootstrap_servers, None, self.data_dir, False, self._settings())
            system.pids = {"actors": [os.getpid()]}
        return system

    def _settings(self) -> dict[str, Any]:
        return {"brokers": self.brokers, "config": self.config}

    def stop(self) -> None:
        """Stops it cleanly; the data stays."""
        if self._inside is not None:
            self._inside.stop()
            self._inside = None
        elif self.processes:
            rayqueue.shutdown(name=self.name)

    def remove(self) -> None:
        """Stops it and removes its data."""
        self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def pids(self) -> dict[str, list[int]]:
        """Its processes by role, of those that answer; each is checked to be an actor of this kind."""
        found: dict[str, list[int]] = {role: [] for role in TITLES}
        for process in rayqueue.status(self.name).processes:
            title = TITLES.get(process.role)  # a process that stands by serves nobody
            if process.pid and title and accounting.title(process.pid).startswith(title):
                found[process.role].append(process.pid)
        return found

    def wait_back(self, role: str, killed: list[int]) -> float:
        """Waits until processes of a role have been replaced and run; how long that took, in s.

        Raises:
            TimeoutError: they did not come back.
        """
        return self._wait(
            lambda: self._runs(role, killed), f"the {role} of {self.name} is not back after its process was killed"
        )

    def wait_in_sync(self) -> None:
        """Waits until every partition has all of its replicas in sync.

        Raises:
            TimeoutError: some has not.
        """
        self._wait(self._in_sync, f"not all replicas of {self.name} are in sync again")

    def _in_sync(self) -> bool:
        found = rayqueue.status(self.name)
        return not found.under_replicated and not found.offline

    def leader(self, topic: str) -> int:
        """The process id of the replica actor that leads the topic's first partition; one a broker is expected."""
        found = rayqueue.status(self.name)
        partition = next(one for one in found.topics if one.name == topic).partitions[0]
        of_leader = (one for one in found.processes if one.broker_id == partition.leader)
        (pid,) = (one.pid for one in of_leader if (one.role, one.state) == (REPLICA, "running"))
        return pid

    def _wait(self, condition: Callable[[], bool], problem: str) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > WAIT_S:
                raise TimeoutError(f"{problem}, in {WAIT_S:g} s")
            wait(POLL_S)
        return time.monotonic() - began

    def _runs(self, role: str | None = None, killed: Sequence[int] = ()) -> bool:
        """Whether all processes (of a role) run, and none of them is one that was killed."""
        try:
            found = rayqueue.status(self.name).processes
        except rayqueue.RayQueueError:
            return False  # the coordinator is away
        of_role = [one for one in found if role in (None, one.role)]
        return len(of_role) >= len(killed) and all(one.state == "running" and one.pid not in killed for one in of_role)


def has_processes(bench: Bench) -> bool:
    """Whether clusters of this run are processes; inside this one there is nothing to kill or to measure."""
    return bool(getattr(bench.rayqueue, "on_ray", False))


def elsewhere(bench: Bench, outcome: Outcome, what: str) -> bool:
    """Whether the run is on somebody's Ray cluster, where w10 neither starts clusters nor kills: then that is noted."""
    if not bench.rayqueue.settings.get("address"):
        return False
    outcome.notes.append(f"{what}: not measured, it takes clusters of its own on this machine; run without --address")
    return True


@contextlib.contextmanager
def own_cluster(
    bench: Bench, name: str, brokers: int = 1, config: dict[str, Any] | None = None
) -> Iterator[tuple[OwnCluster, OwnSystem]]:
    """A started cluster, which is removed at the end of the block."""
    cluster = OwnCluster(bench, name, brokers, config)
    try:
        yield cluster, cluster.start()
    finally:
        cluster.remove()


def all_pids(system: Any) -> list[int]:
    """The processes of a system's servers; Ray's own, which are there for all clusters, are not counted."""
    return [pid for group, pids in system.processes().items() if group != "ray" for pid in pids]


def steps(top: int, factors: tuple[int, ...] = (1,)) -> list[int]:
    """1, 10, 100, ... and `top`; with factors (1, 3) 1, 3, 10, 30, ... and `top`.

    >>> steps(5000)
    [1, 10, 100, 1000, 5000]
    """
    found, power = [], 1
    while power < top:
        found += [power * factor for factor in factors if power * factor < top]
        power *= 10
    return [*found, top]


def rounds(most: int, seconds: float) -> Iterator[int]:
    """0, 1, ... most - 1, but no more once these seconds have passed since the first: a slow machine repeats less."""
    until = time.monotonic() + seconds
    for turn in range(most):
        if turn and time.monotonic() > until:
            return
        yield turn


def wait(seconds: float) -> None:
    """Lets time pass."""
    threading.Event().wait(seconds)
