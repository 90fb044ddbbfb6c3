"""The nemesis' deck and the report, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tests.chaos.checker import KINDS, check
from tests.chaos.history import Event
from tests.chaos.nemesis import ALONE, FAULTS, Deck, Injected, _may_overlap
from tests.chaos.report import Report

S = 1_000_000_000


def test_every_fault_is_dealt_before_any_comes_again_and_one_draw_in_four_is_none() -> None:
    deck = Deck(Random(1), list(FAULTS))
    draws = [deck.draw() for _ in range(4000)]
    faults = [name for name in draws if name]
    for begin in range(0, len(faults) - len(FAULTS), len(FAULTS)):
        assert set(faults[begin : begin + len(FAULTS)]) == set(FAULTS)
    assert 0.2 < draws.count("") / len(draws) < 0.3


def test_the_same_seed_deals_the_same_faults() -> None:
    decks = [Deck(Random(seed), list(FAULTS)) for seed in (5, 5, 6)]
    first, again, other = [[deck.draw() for _ in range(40)] for deck in decks]
    assert first == again != other


def events() -> list[Event]:
    sent = [Event(i * S, "producer", "send", value=f"v{i}") for i in range(3)]
    acks = [Event(t * S, "producer", "ack", value=f"v{i}", partition=0, offset=i) for i, t in enumerate((1, 2, 7))]
    reads = [(0, i, f"v{i}") for i in range(3)]
    final = [Event(9 * S, "final", "assign", offsets={"0": 0}), Event(9 * S, "final", "read", records=reads)]
    return [*sent, *acks, *final]


def report(draws: list[Injected], seen: list[Event]) -> Report:
    made = Report(7, "abc", {}, draws=draws, converged_s=1.5)
    made.judge(seen, check(seen))
    return made


def test_a_good_run(tmp_path: Path) -> None:
    draws = [
        Injected("kill-leader", 1.0, int(1.2 * S), 2.0, int(1.8 * S), "replica 0 (pid 7)", "ended: 7"),
        Injected("", 2.0, 2 * S, 2.0, 2 * S),
        Injected("fill-disk", 2.1, int(2.1 * S), 4.0, 4 * S, skipped="no disk"),
    ]
    made = report(draws, events())
    assert made.good
    made.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["good"] and read["seed"] == 7 and read["draws"] == 3 and read["draws_without_fault"] == 1
    assert read["anomalies"] == dict.fromkeys(KINDS, 0)
    assert [fault["proof"] for fault in read["faults"]] == ["ended: 7", ""]
    assert [fault["longest_without_ack_s"] for fault in read["faults"]] == [1.0, 5.0]
    assert read["longest_without_ack_s"] == 5.0
    assert read["operations"]["ack"] == 3 and read["operations"]["records read"] == 3
    text = str(made)
    assert "kill-leader: replica 0 (pid 7): ended: 7" in text and "GOOD" in text and "not possible: no disk" in text


def test_a_fault_without_effect_a_problem_and_an_anomaly_each_spoil_a_run() -> None:
    without = report([Injected("kill-leader", 0.0, 0)], events())
    assert not without.good and "WITHOUT EFFECT" in str(without)
    problem = report([], events())
    problem.problems.append("it did not converge")
    assert not problem.good and "PROBLEM  it did not converge" in str(problem)
    lost = report([], [event for event in events() if event.event != "read"])
    assert not lost.good and lost.to_dict()["anomalies"]["unseen"] == 3
    assert "v0, acked at 0/0, is not read by" in str(lost) and "FAILED" in str(lost)


def test_two_faults_may_overlap_but_not_every_two() -> None:
    assert _may_overlap("kill-leader", ["stop-leader"]) and _may_overlap("kill-leader", ["", ""])
    assert not _may_overlap("kill-leader", ["stop-leader", "stop-follower"])
    assert not _may_overlap("lose-ray", ["stop-leader"]) and not _may_overlap("stop-leader", ["lose-ray"])
    assert _may_overlap("lose-ray", []) and _may_overlap("lose-ray", [""])
    assert set(FAULTS) > ALONE
