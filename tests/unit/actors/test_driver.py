"""The loop: nothing lost, nothing out of order, one at a time inside, deadlines kept. Threads, but no Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from rayqueue.actors.driver import Driver, boot_ms
from rayqueue.errors import BrokerNotAvailable

TIMEOUT_S = 20.0


class Handler:
    """Notes what comes, and that nobody else is inside meanwhile."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.turns = 0
        self.deadline: int | None = None
        self.passed = threading.Event()
        self._inside = threading.Lock()
        self.collided = False

    def handle(self, events: list[Any], now_ms: int, wall_ms: int) -> None:
        if not self._inside.acquire(blocking=False):
            self.collided = True
            return
        self.turns += 1
        self.seen += events
        for event in events:
            if callable(event):
                event()
        if self.deadline is not None and now_ms >= self.deadline:
            self.deadline = None
            self.passed.set()
        self._inside.release()


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def driver(handler: Handler) -> Any:
    failures: list[BaseException] = []
    one = Driver("test", handler.handle, lambda: handler.deadline, failures.append)
    one.start()
    yield one
    one.stop()
    assert failures == []


def run_together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def test_each_threads_events_stay_in_order_however_they_come(handler: Handler, driver: Driver) -> None:
    count = 3000

    def sender(who: int) -> Callable[[], None]:
        def work() -> None:
            for number in range(count):
                (driver.submit if (number + who) % 3 else driver.post)((who, number))

        return work

    run_together(*[sender(who) for who in range(4)])
    driver.call(lambda: None)
    assert not handler.collided
    for who in range(4):
        assert [number for sender_id, number in handler.seen if sender_id == who] == list(range(count))


def test_what_comes_while_somebody_is_inside_is_taken_in_one_turn(handler: Handler, driver: Driver) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(TIMEOUT_S)

    first = threading.Thread(target=driver.submit, args=(hold,))
    first.start()
    assert entered.wait(TIMEOUT_S)
    for number in range(100):
        driver.submit(number)
    go_on.set()
    first.join(TIMEOUT_S)
    driver.call(lambda: None)
    assert handler.seen[1:] == list(range(100))
    assert handler.turns <= 5


def test_a_deadline_that_a_submitted_event_sets_is_kept(handler: Handler, driver: Driver) -> None:
    def set_deadline() -> None:
        handler.deadline = boot_ms() + 30

    driver.submit(set_deadline)
    assert handler.passed.wait(TIMEOUT_S)


def test_a_call_answers_or_raises_to_its_caller(driver: Driver) -> None:
    assert driver.call(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        driver.call(lambda: 1 // 0)
    assert driver.call(lambda: driver.call(lambda: "inside")) == "inside"


def test_after_stop_a_call_says_so(handler: Handler, driver: Driver) -> None:
    driver.post("last")
    driver.stop()
    assert handler.seen == ["last"]
    with pytest.raises(BrokerNotAvailable, match="shutting down"):
        driver.call(lambda: None)


def test_a_handler_that_fails_is_reported() -> None:
    failed = threading.Event()
    failures: list[BaseException] = []

    def broken(events: list[Any], now_ms: int, wall_ms: int) -> None:
        if events:
            raise RuntimeError("a fault")

    def report(error: BaseException) -> None:
        failures.append(error)
        failed.set()

    driver = Driver("test", broken, lambda: None, report)
    driver.start()
    driver.post("x")
    assert failed.wait(TIMEOUT_S)
    assert str(failures[0]) == "a fault"
    driver.stop()
