"""What leaders ask of the coordinator: asked again while the outcome is not known, and no longer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from rayqueue.actors import isr_proposals
from rayqueue.actors.isr_proposals import IsrProposals
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, RayQueueError, UnknownTopicOrPartition
from rayqueue.protocol.messages import AlterPartitionsResponse, Empty
from rayqueue.replication import events as ev

WAIT_S = 10.0


class Partition:
    topic_id, partition = b"t" * 16, 0


class Coordinator:
    """Stands in for the channel: answers with what it was given, in order; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.changed = threading.Condition()

    def call(self, action: str, *_: Any) -> Any:
        with self.changed:
            self.asked.append(action)
            answer = self.answers.pop(0)
            self.changed.notify_all()
        if isinstance(answer, RayQueueError):
            raise answer
        return answer

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, WAIT_S)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isr_proposals, "RETRY_S", 0.001)


def started(coordinator: Coordinator) -> tuple[IsrProposals, list[ev.IsrRefused]]:
    refused: list[ev.IsrRefused] = []
    return IsrProposals(coordinator, 1, 0, "i", lambda _, event: refused.append(event)), refused  # type: ignore[arg-type]


def test_a_proposal_is_repeated_until_its_outcome_is_known() -> None:
    away = BrokerNotAvailable("the coordinator is away")
    coordinator = Coordinator(away, away, AlterPartitionsResponse(1, [""]))
    proposals, refused = started(coordinator)
    proposals.propose(Partition(), ev.ProposeIsr([(1, "i")], 0, 3))  # type: ignore[arg-type]
    coordinator.wait_for(3)
    proposals.stop()
    assert refused == [] and coordinator.asked == ["alter_partitions"] * 3


@pytest.mark.parametrize("answer", [AlterPartitionsResponse(1, ["FencedLeaderEpoch"]), ClusterMismatch("gone")])
def test_a_refusal_is_told_and_not_repeated(answer: Any) -> None:
    coordinator = Coordinator(answer, Empty())
    proposals, refused = started(coordinator)
    proposals.propose(Partition(), ev.ProposeIsr([(1, "i")], 0, 3))  # type: ignore[arg-type]
    coordinator.wait_for(1)
    proposals.resign(Partition(), ev.Resign(0))  # type: ignore[arg-type]
    coordinator.wait_for(2)
    proposals.stop()
    assert [event.partition_epoch for event in refused] == [3]
    assert coordinator.asked == ["alter_partitions", "resign_leader"]


def test_a_leader_of_a_topic_that_is_gone_does_not_ask_to_be_replaced_for_ever() -> None:
    coordinator = Coordinator(UnknownTopicOrPartition("deleted"), Empty())
    proposals, _ = started(coordinator)
    proposals.resign(Partition(), ev.Resign(0))  # type: ignore[arg-type]
    coordinator.wait_for(1)
    proposals.resign(Partition(), ev.Resign(1))  # type: ignore[arg-type]
    coordinator.wait_for(2)
    proposals.stop()
    assert coordinator.asked == ["resign_leader"] * 2 and coordinator.answers == []


def test_the_end_of_a_log_is_told_until_it_is_taken_also_while_this_process_counts_as_gone() -> None:
    coordinator = Coordinator(BrokerNotAvailable("away"), ClusterMismatch("gone"), Empty())
    proposals, _ = started(coordinator)
    proposals.report(Partition(), ev.ReportLogEnd(3, 2, 70))  # type: ignore[arg-type]
    coordinator.wait_for(3)
    proposals.stop()
    assert coordinator.asked == ["report_log_ends"] * 3 and coordinator.answers == []
