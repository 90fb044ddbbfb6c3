"""A leader and its followers: feeding, acks, the high watermark, min.insync.replicas, and what a new leader knows."""

from __future__ import annotations

from rayqueue.replication import events as ev
from tests.simulation.partitions_log import MemoryLog
from tests.unit.replication.harness import Cluster, batch


def test_acks_all_is_answered_when_every_member_of_the_isr_holds_the_batch() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    assert cluster[1].produce("a", batch(3)) is None
    cluster.cuts = {frozenset((1, 3))}
    cluster.run()
    assert cluster.ends() == [3, 3, 0]
    assert "a" not in cluster[1].replies, "broker 3 is a member of the ISR and does not hold it"
    cluster.cuts.clear()
    cluster[1].push(3)
    cluster[3].step(ev.FeedLost(1))
    cluster.pass_ms(100)
    cluster.run()
    assert cluster[1].replies["a"].base_offset == 0
    assert cluster[1].replica.high_watermark == 3


def test_acks_1_waits_for_nobody_else_not_even_behind_an_acks_all_that_waits() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    assert cluster[1].produce("all", batch()) is None
    reply = cluster[1].produce("one", batch(), acks=1)
    assert reply is not None and reply.base_offset == 1


def test_followers_take_over_the_high_watermark_only_as_far_as_they_hold_the_log() -> None:
    cluster = Cluster(**{"flush.messages": 1})
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    for host in cluster.hosts.values():
        host.holds_flushes = True
    cluster[1].produce("a")
    cluster.run()
    assert cluster.marks() == [0, 0, 0], "written everywhere, flushed nowhere"
    cluster[2].flush()
    cluster[1].flush()
    cluster.run()
    assert cluster.marks() == [0, 0, 0], "broker 3 has not flushed"
    cluster[3].flush()
    cluster.run().news()
    assert cluster.marks() == [1, 1, 1]
    assert cluster[1].replies["a"].error == ""


def test_a_duplicate_waits_for_the_high_watermark_like_the_first_one() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    assert cluster[1].produce("a", batch(1, 7, 0)) is None
    assert cluster[1].produce("again", batch(1, 7, 0)) is None
    cluster.run()
    assert [cluster[1].replies[ref].base_offset for ref in ("a", "again")] == [0, 0]
    assert cluster.ends() == [1, 1, 1]


def test_below_min_insync_replicas_acks_all_is_refused_and_the_high_watermark_stands() -> None:
    cluster = Cluster()
    cluster.lead(1, [1])
    refused = cluster[1].produce("all")
    assert refused is not None and refused.error == "NotEnoughReplicas"
    reply = cluster[1].produce("one", acks=1)
    assert reply is not None and not reply.error
    assert cluster[1].replica.high_watermark == 0, "KIP-966: what is only here is not committed"


def test_one_replica_alone_commits_what_it_writes() -> None:
    cluster = Cluster(1, **{"min.insync.replicas": 1})
    cluster.lead(1, [1])
    reply = cluster[1].produce("a")
    assert reply is not None and reply.base_offset == 0
    assert cluster[1].replica.high_watermark == 1


def test_a_new_leader_begins_with_what_it_knew_and_has_committed_when_it_reaches_its_epochs_start() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[1].produce("a")
    cluster.run()
    assert cluster[1].replica.high_watermark == 1
    assert cluster[2].replica.high_watermark == 0, "it has not heard"
    cluster.lead(2, [2, 3], told=[2])
    assert (cluster[2].replica.high_watermark, cluster[2].replica.committed_in_epoch) == (0, False)
    cluster.tell(3)
    cluster.run()
    assert (cluster[2].replica.high_watermark, cluster[2].replica.committed_in_epoch) == (1, True)


def test_who_waited_is_told_when_another_leads() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster[1].produce("a")
    cluster.lead(2, [2, 3])
    assert cluster[1].replies["a"].error == "NotLeaderOrFollower"
    late = cluster[1].produce("b")
    assert late is not None and late.error == "NotLeaderOrFollower"


def test_a_write_that_failed_fails_its_batches_and_no_other_whatever_their_acks() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster[1].produce("before", batch(1, 7, 0))
    cluster[1].disk_full = True
    for ref, acks in (("all", -1), ("one", 1)):
        reply = cluster[1].produce(ref, batch(1), acks)
        assert reply is not None and reply.error == "StorageError"
    assert cluster[1].replica.log_end == 1
    assert cluster[1].produce("before, again", batch(1, 7, 0)) is None
    cluster.run()
    assert not cluster[1].replies["before"].error and not cluster[1].replies["before, again"].error


