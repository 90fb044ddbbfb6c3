"""The cluster that is measured: rayqueue on a Ray of its own, or, for tests, inside this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rayqueue
from benchmarks.harness import accounting

NAME = "benchmarks"
ACTORS = ("Broker", "PartitionReplica", "Coordinator")


@dataclass(frozen=True)
class Target:
    """Where clients connect to, and what its processes are.

    Attributes:
        on_ray: whether the actors are processes of Ray, to be found among this process's descendants.
    """

    bootstrap_servers: str
    token: str | None
    on_ray: bool
    settings: dict[str, Any]

    def client(self, **settings: Any) -> dict[str, Any]:
        """Settings for a client, as JSON can carry them."""
        return {"bootstrap_servers": self.bootstrap_servers, "token": self.token, **settings}

    def processes(self) -> dict[str, list[int]]:
        """Process ids: "actors" (rayqueue's) and "ray" (Ray's own)."""
        if not self.on_ray:
            return {"actors": [os.getpid()], "ray": []}
        actors, ray = [], []
        for pid in accounting.descendants(os.getpid())[1:]:
            title = accounting.title(pid)
            if title.startswith(tuple(f"ray::{name}" for name in ACTORS)):
                actors.append(pid)
            elif title.startswith("ray::") or "/ray/" in title:
                ray.append(pid)
        return {"actors": actors, "ray": ray}

    def actors(self, kind: str) -> list[int]:
        """Process ids of one class of actor."""
        if not self.on_ray:
            return [os.getpid()]
        return [pid for pid in self.processes()["actors"] if accounting.title(pid).startswith(f"ray::{kind}")]


@contextlib.contextmanager
def on_ray(data_dir: Path, brokers: int, config: dict[str, Any]) -> Iterator[Target]:
    """A rayqueue cluster on a local Ray of its own; both end with it.

    Workers of Ray run at nice 15 by default, below the load generators, which would measure the scheduler; here
    they run at the same priority as everything else.
    """
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, _system_config={"worker_niceness": 0})
    try:
        cluster = rayqueue.start(name=NAME, brokers=brokers, data_dir=str(data_dir), config=config)
        try:
            yield Target(cluster.bootstrap_servers, cluster.token, True, {"brokers": brokers, "config": config})
        finally:
            rayqueue.shutdown(name=NAME)
    finally:
        ray.shutdown()
