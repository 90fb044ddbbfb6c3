"""The longest time without an ack: partition by partition, and only while something waited."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rayqueue.demo import acks
from rayqueue.demo.acks import AckGaps


class Producer:
    """Acks when it is told to, as the real one does: rows on delivery, batches when the last part is there."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def produce(self, topic: str, value: Any, on_delivery: Any) -> None:
        self.waiting.append(
            lambda error=None, partition=value: on_delivery(error, SimpleNamespace(partition=partition))
        )

    def produce_batch(self, topic: str, partitions: list[int]) -> Any:
        future = SimpleNamespace(exception=lambda: None, result=lambda: [(p, 0, 1) for p in partitions])
        future.add_done_callback = lambda told: self.waiting.append(lambda: told(future))
        return future


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the clock."""
    return lambda now: monkeypatch.setattr(acks, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now}))


def test_the_time_between_two_acks_counts_while_a_record_waits(at: Any) -> None:
    producer, gaps = Producer(), AckGaps()
    at(0.0)
    gaps.record(producer, "t", value=0)
    gaps.record(producer, "t", value=0)
    at(0.2)
    producer.waiting[0]()
    assert gaps.longest_s == pytest.approx(0.2)
    at(0.9)
    producer.waiting[1]()
    assert gaps.longest_s == pytest.approx(0.7), "since the ack before, not since it was sent"


def test_a_pause_in_which_nothing_waits_does_not_count(at: Any) -> None:
    producer, gaps = Producer(), AckGaps()
    for moment in (0.0, 10.0):
        at(moment)
        gaps.record(producer, "t", value=0)
        at(moment + 0.1)
        producer.waiting[-1]()
    assert gaps.longest_s == pytest.approx(0.1)


def test_acks_of_another_partition_do_not_hide_a_gap(at: Any) -> None:
    producer, gaps = Producer(), AckGaps()
    at(0.0)
    gaps.record(producer, "t", value=0)
    gaps.batch(producer, "t", [0, 1])
    for number in range(1, 6):
        at(number / 10)
        gaps.record(producer, "t", value=2)
        producer.waiting[-1]()
    at(0.6)
    producer.waiting[0]()
    at(1.0)
    producer.waiting[1]()
    assert gaps.longest_s == pytest.approx(1.0), "partition 1 acked nothing since the batch was sent"


def test_a_record_that_failed_is_no_ack(at: Any) -> None:
    producer, gaps = Producer(), AckGaps()
    at(0.0)
    gaps.record(producer, "t", value=0)
    gaps.record(producer, "t", value=0)
    at(1.0)
    producer.waiting[0](OSError("no"))
    assert gaps.longest_s == 0.0
    at(2.0)
    producer.waiting[1]()
    assert gaps.longest_s == pytest.approx(2.0)
