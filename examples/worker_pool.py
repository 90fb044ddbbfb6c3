"""A pool of workers: Ray actors in one consumer group, from one to eight and back to one while messages flow.

    python examples/worker_pool.py

Each message goes to one worker. A worker that is added gets its share of the partitions, one that leaves gives its own
back, and nobody else stops. It uses the Ray that RAY_ADDRESS names or that runs on this machine, else begins one, and
keeps the topic in a directory that is removed at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import ray

import rayqueue

CLUSTER, TOPIC, GROUP, PARTITIONS = "worker-pool", "jobs", "pool", 16
SETTLED_S = 60.0


@ray.remote(num_cpus=0, max_concurrency=2)
class Worker:
    """Works until it is told to leave."""

    def __init__(self) -> None:
        self._leave = threading.Event()

    def work(self) -> list[tuple[int, int]]:
        """Handles jobs; gives (partition, offset) of each."""
        handled = []
        with rayqueue.Consumer(TOPIC, cluster=CLUSTER, group_id=GROUP, auto_offset_reset="earliest") as jobs:
            while not self._leave.is_set():
                for job in jobs.consume(100, timeout=0.2):
                    handled.append((job.partition, job.offset))  # here the work would be done
        return handled

    def leave(self) -> None:
        """Lets it end: leaving the `with` block commits what was handled and hands the partitions on."""
        self._leave.set()


class Pool:
    """Workers that come and go.

    Attributes:
        left: what those that have left will return.
    """

    def __init__(self) -> None:
        self._working: list[tuple[Any, Any]] = []
        self.left: list[Any] = []

    def scale(self, workers: int) -> None:
        """Adds workers, or has the newest leave, until there are so many."""
        while len(self._working) < workers:
            worker = Worker.remote()  # type: ignore[attr-defined]  # Ray adds it
            self._working.append((worker, worker.work.remote()))
        while len(self._working) > workers:
            worker, handled = self._working.pop()
            worker.leave.remote()
            self.left.append((worker, handled))  # an actor lives as long as somebody holds it


class Source(threading.Thread):
    """Sends jobs at a steady rate until it is stopped.

    Attributes:
        sent: how many.
    """

    def __init__(self, per_second: int) -> None:
        super().__init__(name="source")
        self._per_second = per_second
        self._stop_it = threading.Event()
        self.sent = 0

    def run(self) -> None:
        began = time.monotonic()
        with rayqueue.Producer(cluster=CLUSTER, linger_ms=5) as producer:
            while not self._stop_it.wait(0.01):
                while self.sent < (time.monotonic() - began) * self._per_second:
                    producer.produce(TOPIC, value=f"job {self.sent}")
                    self.sent += 1

    def stop(self) -> None:
        """Returns when all is acked."""
        self._stop_it.set()
        self.join()


def wait_settled(admin: rayqueue.AdminClient, workers: int) -> None:
    """Returns when so many members share all partitions."""
    began = time.monotonic()
    while True:
        members = admin.describe_group(GROUP).members if admin.list_groups() else []
        shares = sorted(len(member.assignment) for member in members)
        if len(shares) == workers and sum(shares) == PARTITIONS and shares[-1] - shares[0] <= 1:
            print(f"{workers} workers share {PARTITIONS} partitions {shares}, {time.monotonic() - began:.1f} s later")
            return
        if time.monotonic() - began > SETTLED_S:
            raise SystemExit(f"the group does not settle: {workers} workers are wanted, the shares are {shares}")
        time.sleep(0.1)


def run(steps: list[int], rate: int) -> bool:
    """Scales through the steps while jobs flow; whether each job was handled once."""
    pool, source = Pool(), Source(rate)
    with rayqueue.AdminClient(cluster=CLUSTER) as admin:
        admin.create_topic(TOPIC, PARTITIONS)
        source.start()
        try:
            for workers in steps:
                pool.scale(workers)
                wait_settled(admin, workers)
        finally:
            source.stop()
        while (lag := admin.describe_group(GROUP).lag) is None or lag:
            time.sleep(0.2)
        pool.scale(0)
    handled = Counter(job for _, work in pool.left for job in ray.get(work, timeout=SETTLED_S))
    twice = sum(times > 1 for times in handled.values())
    print(f"{source.sent} jobs sent, {len(handled)} handled, {twice} of them twice")
    return len(handled) == source.sent and not twice


def main() -> None:
    """The command."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 4, 1], help="how many workers, in turn")
    arguments.add_argument("--rate", type=int, default=2_000, help="jobs a second")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory, rayqueue.start(CLUSTER, brokers=1, data_dir=directory):
        raise SystemExit(0 if run(given.steps, given.rate) else 1)


if __name__ == "__main__":
    main()
