"""Elections beyond the loss of a leader: brokers that end in order, unclean ones, and leaders that go back."""

from __future__ import annotations

from typing import Any

import pytest

from rayqueue.coordination.events import Applied, Warn, WatchStarted
from rayqueue.coordination.sessions import ACTOR_SESSION_MS
from rayqueue.coordination.upkeep import UNCLEAN_GRACE_MS
from rayqueue.errors import ClusterMismatch
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    AlterPartition,
    AlterPartitionsRequest,
    ControlledShutdownRequest,
    ElectLeadersRequest,
)
from tests.unit.coordination.harness import Harness, create, spec
from tests.unit.coordination.test_leadership import Cluster

UNCLEAN = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
INTERVAL_MS = 300_000


def leave(cluster: Harness, broker_id: int) -> int:
    """The call's number; what is to be applied is not applied yet."""
    return cluster.send(ControlledShutdownRequest(broker_id, f"b{broker_id}.0"))


def warnings(cluster: Harness, event: Any) -> list[str]:
    return [effect.message for effect in cluster.step(event) if isinstance(effect, Warn)]


# --- brokers that end in order --------------------------------------------------------------------------------------


def test_a_broker_that_leaves_hands_over_what_it_leads_and_is_answered_when_others_serve() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    call = leave(cluster, first)
    assert cluster.now == (second, sorted([second, third]), [], 1)
    assert call in cluster.unanswered
    for one in (first, third):
        cluster.step(Applied(cluster.incarnation(one), len(cluster.log)))
    assert call in cluster.unanswered, "the new leader has not read that it leads"
    cluster.step(Applied(cluster.incarnation(second), len(cluster.log)))
    assert cluster.answers[call].remaining == 0


def test_a_follower_that_leaves_is_not_waited_for_any_more() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    leave(cluster, third)
    assert cluster.now == (first, sorted([first, second]), [], 0)
    assert cluster.ask([first, second, third]) == "ClusterMismatch", "it would join, and leave again at once"
    assert cluster.call(ElectLeadersRequest(None)).moved == 0


def test_the_only_one_in_sync_leads_on_until_another_is() -> None:
    cluster = Cluster(**{"min.insync.replicas": "1"})
    first, second, _ = cluster.partition.replicas
    assert cluster.ask([first]) == ""
    before = cluster.partition
    call = leave(cluster, first)
    assert cluster.answers[call].remaining == 1 and cluster.partition == before
    assert cluster.ask([first, second]) == ""
    call = leave(cluster, first)
    cluster.apply_all()
    assert cluster.answers[call].remaining == 0
    assert cluster.now == (second, [second], [], 1)


def test_two_that_leave_at_once_do_not_hand_over_to_each_other() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    leave(cluster, second)
    leave(cluster, first)
    assert cluster.now == (third, [third], [first], 1)
    call = leave(cluster, third)
    assert cluster.answers[call].remaining == 0, "there is nobody to wait for"
    assert cluster.partition.leader == third


def test_one_that_is_lost_after_all_is_followed_by_one_that_leaves_rather_than_by_nobody() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.ask([first, second])
    cluster.lose(third)
    call = leave(cluster, second)  # it is taken out of the ISR, and is eligible
    assert cluster.now == (first, [first], [second], 0) and cluster.answers[call].remaining == 0
    cluster.lose(first)
    assert cluster.now == (second, [second], [first], 1)


def test_of_those_eligible_one_that_stays_is_chosen() -> None:
    cluster = Cluster(**{"min.insync.replicas": "3"})
    first, second, third = cluster.partition.replicas
    assert cluster.ask([first, second]) == "" and cluster.ask([first]) == ""
    assert cluster.partition.elr == sorted([second, third])
    leave(cluster, second)
    cluster.lose(first)
    assert cluster.partition.leader == third, "the second would have to be replaced at once"


def test_its_next_start_ends_the_leave() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    leave(cluster, third)
    cluster.restart()
    assert cluster.state.leaving == {third: f"b{third}.0"}, "it is in the log"
    cluster.broker(third, pool=1, generation=1)
    assert cluster.state.leaving == {}
    assert cluster.ask([first, second, third]) == ""


