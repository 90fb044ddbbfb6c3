"""The producer of `rayqueue perf`: what it checks, and that a stall counts for every record it delays."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from rayqueue.perf import produce
from rayqueue.perf.produce import RowsIn

STALL_S = 0.2


class Client:
    """Acks at once, but for one call, which takes a while; from then on, if it is told so, always at the same place."""

    def __init__(self, stalls_at: int = -1, repeats_from: int = 1 << 60) -> None:
        self.sent = 0
        self._stalls_at, self._repeats_from = stalls_at, repeats_from

    def produce(self, topic: str, value: bytes, on_delivery: Any = None) -> Future[Any]:
        if self.sent == self._stalls_at:
            threading.Event().wait(STALL_S)
        future: Future[Any] = Future()
        future.set_result(SimpleNamespace(partition=0, offset=min(self.sent, self._repeats_from)))
        self.sent += 1
        if on_delivery is not None:
            on_delivery(None, future.result())
        return future

    def flush(self) -> None:
        """Nothing waits."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> RowsIn:
    monkeypatch.setattr(produce, "Producer", lambda **settings: settings["client"])
    return RowsIn({"client": Client(stalls_at=50)})


def test_at_a_given_rate_a_stall_counts_for_every_record_it_delays(load: RowsIn) -> None:
    latencies: list[int] = []
    found = load.run("t", 10, 60.0, 300, timed=latencies.append, rate=1000, warm_up=False)
    assert found["records"] == 300 == len(latencies) and found["seconds"] >= 0.299
    # All that were due in the stall came late, by what was left of it: 199, 198, ... ms; not only the first.
    late = [latency for latency in latencies if latency > 0.25 * STALL_S * 1e9]
    assert len(late) >= 140 and max(late) >= 0.9 * STALL_S * 1e9


def test_a_rate_ends_with_the_time_too(load: RowsIn) -> None:
    assert 0 < load.run("t", 10, 0.05, 10_000, rate=1000, warm_up=False)["records"] <= 50


def test_a_record_that_was_written_twice_is_noticed_by_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "Producer", lambda **settings: settings["client"])
    load = RowsIn({"client": Client(repeats_from=10)})
    assert load.send("t", 10, 60.0, 20, warm_up=False)["records"] == 20
    with pytest.raises(AssertionError, match="20 records sent, 11 acked"):
        load.check()


def test_old_futures_are_checked_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "FUTURES_MAX", 1500)
    monkeypatch.setattr(produce, "Producer", lambda **settings: settings["client"])
    assert RowsIn({"client": Client()}).run("t", 10, 60.0, 5_000)["records"] == 5_000
