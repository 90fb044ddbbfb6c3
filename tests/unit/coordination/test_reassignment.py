"""Giving partitions other replicas: each step, and what comes between."""

from __future__ import annotations

import random

import pytest

from rayqueue.coordination.sessions import ACTOR_GRACE_MS, ACTOR_SESSION_MS
from rayqueue.errors import ClusterMismatch
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    DeleteTopicsRequest,
    ElectLeadersRequest,
    Reassignment,
    ReassignPartitionsRequest,
)
from tests.unit.coordination.moving import BROKERS, Moving

EVENTS = ["lose", "start", "pass", "shrink", "grow", "grow", "reassign", "cancel", "restart", "prefer"]


def test_a_partition_moves_to_other_brokers_when_all_of_them_are_in_sync() -> None:
    cluster = Moving()
    assert cluster.reassign([2, 3]) == ""
    assert cluster.roles == ([0, 1, 2, 3], [2, 3], [0, 1])
    epoch = cluster.p.leader_epoch
    assert cluster.isr([0, 1, 2]) == ""
    assert cluster.roles == ([0, 1, 2, 3], [2, 3], [0, 1, 2]), "the other is not in sync yet"
    assert cluster.isr([0, 1, 2, 3]) == ""
    assert cluster.roles == ([2, 3], [], [2, 3])
    assert (cluster.p.leader, cluster.p.leader_epoch, cluster.p.target) == (2, epoch + 1, [])


def test_a_leader_that_stays_leads_on_in_its_epoch() -> None:
    cluster = Moving(3)
    cluster.reassign([4, 0, 3])
    before = cluster.p.leader_epoch
    cluster.isr([0, 1, 2, 3, 4])
    assert cluster.roles == ([4, 0, 3], [], [0, 3, 4])
    assert (cluster.p.leader, cluster.p.leader_epoch) == (0, before)


def test_the_replication_factor_grows_and_the_minimum_with_it_only_at_the_end() -> None:
    cluster = Moving(1)
    assert cluster.reassign([0, 1, 2]) == ""
    assert cluster.minimum() == "1", "the only replica there is must go on taking records"
    cluster.isr([0, 1, 2])
    assert (cluster.p.replicas, cluster.minimum()) == ([0, 1, 2], "2")


def test_the_replication_factor_falls_at_once_and_eligibility_with_the_minimum() -> None:
    cluster = Moving(3, partitions=2)
    cluster.isr([0, 1], number=1)
    cluster.isr([0], number=1)
    assert cluster.of(1).elr == [1], "with a minimum of two it lacks nothing"
    assert cluster.reassign([1]) == ""
    assert (cluster.p.replicas, cluster.p.isr, cluster.p.leader, cluster.minimum()) == ([1], [1], 1, "1")
    assert cluster.of(1).elr == [], "from now on the leader alone may commit"


def test_the_smallest_partition_decides_the_minimum_while_a_topic_is_on_its_way() -> None:
    cluster = Moving(1, partitions=2)
    cluster.reassign([0, 1, 2], 0)
    cluster.isr([0, 1, 2], 0)
    assert cluster.minimum() == "1", "partition 1 has one replica still"
    cluster.reassign([0, 1, 2], 1)
    cluster.isr([0, 1, 2], 1)
    assert cluster.minimum() == "2"


def test_what_is_cancelled_leaves_no_trace() -> None:
    cluster = Moving(3)
    before = cluster.p
    cluster.reassign([3, 4, 0])
    cluster.isr([0, 1, 2, 3])
    assert cluster.reassign(None) == ""
    after = cluster.p
    assert (after.replicas, after.slots, after.isr) == (before.replicas, before.slots, before.isr)
    assert (after.leader, after.leader_epoch, after.target, after.adding) == (0, before.leader_epoch, [], [])
    assert cluster.reassign(None) == "NoReassignmentInProgress"


def test_cancelling_moves_the_leader_off_a_replica_that_goes() -> None:
    cluster = Moving(2)
    cluster.reassign([3, 4])
    cluster.isr([0, 1, 3])
    cluster.lose(0)
    cluster.lose(1)
    assert cluster.p.leader == 3
    assert cluster.reassign(None) == "NotEnoughReplicas", "only the one that would go has all records"
    cluster.start_again(1)
    assert cluster.isr([1, 3]) == ""
    epoch = cluster.p.leader_epoch
    assert cluster.reassign(None) == ""
    assert (cluster.p.replicas, cluster.p.leader, cluster.p.leader_epoch) == ([0, 1], 1, epoch + 1)


def test_a_second_reassignment_replaces_the_first() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3])
    cluster.isr([0, 1, 2])
    assert cluster.reassign([4, 2]) == ""
    assert cluster.roles == ([0, 1, 4, 2], [4, 2], [0, 1, 2]), "3 goes, 2 stays as it was"
    cluster.isr([0, 1, 2, 4])
    assert (cluster.p.replicas, cluster.p.leader) == ([4, 2], 4)


