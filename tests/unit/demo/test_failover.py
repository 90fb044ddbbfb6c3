"""Which process the demo kills, and that each claim about what followed can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayqueue.admin_descriptions import PartitionDescription, TopicDescription
from rayqueue.cluster_status import ClusterStatus, PartitionStatus, ProcessStatus, TopicStatus
from rayqueue.demo import failover
from rayqueue.demo.failover import Failover, Killed, Victim

LED = {("flights", 0): 3, ("weather", 1): 0}
KILLED = Killed(Victim(1, 4711, LED), 0.0, 40)


def _process(role: str, broker_id: int, data_dir: Path) -> ProcessStatus:
    return ProcessStatus(role, broker_id, 0, "running", "", "h:1", 4710 + broker_id, "n", str(data_dir), "")


def _partition(number: int, leader: int, isr: list[int], epoch: int = 0) -> PartitionStatus:
    return PartitionStatus(number, leader, epoch, isr, isr, False, False)


def _status(tmp_path: Path, *partitions: PartitionStatus) -> ClusterStatus:
    weather = TopicStatus("weather", False, [_partition(0, 0, [0, 1]), _partition(1, 1, [1, 0], 2)])
    processes = [
        _process(role, broker_id, tmp_path / str(broker_id)) for broker_id in (0, 1) for role in ("broker", "replica")
    ]
    topics = [TopicStatus("flights", True, list(partitions)), weather]
    return ClusterStatus("demo", "c", "", False, "", 1, 1, processes, topics)


def test_the_leader_of_a_partition_that_others_have_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    found = _status(tmp_path, _partition(0, 0, [0]), _partition(1, 1, [1, 0], 5), _partition(2, 1, [1]))
    assert failover.choose(found) == Victim(1, 4711, {("flights", 1): 5, ("flights", 2): 0, ("weather", 1): 2})


def test_nobody_is_chosen_without_another_replica_or_on_another_machine(tmp_path: Path) -> None:
    assert failover.choose(_status(tmp_path, _partition(0, 1, [1, 0]))) is None
    (tmp_path / "1").mkdir()
    assert failover.choose(_status(tmp_path, _partition(0, 1, [1]))) is None


class Admin:
    """Describes topics as it was told to, the last answer again and again."""

    def __init__(self, *answers: dict[tuple[str, int], tuple[int, list[int]]]) -> None:
        self._answers = list(answers)

    def describe_topics(self, names: list[str]) -> list[TopicDescription]:
        assert names == ["flights", "weather"]
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        partitions = {name: [] for name in names}
        for (name, number), (epoch, isr) in answer.items():
            partitions[name].append(PartitionDescription(number, isr[0], epoch, [0, 1, 2], isr))
        return [TopicDescription(name, "", found, None, None, {}, []) for name, found in partitions.items()]


def test_what_followed_is_looked_at_once_every_replica_is_back() -> None:
    away = {("flights", 0): (4, [0, 2]), ("weather", 1): (0, [0, 2])}
    back = {("flights", 0): (4, [0, 2, 1]), ("weather", 1): (1, [0, 2, 1])}
    found = failover.look(Admin(away, back), KILLED._replace(at_s=failover.time.monotonic()), 0.4)
    assert found.unchanged == [] and found.back_s is not None and found.gap_s == 0.4
    assert all(check.ok for check in failover.check_failover(found, 100))


def test_who_does_not_come_back_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "BACK_S", 0.0)
    found = failover.look(Admin({("flights", 0): (4, [0, 2]), ("weather", 1): (0, [1])}), KILLED, 0.4)
    assert found.back_s is None and found.unchanged == [("weather", 1)]
    assert [check.ok for check in failover.check_failover(found, 100)] == [True, False, False]


def test_a_kill_after_the_last_flight_shows_nothing() -> None:
    after = Failover(KILLED._replace(flights=100), [], 1.0, 0.1)
    assert [check.ok for check in failover.check_failover(after, 100)] == [False, True, True]
