"""Processes whose machine went down: who may lead, who is waited for, and who is compared with whom (KIP-966)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rayqueue.coordination.events import WatchStarted
from rayqueue.coordination.unclean import awaits_logs
from rayqueue.errors import ClusterMismatch
from rayqueue.protocol.messages import (
    ElectLeadersRequest,
    LogEnd,
    Reassignment,
    ReassignPartitionsRequest,
    RegisterReplicaActor,
    ReportLogEnds,
    ResignLeaderRequest,
)
from tests.unit.coordination.test_leadership import Cluster


class Machines(Cluster):
    """Brokers whose machines lose power."""

    def start(self, broker_id: int, unclean: bool = True) -> None:
        """A new process, registered."""
        self.generations[broker_id] += 1
        incarnation = f"i{broker_id}.0.{self.generations[broker_id]}"
        self.call(RegisterReplicaActor(broker_id, 0, incarnation, "h", 1, unclean))
        self.step(WatchStarted(incarnation))

    def power_failure(self) -> None:
        """Everything goes down, and the coordinator is first to be back: it does not know yet who is gone."""
        self.restart()

    def report(self, broker_id: int, last_epoch: int, log_end: int, **changes: Any) -> None:
        p = self.partition
        log = LogEnd(p.topic_id, 0, p.leader_epoch, last_epoch, log_end)
        for name, value in changes.items():
            setattr(log, name, value)
        self.call(ReportLogEnds(broker_id, 0, self.incarnation(broker_id), [log]))

    @property
    def unclean(self) -> list[int]:
        return [one.broker_id for one in self.partition.unclean]


def test_one_that_starts_uncleanly_beside_a_leader_is_out_and_never_eligible() -> None:
    machines = Machines(**{"min.insync.replicas": "3"})
    first, second, third = machines.partition.replicas
    machines.start(third)
    assert machines.now == (first, sorted([first, second]), [], 0), "a clean start would have been eligible"
    assert machines.unclean == [third]
    assert machines.ask([first, second, third]) == ""
    assert machines.now[1] == sorted([first, second, third]) and machines.unclean == []


def test_a_leader_that_starts_uncleanly_leads_no_more() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.start(first)
    assert machines.now == (second, sorted([second, third]), [], 1)


def test_after_a_power_failure_of_all_nobody_leads_before_every_log_is_known_then_the_highest() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (second, first, third):
        machines.start(broker_id)
    assert machines.now[:3] == (-1, [], []) and set(machines.unclean) == {first, second, third}
    machines.report(first, 0, 70)
    machines.report(third, 0, 75)
    assert machines.partition.leader == -1
    epoch = machines.partition.leader_epoch
    machines.report(second, 0, 60)
    assert machines.now == (third, [third], [], epoch + 1) and machines.unclean == []


def test_a_later_epoch_is_higher_than_a_longer_log() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 3, 900)
    machines.report(second, 4, 12)
    machines.report(third, 4, 10)
    assert machines.partition.leader == second


@pytest.mark.parametrize("others", [75, 74])
def test_of_two_that_are_equal_one_that_is_there_leads_and_a_single_highest_is_waited_for(others: int) -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 75)
    machines.report(second, 0, others)
    machines.lose(first)
    machines.report(third, 0, 60)
    assert machines.partition.leader == (second if others == 75 else -1)
    machines.step(WatchStarted(machines.incarnation(first)))
    assert machines.partition.leader == (second if others == 75 else first)


def test_one_that_went_down_with_the_others_and_has_not_said_so_leads_in_name_only() -> None:
    """The coordinator still has the processes of before for there: each moves the leadership on to one that is dead.
    Those who were passed over are compared all the same."""
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.start(first)
    assert machines.partition.leader == second
    machines.start(second)
    assert machines.partition.leader == third
    machines.start(third)
    assert machines.now[:3] == (-1, [], [])
    for broker_id, end in ((third, 5), (second, 6), (first, 7)):
        assert machines.partition.leader == -1
        machines.report(broker_id, 0, end)
    assert machines.partition.leader == first


def test_one_clean_member_of_the_isr_is_enough_and_is_waited_for() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    machines.start(first)
    machines.start(second)
    machines.advance(60_000)
    assert machines.now[:3] == (third, [third], []), "in name: it is not there"
    machines.report(first, 0, 3)
    machines.report(second, 0, 4)
    assert machines.partition.leader == third
    epoch = machines.partition.leader_epoch
    machines.start(third, unclean=False)
    assert machines.now == (third, [third], [], epoch + 1)


def test_the_last_member_alone_leads_at_once_for_nobody_else_held_all() -> None:
    machines = Machines(**{"min.insync.replicas": "1"})
    first, second, third = machines.partition.replicas
    machines.lose(second)
    machines.lose(third)
    assert machines.now == (first, [first], [], 0)
    machines.lose(first)
    machines.start(first)
    assert machines.now == (first, [first], [], 2) and machines.unclean == []


def test_the_eligible_are_compared_too() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.lose(third)
    machines.lose(second)
    machines.lose(first)
    assert machines.now == (first, [first], [second], 0)
    machines.start(first)
    assert machines.now[:3] == (-1, [], [second]), "who may be clean is waited for"
    machines.start(second)
    machines.report(first, 0, 3)
    machines.report(second, 0, 4)
    assert machines.partition.leader == second


def test_an_eligible_one_that_starts_cleanly_leads() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    for broker_id in (third, second, first):
        machines.lose(broker_id)
    machines.start(first)
    machines.start(second, unclean=False)
    assert machines.now[:3] == (second, [second], [])


def test_where_each_ack_was_flushed_a_start_is_a_start() -> None:
    machines = Machines(**{"flush.messages": "1"})
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    assert machines.unclean == [] and machines.partition.leader == third


def test_the_highest_is_waited_for_when_it_is_away_again() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 9)
    machines.lose(first)
    machines.report(second, 0, 8)
    machines.report(third, 0, 7)
    assert machines.partition.leader == -1
    machines.start(first, unclean=False)
    assert machines.partition.leader == first


def test_the_highest_that_goes_down_once_more_has_to_say_anew_what_it_holds() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 9)
    machines.start(first)
    machines.report(second, 0, 8)
    machines.report(third, 0, 7)
    assert machines.partition.leader == -1
    machines.report(first, 0, 3)
    assert machines.partition.leader == second


def test_the_highest_that_only_broke_its_stream_leads_when_it_is_heard_of_again() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 9)
    machines.lose(first)
    machines.report(second, 0, 8)
    machines.report(third, 0, 7)
    machines.step(WatchStarted(machines.incarnation(first)))
    assert machines.partition.leader == first


def test_what_is_said_late_or_by_a_process_that_is_over_counts_for_nothing() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.report(first, 0, 99)
    assert machines.partition.leader == first and machines.partition.partition_epoch == 0
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 99, leader_epoch=machines.partition.leader_epoch - 1)
    machines.report(first, 0, 99, partition=5)
    machines.report(first, 0, 99, topic_id=b"?" * 16)
    assert all(one.log_end == -1 for one in machines.partition.unclean)
    with pytest.raises(ClusterMismatch):
        machines.call(ReportLogEnds(first, 0, "somebody", []))


def test_a_coordinator_that_starts_anew_knows_what_was_said() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 9)
    before = machines.partition
    machines.restart()
    assert machines.partition == before


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes_and_goes_a_leader_has_all_that_was_acked_or_the_highest_log_of_all_that_had(seed: int) -> None:
    """A model beside: what is acked is on every member of an ISR that is large enough; a machine that loses power loses
    a part of what it has. A step is a record, a member caught up, a process lost, or one started."""
    rng = random.Random(seed)
    machines = Machines()
    ends, acked, by_log = dict.fromkeys(range(3), 0), 0, 0
    for _ in range(80):
        p = machines.partition
        there = [b for b in range(3) if machines.state.is_there(p, b)]
        step, who, distrusted = rng.randrange(5), rng.randrange(3), set[int]()
        if step == 0 and set(p.isr) <= set(there) and len(p.isr) >= 2:
            acked = ends[p.leader] + 1
            ends.update(dict.fromkeys(p.isr, acked))
        elif step == 1 and p.leader in there and p.leader_epoch:
            ends.update(dict.fromkeys(there, ends[p.leader]))
            assert machines.ask(sorted(there)) == ""
        elif step == 2 and who in there:
            machines.lose(who)
        elif step >= 3:
            if rng.random() < 0.5:
                ends[who] = rng.randint(0, ends[who])
                distrusted = {who}
            machines.start(who, unclean=bool(distrusted))
        members = {one.broker_id for one in p.unclean} | (distrusted & {*p.isr, *p.elr})
        for one in machines.partition.unclean:
            if awaits_logs(machines.partition) and machines.state.is_there(machines.partition, one.broker_id):
                machines.report(one.broker_id, 0, ends[one.broker_id])
        now = machines.partition
        if now.leader == -1 or now.leader_epoch == p.leader_epoch or not machines.state.is_there(now, now.leader):
            continue
        if {*p.isr, *p.elr} - distrusted:
            assert ends[now.leader] >= acked, "it was eligible, and has not all that was acked"
        else:
            by_log += 1
            assert ends[now.leader] == max(ends[b] for b in members), "another has more"
            acked = min(acked, ends[now.leader])
    assert seed or by_log


# --- elections that are unclean, and other replicas, while logs are compared ------------------------------------------


def test_asked_for_an_unclean_leader_the_highest_log_that_is_there_leads() -> None:
    machines = Machines()
    first, second, third = machines.partition.replicas
    machines.power_failure()
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 70)
    machines.report(third, 0, 75)
    machines.lose(second)
    assert machines.partition.leader == -1
    answer = machines.call(ElectLeadersRequest([(machines.partition.topic_id, 0)], unclean=True))
    assert answer.moved == 1
    assert (machines.partition.leader, machines.partition.isr, machines.unclean) == (third, [third], [])
    assert machines.partition.unclean_epoch == machines.partition.leader_epoch


def test_who_is_waited_for_is_not_given_up_by_a_reassignment() -> None:
    machines = Machines()
    machines.broker(3, pool=1)
    first, second, third = machines.partition.replicas
    machines.power_failure()
    machines.step(WatchStarted("i3.0.0"))
    for broker_id in (first, second, third):
        machines.start(broker_id)
    machines.report(first, 0, 70)
    assert machines.partition.leader == -1 and awaits_logs(machines.partition)

    def reassign(replicas: list[int] | None) -> str:
        change = Reassignment(machines.partition.topic_id, 0, replicas)
        return str(machines.call(ReassignPartitionsRequest([change])).results[0].error)

    assert reassign([first, second, 3]) == ""
    assert set(machines.unclean) == {first, second, third}, "the third may have the longest log"
    assert reassign([3]) == "" and machines.partition.target == [3]
    machines.report(second, 0, 60)
    machines.report(third, 0, 75)
    assert machines.partition.leader == third and machines.partition.target == [3]


def test_a_replica_whose_log_has_failed_does_not_lead_by_a_reassignment() -> None:
    machines = Machines()  # min.insync.replicas is 2
    first, second, third = machines.partition.replicas
    assert machines.ask([first, second]) == "" and machines.ask([first]) == ""
    machines.lose(second)
    p = machines.partition
    assert (p.isr, p.elr) == ([first], [second])
    machines.call(ResignLeaderRequest(first, 0, machines.incarnation(first), p.topic_id, 0, p.leader_epoch))
    assert machines.partition.leader == -1, "the second is waited for"
    for target, error in (([first, second], ""), ([first, third], ""), ([third], "")):
        change = Reassignment(p.topic_id, 0, target)
        assert machines.call(ReassignPartitionsRequest([change])).results[0].error == error
        assert machines.partition.leader == -1
    machines.step(WatchStarted(machines.incarnation(second)))
    assert machines.partition.leader == second