def test_a_second_one_that_names_what_was_there_takes_the_first_back() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3])
    assert cluster.reassign([1, 0]) == ""
    assert (cluster.p.replicas, cluster.p.target, cluster.p.isr) == ([1, 0], [], [0, 1])


def test_another_order_changes_who_is_preferred_and_nothing_else() -> None:
    cluster = Moving(3)
    cluster.isr([0])
    before = cluster.p
    assert cluster.reassign([2, 1, 0]) == ""
    assert (cluster.p.replicas, cluster.p.leader, cluster.p.isr) == ([2, 1, 0], 0, [0])
    assert cluster.p.leader_epoch == before.leader_epoch
    end = len(cluster.log)
    assert cluster.reassign([2, 1, 0]) == "" and len(cluster.log) == end, "it is so already"


def test_the_leader_is_lost_in_the_middle() -> None:
    cluster = Moving(3)
    cluster.reassign([3, 4])
    cluster.lose(0)
    assert cluster.p.leader == 1 and cluster.p.target == [3, 4]
    assert cluster.isr([1, 2, 3, 4]) == ""
    assert (cluster.p.replicas, cluster.p.leader, cluster.p.isr) == ([3, 4], 3, [3, 4])


def test_the_broker_that_it_moves_to_dies_and_comes_back() -> None:
    cluster = Moving(2)
    cluster.reassign([0, 4])
    cluster.lose(4)
    assert cluster.isr([0, 1, 4]) == "ClusterMismatch"
    cluster.advance(60_000)
    assert cluster.roles == ([0, 1, 4], [4], [0, 1]), "it waits"
    cluster.start_again(4)
    assert cluster.isr([0, 1, 4]) == ""
    assert cluster.p.replicas == [0, 4]


def test_it_is_not_completed_while_too_few_that_stay_are_there() -> None:
    """Else an append would be refused that those who go could have taken."""
    cluster = Moving(3)  # min.insync.replicas is 2
    cluster.isr([0, 1])
    assert cluster.reassign([1, 2, 3]) == ""
    cluster.lose(1)
    cluster.isr([0, 3])
    assert cluster.p.target == [1, 2, 3], "of those that stay only 3 is in sync"
    cluster.isr([0, 2, 3])
    assert (cluster.p.replicas, cluster.p.isr) == ([1, 2, 3], [2, 3])


def test_the_last_copy_that_is_there_is_not_given_up() -> None:
    cluster = Moving(2)
    cluster.lose(0)
    cluster.lose(1)
    cluster.start_again(0)
    assert cluster.p.isr == [1], "the last in sync is waited for"
    assert cluster.reassign([1]) == ""
    assert cluster.p.replicas == [0, 1], "1 may not come back: then 0 is all there is"
    cluster.start_again(1)
    assert (cluster.p.replicas, cluster.p.leader) == ([1], 1)


def test_a_dead_replica_is_replaced() -> None:
    cluster = Moving(3)
    cluster.lose(2)
    cluster.reassign([0, 1, 4])
    cluster.isr([0, 1, 4])
    assert (cluster.p.replicas, cluster.p.isr) == ([0, 1, 4], [0, 1, 4])


def test_a_new_coordinator_goes_on_with_it() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3])
    cluster.restart()
    cluster.isr([0, 1, 2, 3])
    assert cluster.p.replicas == [2, 3]


def test_a_coordinator_that_ended_between_the_last_in_sync_and_the_end_leaves_that_to_the_next() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3])
    cluster.isr([0, 1, 2, 3])
    while cluster.p.replicas == [2, 3]:  # the record of the completion was not committed
        cluster.log.pop()
        cluster.restart()
    for broker_id in range(BROKERS):
        cluster.start_again(broker_id)
    assert cluster.p.target in ([2, 3], [])
    cluster.validate_converges()


def test_a_replica_that_is_just_being_added_leads_uncleanly_only_on_request() -> None:
    """It may have nothing at all; completed then, those that come back would delete what they have."""
    cluster = Moving(2, **{"unclean.leader.election.enable": "true", "min.insync.replicas": "1"})
    cluster.reassign([4])
    cluster.lose(1)
    cluster.lose(0)
    cluster.advance(60_000)
    assert cluster.roles == ([0, 1, 4], [4], [0]) and cluster.p.leader == 0
    cluster.start_again(1)
    cluster.advance(60_000)
    assert (cluster.p.leader, cluster.p.isr, cluster.p.unclean_epoch) == (1, [1], cluster.p.leader_epoch)
    cluster.lose(1)
    assert cluster.call(ElectLeadersRequest([(cluster.p.topic_id, 0)], unclean=True)).moved == 1
    assert cluster.p.leader == 4


def test_a_topic_that_is_deleted_meanwhile_is_gone() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3])
    cluster.change(DeleteTopicsRequest(["t"]))
    assert not cluster.state.reassigning
    cluster.advance(10_000)


