"""The simulator's parts: time, network, disk, clocks, processes and faults do what schedules rely on."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.disk import Disk
from rayqueue.testing.simulation.nemesis import Injected, Nemesis
from rayqueue.testing.simulation.network import Network, between
from rayqueue.testing.simulation.process import Process
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace


def order_of_ties(seed: int) -> tuple[str, ...]:
    """Runs three actions of one time, and one before them."""
    scheduler = Scheduler(Random(seed))
    seen: list[str] = []
    for name in "abc":
        scheduler.at(10, partial(seen.append, name))
    scheduler.after(5, partial(seen.append, "first"))
    assert not scheduler.run(9) and seen == ["first"] and scheduler.now_us == 9
    scheduler.run(20)
    assert scheduler.now_us == 20 and sorted(seen[1:]) == ["a", "b", "c"]
    return tuple(seen)


def test_time_passes_in_order_and_ties_are_drawn() -> None:
    assert len({order_of_ties(seed) for seed in range(20)}) > 3


def test_a_run_ends_when_it_is_done() -> None:
    scheduler = Scheduler(Random(1))
    for time_us in range(100):
        scheduler.at(time_us, lambda: None)
    assert scheduler.run(1_000, lambda: scheduler.steps >= 10)
    assert 10 <= scheduler.steps < 50


# --- network ----------------------------------------------------------------------------------------------------------


def net(seed: int = 1) -> tuple[Scheduler, Network, list[Any]]:
    """A network with the addresses 1 and 2, and what arrives."""
    random = Random(seed)
    scheduler, arrived = Scheduler(random), []
    network = Network(scheduler, random)
    for address in (1, 2):
        network.attach(address, lambda message, address=address: arrived.append((address, message)))
    return scheduler, network, arrived


def test_messages_arrive_and_may_overtake() -> None:
    scheduler, network, arrived = net()
    for number in range(50):
        network.send(1, 2, number)
    scheduler.run(network.delay_us_max)
    numbers = [message for _, message in arrived]
    assert sorted(numbers) == list(range(50)) and numbers != sorted(numbers)


def test_messages_get_lost_and_come_twice_and_late() -> None:
    scheduler, network, arrived = net()
    network.loss, network.duplication = 0.3, 0.3
    for number in range(200):
        network.send(1, 2, number)
    scheduler.run(network.delay_us_max)
    soon = len(arrived)
    scheduler.run(10 * network.late_us_max)
    assert network.lost > 20 and network.duplicated > 20
    assert soon < len(arrived) == network.delivered == 200 - network.lost + network.duplicated


def test_cuts_are_one_way_overlap_and_take_what_is_on_its_way() -> None:
    scheduler, network, arrived = net()
    network.send(1, 2, "on its way")
    heal = network.cut([(1, 2)])
    heal_too = network.cut(between([1], [2]))
    network.send(1, 2, "lost")
    heal_too()
    network.send(2, 1, "through")
    scheduler.run(10_000)
    assert arrived == [(1, "through")] and network.cut_off == 2
    heal()
    network.send(1, 2, "healed")
    scheduler.run(20_000)
    assert arrived[1:] == [(2, "healed")]


def test_slow_links_are_slow() -> None:
    scheduler, network, arrived = net()
    heal = network.slow([(1, 2)], 50_000)
    network.send(1, 2, "slow")
    heal()
    network.send(1, 2, "fast")
    scheduler.run(50_000)
    assert arrived == [(2, "fast")]
    scheduler.run(60_000)
    assert arrived == [(2, "fast"), (2, "slow")]


# --- disk -------------------------------------------------------------------------------------------------------------


class Letters:
    """A store of two files: what is written in upper case goes to one, the rest to the other."""

    def __init__(self) -> None:
        self.files: dict[bool, str] = {True: "", False: ""}

    def apply(self, operation: str) -> None:
        self.files[operation.isupper()] += operation

    def file_of(self, operation: str) -> bool:
        return operation.isupper()

    def torn(self, operation: str, random: Random) -> str | None:
        return operation[: random.randrange(len(operation))] or None


def disk(seed: int = 1) -> tuple[Scheduler, Letters, Disk, list[Any]]:
    """A disk, and what it has said."""
    random = Random(seed)
    scheduler, store, said = Scheduler(random), Letters(), []
    return scheduler, store, Disk(scheduler, random, store, said.append, lambda: said.append("failed")), said


def test_what_is_synced_is_durable_in_groups() -> None:
    scheduler, store, d, said = disk()
    d.latency_us_min = d.latency_us_max
    d.write(1, "ab")
    d.sync()
    d.write(2, "cd")
    d.write(3, "ef")
    d.sync()
    assert store.files[False] == ""
    scheduler.run(d.latency_us_max)
    assert store.files[False] == "ab" and said == [1]
    scheduler.run(3 * d.latency_us_max)
    assert store.files[False] == "abcdef" and said == [1, 3] and d.syncs == 2
    d.sync()
    assert d.syncs == 2, "nothing was written"


def test_a_crash_keeps_a_beginning_of_each_file() -> None:
    kept = set()
    for seed in range(200):
        scheduler, store, d, said = disk(seed)
        for number, text in enumerate(("abc", "XYZ", "def", "UVW")):
            d.write(number, text)
        d.sync()
        d.crash()
        scheduler.run(10_000)
        assert said == [] and "abcdef".startswith(store.files[False]) and "XYZUVW".startswith(store.files[True])
        kept.add((store.files[False], store.files[True]))
    assert {("abcdef", ""), ("", "XYZUVW"), ("abcdef", "XYZUVW"), ("", "")} <= kept
    assert any(low in ("ab", "abcd") for low, _ in kept), "torn in the middle of a write"


def test_a_killed_process_leaves_all_to_the_page_cache() -> None:
    scheduler, store, d, said = disk()
    d.write(1, "abc")
    d.sync()
    d.write(2, "def")
    d.kill()
    scheduler.run(10_000)
    assert store.files[False] == "abcdef" and said == []


def test_a_failed_sync_is_said_once_and_writes_nothing() -> None:
    scheduler, store, d, said = disk()
    d.fails = True
    d.write(1, "abc")
    d.sync()
    scheduler.run(10_000)
    assert said == ["failed"] and store.files[False] == ""


def test_a_slow_disk_is_slow() -> None:
    scheduler, _, d, said = disk()
    d.extra_us = 100_000
    d.write(1, "abc")
    d.sync()
    scheduler.run(99_999)
    assert said == [] and d.slow_syncs == 1
    scheduler.run(110_000)
    assert said == [1]


# --- clocks and processes ---------------------------------------------------------------------------------------------


def test_boot_time_runs_and_wall_time_is_set() -> None:
    scheduler = Scheduler(Random(1))
    clock = Clock(scheduler, rate=1.02, offset_ms=500, wall_offset_ms=1_000_000)
    scheduler.run(10_000_000)
    assert clock.now_ms() == 500 + 10_200
    clock.step_wall(-5_000)
    assert clock.wall_ms() == clock.now_ms() + 995_000
    scheduler.run(clock.virtual_us(12_345))
    assert clock.now_ms() == 12_345
    clock.run_at(3.0)
    assert clock.now_ms() == 12_345 and clock.virtual_us(12_345 + 300) - scheduler.now_us <= 100_002
    scheduler.run(scheduler.now_us + 100_000)
    assert clock.now_ms() in (12_644, 12_645)


class Alarm:
    """A machine that wants to be woken every 100 ms."""

    def __init__(self) -> None:
        self.at_ms = 100
        self.events: list[tuple[str, int]] = []

    def next_deadline_ms(self) -> int | None:
        return self.at_ms

    def step(self, event: str, now_ms: int) -> list[str]:
        self.events.append((event, now_ms))
        if now_ms >= self.at_ms:
            self.at_ms = now_ms + 100
        return [f"effect of {event}"]


def process() -> tuple[Scheduler, Alarm, Process, list[Any]]:
    """A process with an alarm in it, and the effects it has performed."""
    scheduler, alarm, performed = Scheduler(Random(1)), Alarm(), []
    return (
        scheduler,
        alarm,
        Process(scheduler, Clock(scheduler), alarm, alarm.step, "tick", performed.extend),
        performed,
    )


def test_a_process_wakes_at_its_deadlines() -> None:
    scheduler, alarm, running, performed = process()
    running.post("start")
    scheduler.run(350_000)
    assert alarm.events == [("start", 0), ("tick", 100), ("tick", 200), ("tick", 300)]
    assert performed[0] == "effect of start"


def test_events_wait_while_a_process_is_stopped() -> None:
    scheduler, alarm, running, _ = process()
    running.post("start")
    running.pause()
    scheduler.run(250_000)
    running.post("message")
    assert alarm.events == [("start", 0)] and running.waited == 1
    running.resume()
    assert alarm.events[1:] == [("message", 250), ("tick", 250)]
    scheduler.run(351_000)
    assert alarm.events[-1] == ("tick", 350)


def test_a_dead_process_does_nothing() -> None:
    scheduler, alarm, running, _ = process()
    running.post("start")
    running.end()
    running.post("message")
    scheduler.run(500_000)
    assert alarm.events == [("start", 0)]


def test_effects_may_post_events_which_come_after() -> None:
    scheduler, alarm, running, _ = process()
    looping = Process(
        scheduler,
        Clock(scheduler),
        alarm,
        alarm.step,
        "tick",
        lambda effects: looping.post("more") if len(alarm.events) < 3 else None,
    )
    looping.post("start")
    assert [event for event, _ in alarm.events] == ["start", "more", "more"] and running.alive


# --- faults -----------------------------------------------------------------------------------------------------------


def test_the_nemesis_proves_what_it_did_and_heals_all() -> None:
    random = Random(3)
    scheduler = Scheduler(random)
    trace = Trace(scheduler, on=True)
    there: list[str] = []

    def hurt() -> Injected:
        there.append("hurt")
        return Injected("hurt", there.pop, lambda: "it hurt")

    def nothing() -> Injected:
        return Injected("nothing", lambda: None, lambda: "")

    nemesis = Nemesis(scheduler, random, trace, {"hurt": hurt, "nothing": nothing, "never": lambda: None}, 1_000, 5_000)
    nemesis.start()
    scheduler.run(100_000)
    nemesis.heal()
    assert there == [] and len(nemesis.in_effect) > 10 and set(nemesis.in_effect) == {"hurt: it hurt"}
    text = "\n".join(trace.lines)
    for line in ("no fault", "never: not possible now", "healed: nothing (without effect)", "hurt: hurt"):
        assert line in text
    draws, faults = nemesis.draws, sum(": hurt" in line or ": nothing" in line for line in trace.lines)
    scheduler.run(200_000)
    assert nemesis.draws == draws and faults > 0


def test_a_trace_costs_nothing_when_nobody_reads() -> None:
    trace = Trace(Scheduler(Random(1)), on=False)
    trace.add("somewhere", "something")
    assert trace.lines == []
