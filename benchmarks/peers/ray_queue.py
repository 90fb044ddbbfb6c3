"""`ray.util.queue.Queue`, on the Ray that the benchmark runs: an actor with the items in its memory, gone when it ends.

The peer for items that are put and got one by one: by `put` and `get`, each awaited, as its users do; or by `put_async`
and `get_async` with many on their way, which give up the items' order; or, with a batch given, by `put_nowait_batch`
and `get_nowait_batch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.payload import random_values
from benchmarks.harness.system import PeerFailed, Say
from benchmarks.peers import server

NAME = "ray.util.queue"
NAMESPACE = "benchmarks"
ITEM_BYTES = 100
DISTINCT = 1000
# Calls that are on their way at once: more make it no faster.
IN_FLIGHT = 1000
TIMEOUT_S = 60.0


def attach(address: str) -> bool:
    """Connects this process to a Ray, unless it is connected; True when it did connect."""
    import ray

    if ray.is_initialized():
        return False
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    return True


def open_queue(name: str, **options: Any) -> Any:
    """The queue of this name; with `options` of its actor it is made if there is none."""
    from ray.util.queue import Queue

    return Queue(actor_options={"name": name, "namespace": NAMESPACE, "get_if_exists": True, **options})


class OneByOne:
    """A process that puts items into a queue and gets them out again.

    Args:
        batch: None: one by one; n: `pipelined` moves so many in one call.
    """

    def __init__(self, client: dict[str, Any], topic: str, batch: int | None = None) -> None:
        self._attached = attach(client["address"])
        self._queue = open_queue(topic)
        self._batch = batch
        self._values = random_values(DISTINCT, ITEM_BYTES)
        self.awaited(1)  # connects

    def awaited(self, count: int) -> dict[str, float]:
        """Puts an item, waits until it is there, gets it; then the next one.

        Returns:
            seconds it took.
        """
        began = time.perf_counter()
        for number in range(count):
            value = self._values[number % DISTINCT]
            self._queue.put(value, timeout=TIMEOUT_S)
            if self._queue.get(timeout=TIMEOUT_S) != value:
                raise AssertionError("the next item is not the one that was put")
        return {"seconds": time.perf_counter() - began}

    def pipelined(self, count: int) -> dict[str, float]:
        """Puts all items, then gets all, without waiting for one before the next.

        Returns:
            seconds it took.
        """
        items = [self._values[number % DISTINCT] for number in range(count)]
        began = time.perf_counter()
        got = asyncio.run(self._in_flight(items)) if self._batch is None else self._batches(items, self._batch)
        took = time.perf_counter() - began
        # Of calls that are on their way together, Ray may run a later one first.
        if got != items if self._batch else Counter(got) != Counter(items):
            raise AssertionError("the items are not those that were put")
        return {"seconds": took}

    async def _in_flight(self, items: Sequence[bytes]) -> list[bytes]:
        got: list[bytes] = []
        for part in _parts(items, IN_FLIGHT):
            await asyncio.wait_for(asyncio.gather(*[self._queue.put_async(item) for item in part]), TIMEOUT_S)
        for part in _parts(items, IN_FLIGHT):
            got += await asyncio.wait_for(asyncio.gather(*[self._queue.get_async() for _ in part]), TIMEOUT_S)
        return got

    def _batches(self, items: Sequence[bytes], size: int) -> list[bytes]:
        got: list[bytes] = []
        for part in _parts(items, size):
            self._queue.put_nowait_batch(part)
        for part in _parts(items, size):
            got += self._queue.get_nowait_batch(len(part))
        return got

    def close(self) -> None:
        """Disconnects, if it connected."""
        if self._attached:
            import ray

            ray.shutdown()


def _parts(items: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


@dataclass
class RayQueueSystem:
    """Queues on a Ray that runs."""

    address: str
    settings: dict[str, Any]
    name: str = NAME
    roles: Mapping[str, type] = field(default_factory=lambda: {"one_by_one": OneByOne})
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = field(
        default_factory=lambda: {"one_by_one": {"default": {}, "1,000 in a call": {"batch": 1000}}}
    )
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _pids: dict[str, int] = field(default_factory=dict)

    def client(self) -> dict[str, Any]:
        """The Ray to connect to."""
        return {"address": self.address}

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        """A fresh queue on this node; its actor ends with the block.

        Raises:
            ValueError: more than one partition, or a setting.
        """
        if partitions != 1 or config:
            raise ValueError(f"{NAME} has no partitions and no settings")
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name = f"bench-queue-{os.getpid()}-{next(self._numbers)}"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue = open_queue(name, num_cpus=0, scheduling_strategy=here)
        try:
            self._pids[name] = ray.get(queue.actor.__ray_call__.remote(_pid), timeout=TIMEOUT_S)
            yield name
        finally:
            self._pids.pop(name, None)
            queue.shutdown(force=True)

    def processes(self) -> dict[str, list[int]]:
        """The actors of the queues that are open; Ray's own processes are counted with rayqueue's."""
        return {"queue": list(self._pids.values())}

    def bytes_on_disk(self) -> int:
        """None: the items are in memory."""
        return 0


def _pid(actor: Any) -> int:
    return os.getpid()


class RayQueuePeer:
    """The queue needs nothing but the Ray that rayqueue runs on."""

    name = NAME

    def missing(self, cache: Path) -> str | None:
        """Whether Ray is not installed."""
        return None if server.importable("ray") else "Ray is not installed: pip install ray"

    def prepare(self, cache: Path, say: Say) -> None:
        """There is nothing to get."""

    @contextlib.contextmanager
    def start(self, directory: Path, cache: Path, say: Say) -> Iterator[RayQueueSystem]:
        """The Ray to which this process is connected.

        Raises:
            PeerFailed: it is not connected to any.
        """
        import ray

        if not ray.is_initialized():
            raise PeerFailed(f"{NAME} runs on the Ray that the benchmark runs on, and it runs on none")
        settings = {"version": ray.__version__, "in_flight": IN_FLIGHT}
        yield RayQueueSystem(ray.get_runtime_context().gcs_address, settings)


PEER = RayQueuePeer()
