"""The ISR: who joins, who leaves, what counts while a change is not committed, and incarnations."""

from __future__ import annotations

import msgspec

from rayqueue.config import TopicConfig
from rayqueue.replication import events as ev
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.progress import NOTHING, Progress
from tests.simulation.partitions_log import MemoryLog
from tests.unit.replication.harness import Cluster


def led(*isr: int) -> Cluster:
    """Broker 1 leads, epoch 1, all are fed and hold three records."""
    cluster = Cluster()
    cluster.lead(1, list(isr))
    cluster.run()
    for ref in "abc":
        cluster[1].produce(ref, acks=1)
    return cluster.run()


def proposal(cluster: Cluster) -> list[int]:
    return [member for member, _ in cluster[1].proposals[-1].isr]


# --- joining ---------------------------------------------------------------------------------------------------------


def test_who_has_caught_up_is_proposed_with_its_incarnation_and_one_proposal_is_out_at_a_time() -> None:
    cluster = led(1, 2)
    assert cluster[1].proposals == [ev.ProposeIsr([(1, "1a"), (2, "2a"), (3, "3a")], 1, 1)]


def test_an_addition_counts_before_it_is_committed() -> None:
    cluster = led(1, 2)
    cluster.cuts = {frozenset((1, 3))}
    cluster[1].produce("d")
    cluster.run()
    assert cluster[1].replica.high_watermark == 3, "broker 3 may be in the ISR by now, and be elected"


def test_a_follower_below_the_high_watermark_does_not_join() -> None:
    cluster = Cluster()
    cluster.cuts = {frozenset((1, 3))}
    cluster.lead(1, [1, 2])
    cluster.run()
    cluster[1].produce("a")
    cluster.run()
    cluster.cuts.clear()
    assert cluster[1].step(ev.FetchFrom(3, "3a", 1, 0, -1)) == [ev.Feed(3, "3a", 0)]
    assert cluster[1].step(ev.FetchAcked(3, "3a", 1, 0)) == []
    cluster.run()
    assert proposal(cluster) == [1, 2, 3]


def test_a_follower_below_the_epochs_start_does_not_join_though_it_is_not_below_the_high_watermark() -> None:
    """The new leader has not heard of the true high watermark yet; it is at most where its epoch starts."""
    cluster = led(1, 2, 3)
    assert cluster[2].replica.high_watermark == 0
    cluster.cuts = {frozenset((2, 1)), frozenset((2, 3))}
    cluster.lead(2, [2])
    cluster[2].step(ev.FetchFrom(3, "3a", 2, 2, 1))
    assert cluster[2].step(ev.FetchAcked(3, "3a", 2, 2)) == []
    (proposed,) = cluster[2].step(ev.FetchAcked(3, "3a", 2, 3))
    assert isinstance(proposed, ev.ProposeIsr)


def test_a_follower_that_is_not_fed_does_not_join() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2], told=[1, 2])
    cluster.run()
    for ref in "abc":
        cluster[1].produce(ref, acks=1)
    cluster[1].step(ev.FetchFrom(3, "3a", 1, 0, -1))
    cluster[1].step(ev.FetchEnded(3, "3a"))
    assert cluster[1].step(ev.FetchAcked(3, "3a", 1, 3)) == []
    cluster[1].step(ev.FetchEnded(3, "another"))
    cluster[1].step(ev.FetchEnded(9, "nobody"))


def test_the_committed_isr_is_what_min_insync_replicas_asks_for() -> None:
    cluster = led(1)
    assert proposal(cluster) == [1, 2]
    refused = cluster[1].produce("d")
    assert refused is not None and refused.error == "NotEnoughReplicas"
    assert cluster[1].replica.high_watermark == 0
    cluster.commit_isr(1, 2)
    cluster.tell(1)
    assert cluster[1].replica.high_watermark == 3
    assert cluster[1].produce("e") is None


def test_a_lower_min_insync_replicas_counts_at_the_next_event() -> None:
    cluster = led(1)
    assert cluster[1].replica.high_watermark == 0
    cluster[1].replica.configure(TopicConfig.parse({"min.insync.replicas": 1}))
    assert cluster[1].step(ev.Tick()) == [ev.HighWatermark(3)]


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_who_has_not_caught_up_for_so_long_is_taken_out_and_counts_until_that_is_committed() -> None:
    cluster = led(1, 2, 3)
    cluster.cuts = {frozenset((1, 3))}
    cluster[1].produce("d")
    cluster.run()
    assert cluster[1].replica.next_deadline_ms() == cluster.now_ms + 1_000
    cluster.pass_ms(999)
    assert cluster[1].proposals == []
    cluster.pass_ms(1)
    assert proposal(cluster) == [1, 2]
    assert cluster[1].replica.next_deadline_ms() is None, "nothing to do before it is answered"
    assert (cluster[1].replica.high_watermark, "d" in cluster[1].replies) == (3, False)
    cluster.commit_isr(1, 2)
    cluster.tell(1)
    assert (cluster[1].replica.high_watermark, cluster[1].replies["d"].error) == (4, "")


