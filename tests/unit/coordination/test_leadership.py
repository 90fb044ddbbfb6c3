"""Who leads and who is in sync, as processes come and go; and what leaders may change."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rayqueue.coordination.events import Stalled, WatchEnded, WatchStarted
from rayqueue.coordination.records import PartitionRecord
from rayqueue.coordination.sessions import ACTOR_GRACE_MS, ACTOR_SESSION_MS
from rayqueue.errors import ClusterMismatch
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    AlterPartition,
    AlterPartitionsRequest,
    ElectLeadersRequest,
    ResignLeaderRequest,
)
from tests.unit.coordination.harness import Harness, create, spec


class Cluster(Harness):
    """Three brokers with one replica actor each, and topic t with one partition of three replicas."""

    def __init__(self, **configs: str) -> None:
        super().__init__()
        for broker_id in range(3):
            self.broker(broker_id, pool=1)
        self.generations = [0, 0, 0]
        answer = self.change(create(spec("t", 1, replication_factor=3, configs=configs)))
        assert not answer.results[0].error

    @property
    def partition(self) -> PartitionRecord:
        return self.state.topics["t"].partitions[0]

    @property
    def now(self) -> tuple[int, list[int], list[int], int]:
        """Leader, ISR, ELR, leader epoch."""
        p = self.partition
        return p.leader, p.isr, p.elr, p.leader_epoch

    def incarnation(self, broker_id: int) -> str:
        return self.state.replica_actors[broker_id, 0].incarnation

    def lose(self, broker_id: int) -> None:
        """Its stream breaks, and no other is opened."""
        self.stop(self.incarnation(broker_id))
        self.advance(ACTOR_GRACE_MS)

    def start_again(self, broker_id: int) -> None:
        """A new process, noticed by its registration."""
        self.generations[broker_id] += 1
        self.actor(broker_id, 0, self.generations[broker_id])

    def ask(self, isr: list[int], by: int | None = None, **changes: Any) -> str:
        """The leader's wish for an ISR; the name of the error."""
        p = self.partition
        by = p.leader if by is None else by
        members = changes.pop("members", [(b, self.incarnation(b)) for b in isr])
        wish = AlterPartition(p.topic_id, 0, p.leader_epoch, p.partition_epoch, members)
        for name, value in changes.items():
            setattr(wish, name, value)
        request = AlterPartitionsRequest(by, 0, self.incarnation(by), [wish])
        (error,) = self.call(request).errors
        return str(error)


# --- losses and starts ----------------------------------------------------------------------------------------------


def test_a_leader_that_is_lost_is_followed_by_the_next_in_sync() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    assert cluster.now == (first, [first, second, third], [], 0)
    cluster.lose(first)
    assert cluster.now == (second, sorted([second, third]), [], 1)


def test_a_stream_that_is_opened_anew_in_time_changes_nothing() -> None:
    cluster = Cluster()
    before, leader = cluster.now, cluster.partition.leader
    cluster.step(WatchEnded(cluster.incarnation(leader)))
    cluster.advance(ACTOR_GRACE_MS - 1)
    cluster.step(WatchStarted(cluster.incarnation(leader)))
    cluster.advance(10 * ACTOR_SESSION_MS)
    assert cluster.now == before


def test_a_coordinator_that_stood_still_waits_for_those_that_have_left_it() -> None:
    """All streams broke while it was stopped. Their ends are heard of before and after it knows."""
    cluster = Cluster()
    before = cluster.now
    first, second, third = cluster.partition.replicas
    cluster.stop(cluster.incarnation(first))
    cluster.step(Stalled())
    cluster.stop(cluster.incarnation(second))
    cluster.advance(ACTOR_SESSION_MS - 1)
    assert cluster.now == before
    cluster.step(WatchStarted(cluster.incarnation(first)))
    cluster.advance(1)
    assert cluster.now == (first, sorted([first, third]), [], 0), "who has not come back by then is gone"
    cluster.lose(first)
    assert cluster.now[0] == third, "and from then on it is as before"


def test_a_follower_that_is_lost_leaves_the_isr_under_the_same_leader_epoch() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    epoch = cluster.partition.partition_epoch
    cluster.lose(third)
    assert cluster.now == (first, sorted([first, second]), [], 0)
    assert cluster.partition.partition_epoch == epoch + 1


def test_the_last_in_sync_is_waited_for_and_who_left_it_below_the_minimum_stays_eligible() -> None:
    cluster = Cluster()  # min.insync.replicas is 2
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    assert cluster.now == (first, [first], [second], 0), "the third left while two were enough"
    cluster.lose(first)
    assert cluster.now == (first, [first], [second], 0)
    cluster.start_again(third)
    assert cluster.now == (first, [first], [second], 0), "it may lack acked records"
    cluster.start_again(second)
    assert cluster.now == (second, [second], [first], 1), "it holds all below the high watermark"
    cluster.start_again(first)
    assert cluster.now == (second, [second], [first], 1), "it has to follow first"