def test_a_failed_write_takes_its_leader_epoch_back() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster[1].disk_full = True
    cluster[1].produce("a")
    effects = cluster[1].step(ev.FetchFrom(2, "2a", 1, 0, -1))
    assert effects == [ev.Feed(2, "2a", 0)]
    assert cluster[1].replica.step(ev.Assign(ev.Assignment(2, 2, 9, [1, 2, 3], [2, 3], {})), 0, 0)[-1] == ev.Follow(
        2, 2, 0, -1
    )


def test_a_log_that_failed_takes_the_leader_out_and_asks_for_another() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[1].produce("a")
    effects = cluster[1].step(ev.LogFailed("I/O error"))
    assert cluster[1].replies["a"].error == "StorageError"
    assert effects[-1] == ev.Resign(1)
    assert {effect for effect in effects if isinstance(effect, ev.StopFeeding)} == {
        ev.StopFeeding(2, "2a"),
        ev.StopFeeding(3, "3a"),
    }
    assert cluster[1].replica.offline == "I/O error"
    assert cluster[1].step(ev.LogFailed("again")) == []
    cluster.lead(2, [2, 3])
    assert not cluster[1].replica.leading
    assert cluster[1].step(ev.FetchFrom(2, "2a", 9, 0, -1)) == [ev.RefuseFetch(2, "2a", "NotLeaderOrFollower")]


def test_what_a_process_before_left_unflushed_is_flushed_before_it_counts() -> None:
    cluster = Cluster(**{"flush.messages": 1})
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[2].holds_flushes = True
    cluster[1].produce("a")
    cluster.run()
    host = cluster.restart(2)
    host.holds_flushes = True
    cluster.tell(1, 2)
    cluster.news()
    assert host.flushing
    assert cluster[1].leader.followers[2].end == 0, "written by the process before, durable for nobody"
    host.flush()
    cluster.run()
    assert cluster[1].leader.followers[2].end == 1


def test_control_batches_have_no_rows_and_are_replicated_like_others() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[1].produce("a")
    cluster.run()
    control = cluster[1].log.batches[0]
    assert all(host.log.batches == [control] for host in cluster.hosts.values())


def test_deleted_records_are_deleted_at_the_followers_below_their_high_watermark() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    for ref in "abc":
        cluster[1].produce(ref)
    cluster.run()
    cluster[1].log.advance_start(2)
    cluster[1].step(ev.StartMoved(2))
    cluster.news()
    assert [host.log.start for host in cluster.hosts.values()] == [2, 2, 2]


def test_a_new_follower_begins_inside_of_a_batch_when_the_log_does() -> None:
    """Records were deleted up to the middle of a batch: the follower's log has to begin with the whole of it."""
    cluster = Cluster()
    cluster.lead(1, [1, 2])
    cluster.cuts = {frozenset((1, 3))}
    cluster.run()
    for ref in "ab":
        cluster[1].produce(ref, batch(4))
    cluster.news()
    cluster[1].log.advance_start(2)
    cluster[1].step(ev.StartMoved(2))
    cluster.cuts.clear()
    cluster[3].step(ev.FeedLost(1))
    cluster.pass_ms(100)
    cluster.news()
    cluster.news()
    assert cluster[3].log.batches == cluster[1].log.batches
    assert (cluster[3].log.start, cluster[3].follower.faults) == (2, 0)


def test_a_follower_whose_end_is_gone_at_the_leader_begins_where_the_leader_does() -> None:
    cluster = Cluster()
    cluster.lead(1, [1, 2])
    cluster.cuts = {frozenset((1, 3))}
    cluster.run()
    for ref in "abcd":
        cluster[1].produce(ref)
    cluster.news()
    cluster[1].log.advance_start(3)
    cluster[1].step(ev.StartMoved(3))
    cluster.restart(3, MemoryLog())
    cluster.cuts.clear()
    cluster.tell(1, 3)
    cluster.news()
    assert (cluster[3].log.start, cluster[3].log.end, cluster[3].replica.high_watermark) == (3, 4, 4)