def test_a_partition_without_traffic_takes_nobody_out() -> None:
    cluster = led(1, 2, 3)
    assert cluster[1].replica.next_deadline_ms() is None
    cluster.pass_ms(100_000)
    cluster[1].produce("d")
    assert cluster[1].replica.next_deadline_ms() == cluster.now_ms + 1_000, "until now they held all there was"


def test_who_never_fetched_counts_from_the_beginning_of_the_leadership() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3], told=[1, 2])
    cluster.run()
    assert cluster[1].leader.followers[3].end == NOTHING
    cluster.pass_ms(1_000)
    assert proposal(cluster) == [1, 2]


def test_a_follower_that_always_reaches_where_the_leader_was_at_its_ack_before_keeps_up() -> None:
    """Kafka's rule: under steady load a follower that keeps up is never at the very end."""
    follower = Progress("a", now_ms=0)
    follower.begins(0)
    for now in range(100, 2_000, 100):
        follower.acked(now - 100, now, now)
        assert follower.lags_from_ms(now, 1_000) == max(0, now - 100) + 1_000
    follower.acked(1_901, 2_000, 2_000)
    assert follower.caught_up_ms == 1_900
    follower.acked(1_950, 2_100, 2_100)
    assert follower.caught_up_ms == 1_900, "it did not reach 2,000"


# --- refused, late, twice --------------------------------------------------------------------------------------------


def test_a_refused_addition_still_counts_because_it_may_have_been_taken_before() -> None:
    cluster = led(1, 2)
    assert cluster[1].step(ev.IsrRefused(1, "InvalidUpdateVersion")) == []
    cluster[1].produce("d")
    cluster[1].step(ev.FetchAcked(2, "2a", 1, 4))
    assert cluster[1].replica.high_watermark == 3
    cluster.run()
    assert cluster[1].replica.high_watermark == 4


def test_a_refused_proposal_is_made_anew_after_a_pause() -> None:
    cluster = led(1, 2)
    cluster[1].step(ev.IsrRefused(1, "IneligibleReplica"))
    assert cluster[1].replica.next_deadline_ms() == cluster.now_ms + 100
    cluster.pass_ms(100)
    assert len(cluster[1].proposals) == 2
    cluster[1].step(ev.IsrRefused(0, "of a proposal of long ago"))
    assert cluster[1].leader.in_sync.outstanding


def test_a_doubtful_addition_that_lags_is_ruled_out_by_a_proposal_of_the_isr_as_it_is() -> None:
    """Only a higher partition epoch makes sure that the first proposal is never taken."""
    cluster = led(1, 2)
    cluster[1].step(ev.IsrRefused(1, "IneligibleReplica"))
    cluster.cuts = {frozenset((1, 3))}
    cluster[1].produce("d")
    cluster.run()
    cluster.pass_ms(1_000)
    assert proposal(cluster) == [1, 2]
    assert cluster[1].replica.high_watermark == 3
    cluster.commit_isr(1, 2)
    cluster.tell(1)
    assert cluster[1].replica.high_watermark == 4


def test_what_is_older_than_known_is_ignored() -> None:
    cluster = led(1, 2, 3)
    cluster.commit_isr(1, 2)
    cluster.tell(1)
    old = ev.Assignment(2, 1, 1, [1, 2, 3], [2], {})
    assert cluster[1].step(ev.Assign(old)) == []
    assert cluster[1].leader.in_sync.committed == {1, 2}


def test_a_follower_is_not_disturbed_by_a_new_isr() -> None:
    cluster = led(1, 2, 3)
    cluster.commit_isr(1, 2)
    assert cluster[2].step(ev.Assign(cluster.assignment(1))) == []


# --- incarnations and epochs -----------------------------------------------------------------------------------------


def test_acks_of_an_incarnation_that_is_gone_do_not_count() -> None:
    cluster = led(1, 2)
    cluster.restart(2, MemoryLog())
    cluster.commit_isr(1)
    cluster.tell(1)
    assert cluster[1].leader.followers[2].end == NOTHING
    assert cluster[1].step(ev.FetchAcked(2, "2a", 1, 3)) == [], "said before it lost all, heard after"
    assert cluster[1].leader.followers[2].end == NOTHING


def test_an_incarnation_that_the_leader_has_not_read_of_is_asked_to_try_again() -> None:
    cluster = led(1, 2)
    refusal = cluster[1].step(ev.FetchFrom(2, "2b", 1, 3, 1))
    assert refusal == [ev.RefuseFetch(2, "2b", "UnknownLeaderEpoch")]


def test_an_ack_of_an_earlier_leadership_of_the_same_leader_does_not_count() -> None:
    """Meanwhile another led, and the follower may have cut what it had acked."""
    cluster = led(1, 2, 3)
    cluster.lead(1, [1, 2, 3])
    cluster.sent.clear()
    assert cluster[1].step(ev.FetchAcked(2, "2a", 1, 3)) == []
    assert cluster[1].leader.followers[2].end == NOTHING


