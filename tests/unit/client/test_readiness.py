"""fetch.min.bytes and fetch.max.wait.ms."""

from __future__ import annotations

from rayqueue.client.readiness import Readiness


def test_one_byte_is_enough_by_default() -> None:
    gate = Readiness(1, 500)
    assert gate.check(1, 0) and gate.deadline_ms() is None


def test_held_back_until_there_is_enough() -> None:
    gate = Readiness(100, 500)
    assert not gate.check(99, 1000)
    assert gate.deadline_ms() == 1500
    assert gate.check(100, 1001)
    assert gate.deadline_ms() is None


def test_open_until_all_is_handed_out() -> None:
    gate = Readiness(100, 500)
    assert gate.check(100, 0)
    assert gate.check(1, 1), "the rest of it"
    assert not gate.check(0, 2)
    assert not gate.check(50, 3)


def test_no_longer_than_the_longest_wait_from_the_first_byte_on() -> None:
    gate = Readiness(100, 500)
    assert not gate.check(0, 0) and gate.deadline_ms() is None
    assert not gate.check(10, 1000)
    assert not gate.check(20, 1499)
    assert gate.check(20, 1500)