def test_with_a_minimum_of_one_nobody_is_eligible_but_the_isr() -> None:
    cluster = Cluster(**{"min.insync.replicas": "1"})
    first, second, third = cluster.partition.replicas
    for lost in (third, second, first):
        cluster.lose(lost)
    cluster.start_again(second)
    assert cluster.now == (first, [first], [], 0)
    cluster.start_again(first)
    assert cluster.now == (first, [first], [], 1)


def test_a_lowered_minimum_takes_eligibility_away() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    assert cluster.partition.elr == [second]
    cluster.change(AlterConfigRequest("t", {"min.insync.replicas": "1"}))
    assert cluster.now == (first, [first], [], 0)


def test_a_leader_that_starts_again_before_its_loss_is_noticed_is_passed_over() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.start_again(first)
    assert cluster.now == (second, sorted([second, third]), [], 1)


def test_a_follower_that_starts_again_has_to_catch_up_first() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.start_again(third)
    assert cluster.now == (first, sorted([first, second]), [], 0)


def test_a_process_that_was_thought_lost_goes_on() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    for lost in (third, second, first):
        cluster.lose(lost)
    cluster.step(WatchStarted(cluster.incarnation(first)))
    assert cluster.now == (first, [first], [second], 0), "the same process, so the same epoch"
    assert cluster.ask([first]) == "", "and it may ask again"


def test_after_a_restart_of_the_coordinator_processes_have_time_to_come_back() -> None:
    cluster = Cluster()
    before = cluster.now
    first, second, _ = cluster.partition.replicas
    cluster.restart()
    cluster.advance(ACTOR_SESSION_MS - 1)
    cluster.step(WatchStarted(cluster.incarnation(second)))
    cluster.step(WatchStarted(cluster.incarnation(first)))
    assert cluster.now == before
    cluster.advance(1)
    assert cluster.now == (first, sorted([first, second]), [], 0)


# --- what leaders change --------------------------------------------------------------------------------------------


def test_a_leader_takes_followers_out_and_in() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    assert cluster.ask([first, second]) == ""
    assert cluster.now == (first, sorted([first, second]), [], 0)
    assert cluster.ask([first]) == ""
    assert cluster.now == (first, [first], [second], 0)
    assert cluster.ask([first, second, third]) == ""
    assert cluster.now == (first, sorted([first, second, third]), [], 0)


def test_asking_twice_changes_nothing_the_second_time() -> None:
    cluster = Cluster()
    first, second, _ = cluster.partition.replicas
    epoch = cluster.partition.partition_epoch
    assert cluster.ask([first, second]) == ""
    after = cluster.partition
    assert cluster.ask([first, second], partition_epoch=epoch) == ""
    assert cluster.partition == after


def test_what_a_leader_may_not_change() -> None:
    cluster = Cluster()
    p = cluster.partition
    first, second, third = p.replicas
    assert cluster.ask([first, second], by=second) == "NotLeaderOrFollower"
    assert cluster.ask([first, second], leader_epoch=p.leader_epoch + 1) == "FencedLeaderEpoch"
    assert cluster.ask([first, second], partition_epoch=p.partition_epoch - 1) == "FencedLeaderEpoch"
    assert cluster.ask([second, third]) == "ProtocolError"
    assert cluster.ask([first, first, second]) == "ProtocolError"
    members = [(b, cluster.incarnation(b)) for b in (first, second)]
    assert cluster.ask([], members=[*members, (7, "x")]) == "ProtocolError"
    assert cluster.ask([], topic_id=b"?" * 16) == "UnknownTopicOrPartition"
    assert cluster.ask([], partition=1) == "UnknownTopicOrPartition"
    assert cluster.partition == p


def test_a_member_that_has_been_restarted_since_is_refused() -> None:
    """KIP-903: the leader has seen the old process caught up; the new one may have lost its tail."""
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    old = cluster.incarnation(third)
    cluster.start_again(third)
    members = [(first, cluster.incarnation(first)), (second, cluster.incarnation(second)), (third, old)]
    assert cluster.ask([], members=members) == "ClusterMismatch"
    assert third not in cluster.partition.isr
    assert cluster.ask([first, second, third]) == ""


def test_a_member_that_is_gone_does_not_join() -> None:
    cluster = Cluster()
    cluster.lose(cluster.partition.replicas[2])
    assert cluster.ask(cluster.partition.replicas) == "ClusterMismatch"


def test_a_process_that_is_over_or_counts_as_gone_changes_nothing() -> None:
    cluster = Cluster()
    leader = cluster.partition.leader
    old = cluster.incarnation(leader)
    cluster.lose(leader)
    with pytest.raises(ClusterMismatch):
        cluster.call(AlterPartitionsRequest(leader, 0, old, []))
    cluster.start_again(leader)
    with pytest.raises(ClusterMismatch):
        cluster.call(AlterPartitionsRequest(leader, 0, old, []))