def test_epochs_of_those_who_ask() -> None:
    cluster = led(1, 2, 3)
    ask = cluster[1].step
    assert ask(ev.FetchFrom(2, "2a", 0, 3, 1)) == [ev.RefuseFetch(2, "2a", "FencedLeaderEpoch")]
    assert ask(ev.FetchFrom(2, "2a", 2, 3, 1)) == [ev.RefuseFetch(2, "2a", "UnknownLeaderEpoch")]
    assert ask(ev.FetchFrom(9, "9a", 1, 3, 1)) == [ev.RefuseFetch(9, "9a", "NotLeaderOrFollower")]
    ask = cluster[2].step
    assert ask(ev.FetchFrom(3, "3a", 1, 3, 1)) == [ev.RefuseFetch(3, "3a", "NotLeaderOrFollower")]
    assert ask(ev.FetchFrom(3, "3a", 2, 3, 1)) == [ev.RefuseFetch(3, "3a", "UnknownLeaderEpoch")]
    for event in (ev.FetchAcked(3, "3a", 1, 3), ev.FetchEnded(3, "3a"), ev.IsrRefused(1, "no")):
        assert ask(event) == []


def test_a_replica_that_is_moved_away_is_fed_no_more() -> None:
    cluster = led(1, 2, 3)
    assignment = ev.Assignment(1, 1, 5, [1, 2], [1, 2], {1: "1a", 2: "2a"})
    assert ev.StopFeeding(3, "3a") in cluster[1].step(ev.Assign(assignment))
    assert set(cluster[1].leader.followers) == {2}


def test_an_ack_beyond_the_leaders_end_counts_no_more_than_that() -> None:
    cluster = led(1, 2, 3)
    cluster[1].step(ev.FetchAcked(2, "2a", 1, 1_000))
    assert cluster[1].leader.followers[2].end == 3


def test_resigning_ends_a_role_for_good() -> None:
    cluster = led(1, 2, 3)
    effects = cluster[1].replica.resign("UnknownTopicOrPartition", "deleted")
    assert effects == [ev.StopFeeding(2, "2a"), ev.StopFeeding(3, "3a")]
    assert cluster[2].replica.resign("UnknownTopicOrPartition", "deleted") == [ev.Unfollow()]
    assert cluster[2].replica.resign("UnknownTopicOrPartition", "deleted") == []
    assert cluster[2].replica.next_deadline_ms() is None


def test_a_truncation_that_is_done_when_the_replica_has_resigned_moves_nothing_but_the_log() -> None:
    cluster = led(1, 2, 3)
    assert cluster[2].replica.written_end == 3
    cluster[2].replica.resign("NotLeaderOrFollower", "closed")
    assert cluster[2].step(ev.Truncated(0, 2, LeaderEpochs([(1, 0)]), cluster[2].replica.producers)) == []
    assert cluster[2].replica.log_end == 2


def test_the_next_deadline_is_the_earliest() -> None:
    cluster = Cluster(**{"flush.ms": 400})
    cluster.lead(1, [1, 2, 3], told=[1])
    cluster[1].produce("a")
    assert cluster[1].replica.next_deadline_ms() == cluster.now_ms + 400
    cluster[1].holds_flushes = True
    cluster.pass_ms(400)
    assert cluster[1].flushing and cluster[1].replica.next_deadline_ms() == cluster.now_ms + 600


def test_epochs_have_a_text() -> None:
    assert repr(LeaderEpochs([(1, 0), (3, 7)])) == "LeaderEpochs([(1, 0), (3, 7)])"


def test_a_replica_whose_log_has_failed_declines_to_lead() -> None:
    """The coordinator does not know yet that a follower's disk is gone, and elects it."""
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    failed = cluster[2]
    failed.step(ev.LogFailed("the disk is gone"))
    assignment = cluster.assignment(2)
    later = msgspec.structs.replace(assignment, leader=2, leader_epoch=9, partition_epoch=99)
    assert ev.Resign(9) in failed.step(ev.Assign(later))
    assert ev.Resign(9) not in failed.step(ev.Assign(later)), "it said so"


def test_a_follower_that_waits_ends_its_subscription_too() -> None:
    """A refusal is the leader's word, the subscription is the shell's: it must not outlive the partition."""
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    follower = cluster[2]
    follower.step(ev.FeedRefused(follower.replica.leader_epoch, "NotLeaderOrFollower"))
    assert ev.Unfollow() in follower.replica.resign("UnknownTopicOrPartition", "deleted")


def test_a_replica_that_is_asked_says_where_its_log_ends_also_under_the_leader_epoch_it_knows() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[1].produce("a")
    cluster.run()
    cluster.epoch += 1
    nobody = msgspec.structs.replace(cluster.assignment(-1), isr=[])
    assert ev.ReportLogEnd(2, 1, 1) not in cluster[2].step(ev.Assign(nobody))
    asked = msgspec.structs.replace(nobody, partition_epoch=nobody.partition_epoch + 1, report=True)
    assert cluster[2].step(ev.Assign(asked)) == [ev.ReportLogEnd(2, 1, 1)]
    empty = cluster.restart(3, MemoryLog())
    assert empty.step(ev.Assign(asked)) == [ev.ReportLogEnd(2, -1, 0)]