def test_a_process_that_has_a_successor_cannot_leave() -> None:
    cluster = Cluster()
    cluster.broker(0, pool=1, generation=1)
    with pytest.raises(ClusterMismatch):
        cluster.call(ControlledShutdownRequest(0, "b0.0"))
    assert cluster.state.leaving == {}


# --- unclean --------------------------------------------------------------------------------------------------------


def gone(cluster: Cluster) -> list[int]:
    """All are lost, the leader last; nobody else is eligible."""
    first, second, third = cluster.partition.replicas
    for one in (third, second, first):
        cluster.lose(one)
    assert cluster.now == (first, [first], [], 0)
    return [first, second, third]


def test_on_request_somebody_leads_who_may_lack_records_and_is_alone_in_sync() -> None:
    cluster = Cluster(**{"min.insync.replicas": "1"})
    first, second, third = gone(cluster)
    key = (cluster.partition.topic_id, 0)
    request = ElectLeadersRequest([key], unclean=True)
    assert cluster.call(request).errors == ["NotEnoughReplicas"], "nobody is there"
    cluster.start_again(third)
    cluster.start_again(second)
    assert cluster.now == (first, [first], [], 0)
    answer = cluster.call(request)
    assert (answer.moved, answer.errors) == (1, [""])
    assert cluster.now == (second, [second], [], 1), "the first in the order of placement"
    assert cluster.partition.unclean_epoch == 1
    cluster.start_again(first)
    assert cluster.now == (second, [second], [], 1), "what it had besides is lost"
    assert (cluster.call(request).moved, cluster.call(request).errors) == (0, [""]), "there is a leader"


def test_an_unclean_election_prefers_a_clean_one() -> None:
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.lose(third)
    cluster.lose(second)
    cluster.lose(first)
    assert cluster.now == (first, [first], [second], 0)
    cluster.start_again(third)
    cluster.step(WatchStarted(cluster.incarnation(second)))
    assert cluster.now == (second, [second], [first], 1) and cluster.partition.unclean_epoch == -1


def test_the_setting_does_it_by_itself_after_a_while_and_says_so() -> None:
    cluster = Cluster(**UNCLEAN)
    first, _, third = gone(cluster)
    cluster.start_again(third)
    cluster.advance(UNCLEAN_GRACE_MS - 1)
    assert cluster.partition.leader == first, "it may be about to come back"
    cluster.now_ms += 1
    warned = warnings(cluster, WatchStarted("nobody"))
    assert cluster.now == (third, [third], [], 1)
    assert len(warned) == 1 and "UNCLEAN" in warned[0] and "t-0" in warned[0] and f"[{first}]" in warned[0]
    cluster.restart()
    assert cluster.partition.unclean_epoch == 1, "and it is in the log"


def test_who_was_eligible_before_an_unclean_election_is_not_after_it() -> None:
    cluster = Cluster(**{"unclean.leader.election.enable": "true"})
    first, second, third = cluster.partition.replicas
    for one in (third, second, first):
        cluster.lose(one)
    assert cluster.now == (first, [first], [second], 0)
    cluster.start_again(third)
    cluster.advance(UNCLEAN_GRACE_MS)
    assert cluster.now == (third, [third], [], 1), "what the second has is another history now"


def test_who_has_all_of_it_and_comes_back_in_that_while_leads() -> None:
    cluster = Cluster(**UNCLEAN)
    first, _, third = gone(cluster)
    cluster.start_again(third)
    cluster.advance(UNCLEAN_GRACE_MS - 1)
    cluster.start_again(first)
    cluster.advance(10 * UNCLEAN_GRACE_MS)
    assert cluster.now == (first, [first], [], 1) and cluster.partition.unclean_epoch == -1


