"""The longest time without an ack: how it is found, and the clients that measure it, through a real restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rayqueue
from benchmarks.harness.figures import Outcome
from benchmarks.workloads import w10_kill
from benchmarks.workloads.w10_clusters import COORDINATOR, REPLICA
from benchmarks.workloads.w10_kill import Kill, SteadyConsumer, SteadyProducer, longest_gap_ms
from rayqueue.testing.inprocess import InProcessCluster

MS = 1_000_000


def test_the_longest_gap_is_the_longest_silence_of_the_window() -> None:
    times = [moment * MS for moment in (0, 10, 20, 120, 125, 130, 400)]
    assert longest_gap_ms(times, 10 * MS, 130 * MS) == 100.0
    assert longest_gap_ms(times, 50 * MS, 130 * MS) == 70.0, "a silence counts from the window's beginning"
    assert longest_gap_ms(times, 120 * MS, 300 * MS) == 170.0, "and to its end"
    assert longest_gap_ms([], 0, 5 * MS) == 5.0, "nothing at all is one long silence"


def kill(role: str, quiet: int, at: int, over: int) -> Kill:
    return Kill(role, quiet * MS, at * MS, over * MS, (over - at) / 1000)


def test_a_kill_before_which_nothing_went_on_says_nothing() -> None:
    times = [moment * MS for moment in (0, 10, 20)]
    w10_kill.check_alive_before(times, kill(COORDINATOR, 10, 30, 40))
    with pytest.raises(AssertionError, match="no record was acked"):
        w10_kill.check_alive_before(times, kill(COORDINATOR, 25, 30, 40))


def test_a_gap_of_the_coordinators_death_is_held_against_the_time_before_it() -> None:
    acks = [moment * MS for moment in [*range(0, 1000, 10), *range(1300, 2000, 10), *range(2000, 4000, 10)]]
    outcome = Outcome("w10")
    kills = [kill(REPLICA, 500, 990, 2000), kill(COORDINATOR, 2000, 3000, 3900)]
    w10_kill.add_figures(outcome, kills, acks, acks)
    found = {figure.name: figure for figure in outcome.figures}
    assert found["leader killed, RF 1, longest without acks"].samples == [310.0]
    assert found["coordinator killed, longest without acks"].samples == [10.0]
    beyond = found["coordinator killed, longer than before: records"]
    assert beyond.samples == [0.0] and beyond.must_reached
    json.dumps(outcome.to_dict())


def test_the_steady_clients_see_every_record_once_through_a_restart_of_the_leader(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path) as cluster:
        client = {"bootstrap_servers": cluster.bootstrap_servers}
        with rayqueue.AdminClient(**client) as admin:
            admin.create_topic("steady", 1)
        producer, consumer = SteadyProducer(client, "steady"), SteadyConsumer(client, "steady")
        consumer.start()
        producer.start(rate=500)
        cluster.stop_replica(0)
        cluster.start_replica(0)
        sent = producer.stop()
        got = consumer.stop(len(sent["times"]) + 1)
        producer.close()
        consumer.close()
    assert sent["errors"] == [] and len(sent["times"]) > 1 and sent["times"] == sorted(sent["times"])
    assert got["whole"] and got["records"] == len(got["times"]) == len(sent["times"]) + 1
