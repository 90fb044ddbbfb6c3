"""Futures: what they say before, after, and to whom."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rayqueue.client.io.callbacks import CallbackThread
from rayqueue.client.io.doorbell import Doorbell
from rayqueue.client.io.future import BatchFuture, Part, Receipt, RecordFuture
from rayqueue.errors import NotEnoughReplicas, RecordTooLarge, RequestTimeout
from rayqueue.types import RecordMetadata


def _at_once(callbacks: list[tuple[Any, Any]]) -> None:
    for function, argument in callbacks:
        function(argument)


def _receipt(together: bool = False) -> Receipt:
    return Receipt("t", _at_once, together)


def _times(count: int) -> np.ndarray:
    return np.arange(1000, 1000 + count, dtype=np.int64)


def test_a_future_is_not_done_until_its_own_batch_is() -> None:
    receipt = _receipt()
    receipt.rows = [1, 2, 3, 4]
    futures = [RecordFuture(receipt, i) for i in range(4)]
    assert receipt.undelivered() == 4
    assert not futures[0].done()
    even, odd = Part(receipt, 0, range(0, 4, 2), 10), Part(receipt, 1, np.array([1, 3]), 10)
    receipt.place([even, odd], _times(4))
    assert not receipt.settle(odd, 70, -1, None)
    assert [f.done() for f in futures] == [False, True, False, True]
    assert futures[1].result(0) == RecordMetadata("t", 1, 70, 1001)
    assert futures[3].result(0) == RecordMetadata("t", 1, 71, 1003)
    assert receipt.undelivered() == 2
    assert receipt.settle(even, 5, 99, None)
    assert futures[2].result(0) == RecordMetadata("t", 0, 6, 99), "the log's append time"
    assert receipt.undelivered() == 0


def test_an_error_is_raised_fresh_to_each_who_asks() -> None:
    receipt = _receipt()
    part = Part(receipt, 2, range(2), 10)
    receipt.place([part], _times(2))
    receipt.settle(part, -1, -1, RecordTooLarge("too large"))
    future = RecordFuture(receipt, 1)
    with pytest.raises(RecordTooLarge, match="too large") as first:
        future.result()
    with pytest.raises(RecordTooLarge) as second:
        future.result()
    assert first.value is not second.value
    assert isinstance(future.exception(), RecordTooLarge)
    assert future.metadata(0) == RecordMetadata("t", 2, -1, 1001)


def test_without_acks_the_offset_is_not_known() -> None:
    receipt = _receipt()
    part = Part(receipt, 0, range(2), 10)
    receipt.place([part], _times(2))
    receipt.settle(part, -1, -1, None)
    assert RecordFuture(receipt, 1).result() == ("t", 0, -1, 1001)


def test_a_timeout_says_that_the_record_is_on_its_way() -> None:
    with pytest.raises(RequestTimeout, match="on its way"):
        RecordFuture(_receipt(), 0).result(0)
    with pytest.raises(TimeoutError):
        RecordFuture(_receipt(), 0).exception(0.001)


def test_waiting_threads_wake_when_the_outcome_comes() -> None:
    receipt = _receipt()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(RecordFuture(receipt, i).result, 10) for i in range(3)]
        part = Part(receipt, 0, range(3), 10)
        receipt.place([part], _times(3))
        receipt.settle(part, 40, -1, None)
        assert [w.result(10).offset for w in waiting] == [40, 41, 42]


def test_done_callbacks_run_for_their_own_part_and_at_once_if_it_is_done() -> None:
    receipt = _receipt()
    seen: list[int] = []
    futures = [RecordFuture(receipt, i) for i in range(4)]
    for index in (0, 1, 3):
        futures[index].add_done_callback(lambda f: seen.append(f.result(0).offset))
    first, second = Part(receipt, 0, range(2), 10), Part(receipt, 1, np.array([2, 3]), 10)
    receipt.place([first, second], _times(4))
    receipt.settle(second, 20, -1, None)
    assert seen == [21]
    receipt.settle(first, 10, -1, None)
    assert seen == [21, 10, 11]
    futures[2].add_done_callback(lambda f: seen.append(f.result(0).offset))
    assert seen[-1] == 20


def test_a_batch_future_gives_runs_of_offsets() -> None:
    receipt = _receipt(together=True)
    future = BatchFuture(receipt)
    called: list[Any] = []
    future.add_done_callback(called.append)
    parts = [Part(receipt, p, range(n), 10) for p, n in ((1, 3), (0, 2), (1, 4), (1, 1))]
    receipt.place(parts[:2], last=False)
    for part, offset in zip(parts[:2], (10, 5), strict=True):
        assert not receipt.settle(part, offset, -1, None)
    assert not future.done(), "more is to come"
    receipt.place(parts[2:], last=True)
    receipt.settle(parts[2], 13, -1, None)
    assert called == []
    assert receipt.settle(parts[3], 99, -1, None)
    assert called == [future]
    assert future.result(0) == [(0, 5, 2), (1, 10, 7), (1, 99, 1)]


def test_a_batch_future_says_what_was_written_all_the_same() -> None:
    receipt = _receipt(together=True)
    parts = [Part(receipt, 0, range(3), 1), Part(receipt, 1, range(2), 1)]
    receipt.place(parts)
    receipt.settle(parts[0], 0, -1, None)
    with pytest.raises(RequestTimeout):
        BatchFuture(receipt).exception(0)
    receipt.settle(parts[1], -1, -1, NotEnoughReplicas("one in sync"))
    with pytest.raises(NotEnoughReplicas, match="3 of the 5 records"):
        BatchFuture(receipt).result(0)
    assert isinstance(BatchFuture(receipt).exception(0), NotEnoughReplicas)


def test_no_rows_are_delivered_at_once() -> None:
    receipt = _receipt(together=True)
    receipt.place([])
    assert BatchFuture(receipt).result(0) == []


def test_reprs_say_how_it_stands() -> None:
    receipt = _receipt()
    assert "on its way" in repr(RecordFuture(receipt, 0))
    part = Part(receipt, 0, range(1), 10)
    receipt.place([part], _times(1))
    receipt.settle(part, -1, -1, RecordTooLarge("too large"))
    assert "RecordTooLarge" in repr(RecordFuture(receipt, 0))


def test_callbacks_run_in_order_on_their_own_thread_and_one_that_raises_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = CallbackThread("callbacks")
    seen: list[Any] = []
    callbacks.run([(lambda x: seen.append((x, threading.current_thread().name)), 1), (lambda x: 1 / x, 0)])
    callbacks.run([(lambda x: seen.append((x, threading.current_thread().name)), 2)])
    assert callbacks.wait(10)
    assert seen == [(1, "callbacks"), (2, "callbacks")]
    assert "ZeroDivisionError" in caplog.text
    callbacks.stop()


def test_waiting_for_callbacks_inside_a_callback_does_not_hang() -> None:
    callbacks = CallbackThread("callbacks")
    waited: list[bool] = []
    callbacks.run([(lambda _: waited.append(callbacks.wait(None)), None)])
    assert callbacks.wait(10)
    assert waited == [True]
    callbacks.stop()


def test_a_doorbell_keeps_one_ring_and_wakes_who_waits() -> None:
    bell = Doorbell()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0)
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(bell.wait, 10)
        bell.ring()
        assert woken.result(10)


def test_who_sees_that_all_is_delivered_finds_the_callbacks_handed_over() -> None:
    """`flush` waits for the outcomes, then for the callbacks that were handed over by then."""
    handed: list[bool] = []
    receipt = Receipt("t", lambda callbacks: handed.append(receipt._lock.locked()))
    part = Part(receipt, 0, range(1), 10)
    receipt.place([part], _times(1))
    receipt.on_delivery(0, lambda future: None, None)
    receipt.settle(part, 0, -1, None)
    assert handed == [True], "while nobody can see that it is complete"