def test_partitions_are_given_back_to_the_leaders_that_were_wanted() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.start_again(first)
    answer = cluster.call(ElectLeadersRequest(None))
    assert (answer.moved, answer.errors) == (0, ["NotEnoughReplicas"]), "it is not in sync yet"
    assert cluster.ask([first, second, third]) == ""
    answer = cluster.call(ElectLeadersRequest(None))
    assert (answer.moved, answer.errors) == (1, [""])
    assert cluster.now == (first, sorted([first, second, third]), [], 2)
    key = (cluster.partition.topic_id, 0)
    answer = cluster.call(ElectLeadersRequest([key, (b"?" * 16, 0)]))
    assert (answer.moved, answer.errors) == (0, ["", "UnknownTopicOrPartition"])


# --- any order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_only_who_holds_all_acked_records_leads(seed: int) -> None:
    """A model beside the machine: `holds` are the replicas that have every record that could have been acked: the high
    watermark moves only while the ISR is at least the minimum, and then for every member of it."""
    rng = random.Random(seed)
    cluster = Cluster()
    holds = set(range(3))
    before = cluster.partition
    for _ in range(120):
        broker_id = rng.randrange(3)
        incarnation = cluster.incarnation(broker_id)
        match rng.choice(["break", "open", "start", "pass", "shrink", "grow", "restart", "prefer"]):
            case "break" if cluster.machine.is_watching(incarnation):
                cluster.stop(incarnation)
            case "open" if not cluster.machine.is_watching(incarnation):
                cluster.step(WatchStarted(incarnation))
            case "start":
                cluster.start_again(broker_id)
            case "pass":
                cluster.advance(rng.choice([1, ACTOR_GRACE_MS, ACTOR_SESSION_MS]))
            case "shrink" | "grow" as change:
                p = cluster.partition
                wished = set(p.isr) - {broker_id} if change == "shrink" else {*p.isr, broker_id}
                leads = (p.leader, 0) not in cluster.state.lost and p.leader in wished
                if leads and cluster.ask(sorted(wished)) == "":
                    holds |= wished  # the leader has seen it caught up
            case "restart":
                cluster.restart()
            case "prefer":
                cluster.call(ElectLeadersRequest(None))
        after = cluster.partition
        assert after.leader in holds, "a leader lacks records that were acked"
        assert after.isr and set(after.isr) <= holds and set(after.elr) <= holds
        assert after.leader_epoch >= before.leader_epoch and after.partition_epoch >= before.partition_epoch
        if after.leader != before.leader:
            assert after.leader_epoch > before.leader_epoch
        if after != before:
            assert after.partition_epoch > before.partition_epoch
        if len(after.isr) >= 2:  # records are acked by these
            holds = set(after.isr)
        before = after


def test_when_the_last_in_sync_is_lost_an_eligible_one_that_is_there_leads() -> None:
    """It left the ISR because it lagged, while the high watermark stood: it lacks nothing that was acked."""
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    assert cluster.ask([first, second]) == "" and cluster.ask([first]) == ""
    assert cluster.now == (first, [first], [second], 0)
    cluster.lose(first)
    assert cluster.now == (second, [second], [first], 1)
    assert third not in cluster.partition.elr


def test_after_all_were_killed_those_that_come_back_need_not_wait_for_one_that_does_not() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.restart()  # nobody watches; all of them count as there for a while
    cluster.start_again(first)
    cluster.start_again(second)
    cluster.advance(ACTOR_SESSION_MS)
    leader, isr, _, _ = cluster.now
    assert leader in (first, second) and third not in isr


# --- leaders whose log has failed -------------------------------------------------------------------------------------


def resign(cluster: Cluster, by: int) -> None:
    p = cluster.partition
    cluster.call(ResignLeaderRequest(by, 0, cluster.incarnation(by), p.topic_id, p.partition, p.leader_epoch))


def test_a_leader_that_resigns_is_followed_by_the_next_in_sync() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    resign(cluster, first)
    assert cluster.now == (second, sorted([second, third]), [], 1)


@pytest.mark.parametrize("how", ["returns", "starts anew"])
def test_a_leader_that_resigns_alone_is_followed_by_the_first_that_comes_back(how: str) -> None:
    """Nobody asks a second time."""
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    assert cluster.now == (first, [first], [second], 0)
    resign(cluster, first)
    assert cluster.now == (-1, [first], [second], 1)
    if how == "returns":
        cluster.step(WatchStarted(cluster.incarnation(second)))
    else:
        cluster.start_again(second)
    assert cluster.now[0] == second and cluster.now[3] == 2
    cluster.lose(second)
    cluster.start_again(first)
    assert cluster.now[0] == first, "its process has started anew, and recovered its log"


def test_an_eligible_one_that_is_there_leads_at_once_when_the_leader_resigns() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    cluster.start_again(second)
    assert cluster.now == (first, [first], [second], 0), "it has to catch up first"
    resign(cluster, first)
    assert cluster.now == (second, [second], [first], 1)


def test_the_only_one_that_has_it_all_stays_the_leader_and_says_what_is_wrong() -> None:
    cluster = Cluster(**{"min.insync.replicas": "1"})
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    before = cluster.now
    assert before == (first, [first], [], 0)
    resign(cluster, first)
    assert cluster.now == before
