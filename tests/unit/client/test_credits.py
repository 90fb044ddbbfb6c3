"""Credit: bytes on their way and bytes held stay within the window, and the reader never starves."""

from __future__ import annotations

import random

import pytest

from rayqueue.client.credits import CreditWindow


def test_first_grant_is_the_window_and_small_change_is_not_sent() -> None:
    window = CreditWindow()
    assert window.grant(1000) == 1000
    assert window.grant(1000) == 0
    window.received(200)
    window.held += 200
    assert window.grant(1000) == 0, "held, not free"
    window.held -= 200
    assert window.grant(1000) == 0, "under a quarter of the window"
    window.received(300)
    assert window.grant(1000) == 500


def test_batch_larger_than_the_window_gets_through() -> None:
    window = CreditWindow()
    window.grant(100)
    window.received(5000)
    window.held += 5000
    assert window.outstanding < 0 and window.grant(100) == 0
    window.held -= 5000
    assert window.grant(100) == 5000
    assert window.outstanding == 100


@pytest.mark.parametrize("seed", range(10))
def test_window_bounds_what_is_held_and_nobody_starves(seed: int) -> None:
    draw = random.Random(seed)
    window, limit, largest, credit = CreditWindow(), 10_000, 3_000, 0
    for _ in range(2000):
        credit += window.grant(limit)
        if credit > 0 and draw.random() < 0.5:
            size = draw.randrange(1, largest)
            credit -= size
            window.received(size)
            window.held += size
        if draw.random() < 0.4:
            window.held -= draw.randrange(window.held + 1)
        assert window.outstanding == credit
        assert window.held <= limit + largest
    window.held = 0
    assert credit + window.grant(limit) > 0, "all was read: the server may send"
