"""What the parts of w10 are made of: steps, shares, limits, and checks that nothing was lost on the way."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

import rayqueue
from benchmarks.harness.figures import Outcome
from benchmarks.harness.rayqueue_system import RayqueueSystem, in_process
from benchmarks.workloads import w10_idle, w10_partitions, w10_scale
from benchmarks.workloads.w10_clusters import OwnCluster, elsewhere, has_processes, steps
from benchmarks.workloads.w10_consumers import Consumers, shares
from benchmarks.workloads.w10_idle import Idle
from benchmarks.workloads.w10_partitions import Size
from rayqueue.perf.payload import SUM_BELOW, touch, values_table
from tests.unit.benchmarks.inline import RolesSystem, bench_of

ROWS = 50


def test_steps_go_up_by_powers_of_ten_to_the_top() -> None:
    assert steps(10_000) == [1, 10, 100, 1000, 10_000]
    assert steps(50) == [1, 10, 50]
    assert steps(1) == [1]
    assert steps(100, (1, 3)) == [1, 3, 10, 30, 100]


@pytest.mark.parametrize(("count", "partitions"), [(1, 7), (3, 7), (7, 7), (100, 100), (30, 100)])
def test_consumers_share_all_partitions_evenly(count: int, partitions: int) -> None:
    found = shares(count, partitions)
    assert sorted(partition for share in found for partition in share) == list(range(partitions))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_consumers_of_a_process_read_their_shares_together_again_and_again(tmp_path: Path) -> None:
    table = values_table(ROWS, 100)
    with in_process(tmp_path) as system, system.topic(4) as topic, rayqueue.Producer(**system.client()) as producer:
        for future in [producer.produce_batch(topic, table) for _ in range(8)]:
            future.result(30)
        consumers = Consumers(system.client(), topic, mapped=True)
        for count in (1, 3, 4):
            consumers.open(shares(count, 4))
            records = [2 * ROWS * len(share) for share in shares(count, 4)]
            for _ in range(2):
                assert consumers.run(records)["sum"] == 8 * touch(table["value"]) % SUM_BELOW
        consumers.wait_at_end(poll_s=0.01)
        assert consumers.awake() == 0
        consumers.close()


def test_fewer_partitions_than_asked_for_where_files_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, outcome = bench_of(tmp_path, RolesSystem("rayqueue", {})), Outcome("w10")
    system = OwnSystemWith({"replica": [1, 2]})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4_000, 4_000))
    assert w10_partitions.top(bench, outcome, system) == 1800  # type: ignore[arg-type]
    assert "1,800 partitions instead of 10,000" in outcome.notes[0] and "ulimit -n" in outcome.notes[0]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert w10_partitions.top(bench, outcome, system) == 10_000  # type: ignore[arg-type]


class OwnSystemWith:
    """Only the processes of a system."""

    def __init__(self, pids: dict[str, list[int]]) -> None:
        self.pids = pids


def test_records_that_are_not_there_after_a_start_are_noticed(tmp_path: Path) -> None:
    with in_process(tmp_path) as system, rayqueue.AdminClient(**system.client()) as admin:
        admin.create_topic("p3", 3)
        with rayqueue.Producer(**system.client()) as producer:
            producer.produce_batch("p3", values_table(ROWS, 100)).result(30)
        w10_partitions.check_all_led(admin, [Size(3, "p3", 1, records=ROWS)])
        with pytest.raises(AssertionError, match=f"p3: {ROWS} records, not {ROWS + 1}"):
            w10_partitions.check_all_led(admin, [Size(3, "p3", 1, records=ROWS + 1)])


def test_a_cluster_of_its_own_keeps_its_data_through_a_stop(tmp_path: Path) -> None:
    rayqueue_here = RayqueueSystem("", None, tmp_path, on_ray=False)
    bench = bench_of(tmp_path, rayqueue_here)
    assert not has_processes(bench)
    cluster = OwnCluster(bench, "own")
    with rayqueue.AdminClient(**cluster.start().client()) as admin:
        admin.create_topic("kept", 2)
    cluster.stop()
    with rayqueue.AdminClient(**cluster.start().client()) as admin:
        assert admin.list_topics() == ["kept"]
    cluster.remove()
    assert not cluster.data_dir.exists()


def test_on_somebodys_cluster_nothing_is_started_or_killed(tmp_path: Path) -> None:
    system = RolesSystem("rayqueue", {})
    bench, outcome = bench_of(tmp_path, system), Outcome("w10")
    assert not elsewhere(bench, outcome, "kills")
    system.settings["address"] = "10.0.0.1:6379"
    w10_partitions.measure(bench, outcome)
    w10_scale.PARTS["kills"](bench, outcome)
    w10_scale.PARTS["brokers"](bench, outcome)
    assert len(outcome.notes) == 3 and all("without --address" in note for note in outcome.notes)
    assert outcome.figures == []


def test_the_goals_of_idle_partitions_are_those_of_a_thousand() -> None:
    idle = Idle([0.2], [0.2], [9.0], [0.0], [1.0, 1.0], [1.9, 1.9])
    theirs = Idle([0.4], [0.8], [100.0], [1.0], [1.0, 0.9, 1.1], [10.0, 10.0])
    thousand, few = Outcome("w10"), Outcome("w10")
    w10_idle.add_figures(thousand, {"rayqueue": idle, "kafka": theirs}, 1000, 3)
    w10_idle.add_figures(few, {"rayqueue": idle}, 5, 1)
    held = [figure for figure in thousand.figures if figure.must is not None]
    assert len(held) == 3 and all(figure.side == "rayqueue" and figure.must_reached for figure in held)
    assert [figure.samples for figure in thousand.figures if figure.unit == "ratio"] == [[0.5], [0.25]]
    added = [figure.samples[0] for figure in thousand.figures if figure.name.startswith("of it")]
    assert added == pytest.approx([0.3, 3.0]), "for 1,000 of the 3,000"
    assert all(figure.must is None for figure in few.figures)
