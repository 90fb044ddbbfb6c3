"""What bounds a produce stream: the requests of one, and the bytes of all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayqueue.actors.produce_stream import ByteBudget, Window
from tests.integration.waiting import eventually

WAIT_S = 10.0


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def is_blocked(thread: threading.Thread) -> bool:
    thread.join(0.05)
    return thread.is_alive()


def test_a_window_lets_no_more_in_than_its_size_until_a_place_is_given_back() -> None:
    window = Window(2)
    window.acquire()
    window.acquire()
    third = in_thread(window.acquire)
    assert is_blocked(third)
    window.release()
    third.join(WAIT_S)
    assert not third.is_alive()
    assert is_blocked(in_thread(window.acquire)), "the place that came free has been taken"


@pytest.mark.parametrize("size", [1, 3])
def test_no_place_of_a_window_is_lost_or_made_and_no_release_is_missed(size: int) -> None:
    window, rounds, inside, most = Window(size), 20_000, [0], [0]
    lock = threading.Lock()

    def leave() -> None:
        with lock:
            inside[0] -= 1
        window.release()

    with ThreadPoolExecutor(4) as others:

        def take() -> None:
            for _ in range(rounds):
                window.acquire()
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                others.submit(leave)

        taking = in_thread(take)
        taking.join(60)
        assert not taking.is_alive(), "a release was missed"
    assert inside[0] == 0 and 1 <= most[0] <= size


def test_a_budget_lets_bytes_in_while_they_fit_and_one_request_always() -> None:
    budget = ByteBudget(100)
    budget.acquire(500)  # larger than all of it, but alone
    second = in_thread(lambda: budget.acquire(60))
    assert is_blocked(second)
    budget.release(500)
    second.join(WAIT_S)
    assert not second.is_alive()
    budget.acquire(40)
    waiting = [in_thread(lambda: budget.acquire(50)) for _ in range(2)]
    assert all(map(is_blocked, waiting))
    budget.release(60)
    eventually(lambda: sum(thread.is_alive() for thread in waiting) == 1, WAIT_S, "room for one of them")
    budget.release(40)
    for thread in waiting:
        thread.join(WAIT_S)
        assert not thread.is_alive()