def test_the_setting_counts_when_it_is_changed_and_without_it_the_partition_waits() -> None:
    cluster = Cluster(**{"min.insync.replicas": "1"})
    first, _, third = gone(cluster)
    cluster.start_again(third)
    cluster.advance(100 * UNCLEAN_GRACE_MS)
    assert cluster.partition.leader == first
    cluster.change(AlterConfigRequest("t", {"unclean.leader.election.enable": "true"}))
    cluster.advance(UNCLEAN_GRACE_MS)
    assert cluster.now == (third, [third], [], 1)


def test_nobody_is_elected_uncleanly_because_the_coordinator_was_restarted() -> None:
    cluster = Cluster(**UNCLEAN)
    before = cluster.partition.leader
    cluster.restart()
    for one in range(3):
        cluster.advance(ACTOR_SESSION_MS // 4)
        cluster.step(WatchStarted(cluster.incarnation(one)))
    cluster.advance(10 * UNCLEAN_GRACE_MS)
    assert cluster.partition.leader == before and cluster.partition.unclean_epoch == -1


# --- leaders go back ------------------------------------------------------------------------------------------------


class Many(Harness):
    """Three brokers, and topic t with twelve partitions of three replicas, four led by each broker."""

    def __init__(self, **config: Any) -> None:
        super().__init__(config)
        for broker_id in range(3):
            self.broker(broker_id, pool=1)
        self.change(create(spec("t", 12, replication_factor=3)))

    def leaders(self) -> list[int]:
        return [p.leader for _, p in self.state.partitions()]

    def counts(self) -> list[int]:
        return [self.leaders().count(broker_id) for broker_id in range(3)]

    def start_again(self, broker_id: int) -> None:
        self.actor(broker_id, 0, 1)

    def catch_up(self, broker_id: int) -> None:
        """The leaders take it into the ISR of all partitions."""
        for _, p in list(self.state.partitions()):
            actors = self.state.replica_actors
            members = [(one, actors[one, 0].incarnation) for one in sorted({*p.isr, broker_id})]
            wish = AlterPartition(p.topic_id, p.partition, p.leader_epoch, p.partition_epoch, members)
            request = AlterPartitionsRequest(p.leader, 0, actors[p.leader, 0].incarnation, [wish])
            assert self.call(request).errors == [""]


def test_after_a_broker_is_back_and_in_sync_its_leaders_go_back() -> None:
    cluster = Many()
    wanted = cluster.leaders()
    assert cluster.counts() == [4, 4, 4]
    cluster.start_again(0)
    assert cluster.counts()[0] == 0
    cluster.advance(INTERVAL_MS)
    assert cluster.counts()[0] == 0, "it is not in sync"
    cluster.catch_up(0)
    cluster.advance(INTERVAL_MS - 1)
    assert cluster.counts()[0] == 0
    cluster.advance(1)
    assert cluster.leaders() == wanted
    end = len(cluster.log)
    cluster.advance(5 * INTERVAL_MS)
    assert len(cluster.log) == end, "there is nothing to do"


@pytest.mark.parametrize(("percentage", "moves"), [(25, False), (24, True)])
def test_a_small_imbalance_is_left_alone(percentage: int, moves: bool) -> None:
    cluster = Many(leader_imbalance_per_broker_percentage=percentage)
    cluster.start_again(0)
    cluster.catch_up(0)
    mine = [(p.topic_id, p.partition) for _, p in cluster.state.partitions() if p.replicas[0] == 0]
    assert cluster.call(ElectLeadersRequest(mine[1:])).moved == 3, "one of four is a quarter"
    cluster.advance(INTERVAL_MS)
    assert cluster.counts()[0] == (4 if moves else 3)


def test_it_can_be_switched_off_and_looked_at_more_often() -> None:
    off = Many(auto_leader_rebalance_enable=False)
    often = Many(leader_imbalance_check_interval_seconds=1)
    for cluster in (off, often):
        cluster.start_again(0)
        cluster.catch_up(0)
        cluster.advance(1_000)
    assert off.counts()[0] == 0 and off.machine.next_deadline_ms() is None
    assert often.counts() == [4, 4, 4]
