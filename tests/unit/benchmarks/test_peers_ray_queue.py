"""`ray.util.queue` as a peer, without Ray: what is put is got and checked, and what there is not is said.

The queue itself is used in tests/integration/test_benchmarks_on_ray.py.
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.system import PeerFailed
from benchmarks.peers import PEERS, ray_queue
from benchmarks.peers.ray_queue import PEER, OneByOne, RayQueueSystem


class FakeQueue:
    """A queue in this process; `calls` counts those of each method."""

    def __init__(self) -> None:
        self.items: deque[bytes] = deque()
        self.calls: dict[str, int] = {}

    def count(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1

    def put(self, item: bytes, timeout: float) -> None:
        self.count("put")
        self.items.append(item)

    def get(self, timeout: float) -> bytes:
        self.count("get")
        return self.items.popleft()

    async def put_async(self, item: bytes) -> None:
        self.count("put_async")
        self.items.insert(1, item)  # Ray keeps no order among calls that are on their way

    async def get_async(self) -> bytes:
        self.count("get_async")
        return self.items.popleft()

    def put_nowait_batch(self, items: list[bytes]) -> None:
        self.count("put_nowait_batch")
        self.items.extend(items)

    def get_nowait_batch(self, count: int) -> list[bytes]:
        self.count("get_nowait_batch")
        return [self.items.popleft() for _ in range(count)]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    made = FakeQueue()
    monkeypatch.setattr(ray_queue, "open_queue", lambda name, **options: made)
    monkeypatch.setattr(ray_queue, "attach", lambda address: False)
    return made


def one_by_one(**tuning: Any) -> OneByOne:
    return OneByOne({"address": "127.0.0.1:1"}, "topic", **tuning)


def test_each_item_is_awaited(queue: FakeQueue) -> None:
    assert one_by_one().awaited(30)["seconds"] >= 0
    assert queue.calls == {"put": 31, "get": 31} and not queue.items


def test_items_go_one_by_one_without_waiting(queue: FakeQueue) -> None:
    items = one_by_one()
    queue.calls.clear()
    assert items.pipelined(2345)["seconds"] >= 0
    assert queue.calls == {"put_async": 2345, "get_async": 2345} and not queue.items


def test_items_go_in_batches_when_asked_to(queue: FakeQueue) -> None:
    items = one_by_one(batch=100)
    queue.calls.clear()
    assert items.pipelined(250)["seconds"] >= 0
    assert queue.calls == {"put_nowait_batch": 3, "get_nowait_batch": 3} and not queue.items


@pytest.mark.parametrize("tuning", [{}, {"batch": 10}])
def test_a_wrong_item_is_noticed(queue: FakeQueue, tuning: dict[str, int]) -> None:
    items = one_by_one(**tuning)
    queue.items.append(b"somebody else's")
    with pytest.raises(AssertionError, match="not the one"):
        items.awaited(1)
    queue.items.appendleft(b"somebody else's")
    with pytest.raises(AssertionError, match="not those"):
        items.pipelined(20)


def test_what_there_is_not_is_said() -> None:
    assert PEERS["ray.util.queue"] is PEER
    assert PEER.missing(Path()) == "Ray is not installed: pip install ray"  # in unit tests there is none


def test_a_queue_has_no_partitions_and_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    system = RayQueueSystem("127.0.0.1:1", {})
    for wrong in ({"partitions": 2}, {"flush_messages": 1}):
        with pytest.raises(ValueError, match="no partitions and no settings"), system.topic(**wrong):
            raise AssertionError("there is no such queue")
    assert (system.processes(), system.bytes_on_disk()) == ({"queue": []}, 0)


def test_it_needs_the_ray_of_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRay:
        @staticmethod
        def is_initialized() -> bool:
            return False

    monkeypatch.setitem(sys.modules, "ray", NoRay)
    with pytest.raises(PeerFailed, match="runs on none"), PEER.start(Path(), Path(), print):
        raise AssertionError("it did not start")