@pytest.mark.parametrize(
    ("replicas", "error"),
    [
        ([], "InvalidReplicaAssignment"),
        ([1, 1], "InvalidReplicaAssignment"),
        ([1, 9], "InvalidReplicaAssignment"),
        ([1, -1], "InvalidReplicaAssignment"),
        ([1, 4], "InvalidReplicaAssignment"),  # not alive
        (None, "NoReassignmentInProgress"),
    ],
)
def test_what_is_refused_changes_nothing(replicas: list[int] | None, error: str) -> None:
    cluster = Moving(2)
    cluster.stop("b4.0")
    cluster.advance(60_000)
    end = len(cluster.log)
    assert cluster.reassign(replicas, throttle=5) == error
    assert len(cluster.log) == end


def test_fewer_replicas_than_the_topics_own_minimum_are_refused() -> None:
    cluster = Moving(3, **{"min.insync.replicas": "2"})
    assert cluster.reassign([1]) == "ConfigError"
    assert cluster.reassign([1, 4]) == ""


def test_each_partition_of_a_request_is_on_its_own() -> None:
    cluster = Moving(2, partitions=3)
    topic_id = cluster.p.topic_id
    changes = [
        Reassignment(topic_id, 0, [2, 3]),
        Reassignment(topic_id, 0, [3, 4]),
        Reassignment(b"?" * 16, 0, [1]),
        Reassignment(topic_id, 7, [1]),
        Reassignment(topic_id, 2, [3, 4]),
    ]
    results = cluster.call(ReassignPartitionsRequest(changes)).results
    assert [r.error for r in results] == [
        "",
        "InvalidReplicaAssignment",
        "UnknownTopicOrPartition",
        "UnknownTopicOrPartition",
        "",
    ]
    assert [cluster.of(n).target for n in range(3)] == [[2, 3], [], [3, 4]]


def test_the_throttle_is_set_by_the_call_and_left_alone_by_a_cancel() -> None:
    cluster = Moving(2)
    cluster.reassign([2, 3], throttle=1_000_000)
    assert cluster.state.reassignment_throttle == 1_000_000
    cluster.reassign(None)
    assert cluster.state.reassignment_throttle == 1_000_000
    cluster.reassign([2, 3], throttle=0)
    assert cluster.state.reassignment_throttle == 0


def test_a_changed_minimum_lets_it_be_completed() -> None:
    cluster = Moving(3, **{"min.insync.replicas": "3"})
    cluster.lose(2)
    assert cluster.reassign([0, 2, 4]) == ""
    cluster.isr([0, 1, 4])
    assert cluster.p.target == [0, 2, 4]
    cluster.change(AlterConfigRequest("t", {"min.insync.replicas": "2"}))
    assert (cluster.p.replicas, cluster.p.isr) == ([0, 2, 4], [0, 4])


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_meanwhile_only_who_holds_all_acked_records_leads(seed: int) -> None:
    """The model of test_leadership, with reassignments: `holds` has every record that could have been acked."""
    rng = random.Random(seed)
    cluster = Moving(rng.choice([2, 3]))
    holds = set(cluster.p.isr)
    before = cluster.p
    for _ in range(150):
        minimum = int(cluster.minimum())
        broker_id = rng.randrange(BROKERS)
        match rng.choice(EVENTS):
            case "lose" if cluster.machine.is_watching(cluster.incarnation(broker_id)):
                cluster.lose(broker_id)
            case "start":
                cluster.start_again(broker_id)
            case "pass":
                cluster.advance(rng.choice([1, ACTOR_GRACE_MS, ACTOR_SESSION_MS]))
            case "shrink" | "grow" as change:
                p = cluster.p
                wished = set(p.isr) - {broker_id} if change == "shrink" else {*p.isr, broker_id}
                if (p.leader, 0) not in cluster.state.lost and p.leader in wished and broker_id in p.replicas:
                    try:
                        if cluster.isr(sorted(wished)) == "":
                            holds |= wished  # the leader has seen it caught up
                    except ClusterMismatch:
                        pass
            case "reassign":
                cluster.reassign(rng.sample(range(BROKERS), rng.choice([1, 2, 3])))
            case "cancel":
                cluster.reassign(None)
            case "restart":
                cluster.restart()
            case "prefer":
                cluster.call(ElectLeadersRequest(None))
        after = cluster.p
        assert after.leader in holds, "a leader lacks records that were acked"
        assert after.isr and set(after.isr) <= holds and set(after.elr) <= holds
        assert after.leader_epoch >= before.leader_epoch and after.partition_epoch >= before.partition_epoch
        if after.leader != before.leader:
            assert after.leader_epoch > before.leader_epoch
        if after != before:
            assert after.partition_epoch > before.partition_epoch
        if len(after.isr) >= max(1, min(minimum, int(cluster.minimum()))):  # records are acked by these
            holds = set(after.isr)
        before = after
    cluster.validate_converges()
