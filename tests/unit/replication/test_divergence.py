"""Where two logs part, and what the follower does about it: by leader epoch, never by high watermark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.protocol.messages import BatchHeader
from rayqueue.replication import events as ev
from rayqueue.replication.follower import State
from rayqueue.replication.producer_state import ProducerStates
from tests.simulation.partitions_log import MemoryLog
from tests.unit.replication.harness import Cluster, batch, following, header, log_of


def sync(leader: MemoryLog, follower: MemoryLog) -> list[ev.Effect]:
    """What the follower asked for until it was fed."""
    cluster = Cluster(2)
    cluster.epoch = 99
    cluster.restart(1, leader)
    host = cluster.restart(2, follower)
    cluster.lead(1, [1])
    cluster.run()
    assert host.follower.state is State.FED
    return [effect for effect in host.effects if isinstance(effect, ev.Truncate | ev.ResetLog)]


def test_a_log_that_is_a_beginning_of_the_leaders_is_fed_what_is_missing() -> None:
    leader, follower = log_of(1, 1, 2, 3), log_of(1, 1)
    assert sync(leader, follower) == []
    assert [b.leader_epoch for b in follower.batches] == [1, 1, 2, 3]


def test_a_tail_that_was_never_committed_is_cut_where_the_leaders_epoch_ends() -> None:
    leader, follower = log_of(1, 1, 2), log_of(1, 1, 1, 1)
    assert sync(leader, follower) == [ev.Truncate(2)]
    assert follower.batches == [follower.batches[0], follower.batches[1], leader.batches[2]]


def test_an_epoch_that_the_leader_never_saw_is_cut_off_whole() -> None:
    """KIP-279: the leader answers with the newest epoch below, and the follower cuts where that one ends, at itself."""
    leader, follower = log_of(1, 1, 3, 3), log_of(1, 1, 2, 2, 2)
    assert sync(leader, follower) == [ev.Truncate(2)]


def test_the_leaders_end_may_lie_inside_of_a_batch_of_another_epoch() -> None:
    """Found by the simulation: the follower has nothing of epoch 2, and its batch of epoch 1 goes beyond that one's
    end. It cuts where its own epoch ends, and asks again."""
    leader, follower = log_of(1, 1, 2, 4), log_of(1, 1)
    follower.append([header(2, 1, 3), header(5, 3)])
    assert sync(leader, follower) == [ev.Truncate(5), ev.Truncate(2)]


def test_logs_that_part_more_than_once_take_more_than_one_round() -> None:
    leader, follower = log_of(1, 3, 5, 5), log_of(1, 2, 2, 4, 4)
    assert sync(leader, follower) == [ev.Truncate(3), ev.Truncate(1)]
    assert [b.leader_epoch for b in follower.batches] == [1, 3, 5, 5]


def test_nothing_in_common() -> None:
    assert sync(log_of(5, 5), log_of(2, 2, 2)) == [ev.ResetLog(0)]


def test_an_empty_leader_after_an_unclean_election() -> None:
    follower = log_of(2, 2, 2)
    assert sync(MemoryLog(), follower) == [ev.ResetLog(0)]
    assert follower.end == 0


@pytest.mark.parametrize(
    "leader_epochs",
    [(1, 3), (1, 1), (1, 1, 1, 1), (1, 3, 3, 3, 3, 3), (3, 3, 3, 3, 3)],
    ids=["shorter", "shorter, nothing since", "longer, nothing since", "longer", "nothing in common"],
)
@pytest.mark.parametrize("kept", [0, 1])
def test_a_leader_from_an_unclean_election_without_what_is_deleted_here(
    leader_epochs: tuple[int, ...], kept: int
) -> None:
    """All below the follower's start was committed. Were it fed from its end on, and elected, what this leader got
    acked below would be lost; and an emptied log whose newest epoch was above the leader's was fed nothing at all."""
    leader, follower = log_of(*leader_epochs), log_of(1, 2, 2, 2, *[2] * kept)
    follower.advance_start(4)
    assert sync(leader, follower) == [ev.ResetLog(0)]
    assert (follower.start, follower.batches) == (0, leader.batches)


def test_a_failed_write_into_an_emptied_log_forgets_no_epoch() -> None:
    log = log_of(1, 2)
    log.advance_start(2)
    cluster, host = following(log)
    host.disk_full = True
    host.step(ev.Fed(9, [header(2, 9)], [0], 3, 0))
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 2)


def test_a_leader_that_deleted_all_leaves_the_follower_a_log_that_begins_no_lower_than_its_own() -> None:
    """Found by the simulation: both have deleted what is below 3, and the follower's first batch reaches below that.
    If its log ended there, and it was elected, it would give the offsets of deleted records again."""
    leader, follower = MemoryLog(3), log_of(1)
    follower.append([header(1, 1, 3), header(4, 2)])
    follower.advance_start(3)
    assert sync(leader, follower) == [ev.ResetLog(3)]
    assert (follower.start, follower.end) == (3, 3)


def test_a_follower_that_ends_where_a_leader_begins_that_deleted_all_before_begins_there_too() -> None:
    """Found by the simulation: its newest epoch is older than all of the leader's. Emptied from 0 on it would have been
    in the ISR with nothing; and what it holds below 3 nobody can compare."""
    leader, follower = MemoryLog(3), log_of(1, 1, 2)
    leader.append([header(3, 5), header(4, 5)])
    assert sync(leader, follower) == [ev.ResetLog(3)]
    assert (follower.start, follower.end) == (3, 5)


def test_a_follower_with_more_than_a_leader_that_deleted_all_begins_where_that_one_does() -> None:
    leader, follower = MemoryLog(3), log_of(1, 1)
    follower.append([header(2, 2, 3)])
    leader.append([header(3, 5), header(4, 5)])
    assert sync(leader, follower) == [ev.ResetLog(3)]
    assert (follower.start, follower.end) == (3, 5)


def test_an_empty_log_that_begins_beyond_the_leaders_end() -> None:
    follower = MemoryLog(50)
    assert sync(log_of(1, 1), follower) == [ev.ResetLog(0)]
    assert follower.end == 2


def test_the_high_watermark_falls_only_with_a_truncation_below_it() -> None:
    _, host = following(log_of(1, 1, 1))
    host.replica._log.high_watermark = 2
    host.step(ev.Diverged(9, 1, 2))
    assert host.replica.high_watermark == 2
    host.step(ev.Diverged(9, 0, 1))
    assert (host.log.end, host.replica.high_watermark) == (0, 0), "after an unclean election"


def test_the_high_watermark_has_no_part_in_where_a_log_is_cut() -> None:
    """KIP-101's first scenario: committed, but the follower had not heard of it when it was restarted."""
    cluster = Cluster()
    cluster.lead(1, [1, 2, 3])
    cluster.run()
    cluster[1].produce("a")
    cluster.run()
    assert not cluster[1].replies["a"].error
    host = cluster.restart(2)
    assert host.replica.high_watermark == 0
    cluster.lead(2, [2, 3], told=[2, 3])
    cluster.run()
    assert host.log.end == 1


def test_a_flush_that_was_under_way_when_the_log_was_cut_says_nothing_of_the_new_log() -> None:
    cluster = Cluster(2, **{"flush.messages": 1, "min.insync.replicas": 1})
    host = cluster.restart(2, log_of(1, 1, 1))
    host.holds_flushes = True
    cluster.epoch = 8
    cluster.lead(1, [1], told=[2])
    assert host.flushing
    host.step(ev.Diverged(9, 1, 1))
    host.step(ev.Fed(9, [header(1, 9), header(2, 9)], [0, 0], 0, 0))
    host.effects.clear()
    host.log.flushed_end, host.flushing = 1, False
    host.step(ev.Flushed(3))
    assert ev.AckFetch(9, 3) not in host.effects, "3 was the end of the log before"
    assert host.flushing, "so it is flushed again"
    host.flush()
    assert host.effects[-1] == ev.AckFetch(9, 3)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_follower_that_begins_anew_knows_the_producers_of_what_is_deleted(restarted: bool) -> None:
    """Found by the simulation: the batch was committed and deleted; the follower leads, and its retry comes."""
    cluster = Cluster(2, **{"min.insync.replicas": 1})
    cluster.cuts.add(frozenset((1, 2)))
    cluster.lead(1, [1])
    first = cluster[1].produce("first", batch(2, producer=7, sequence=0))
    assert first is not None and first.base_offset == 0
    cluster[1].log.advance_start(2)
    cluster[1].step(ev.StartMoved(2))
    cluster.cuts.clear()
    cluster.sent.clear()
    cluster.restart(2)
    cluster.lead(1, [1])
    cluster.run()
    assert [effect for effect in cluster[2].effects if isinstance(effect, ev.ResetLog)] == [ev.ResetLog(2)]
    if restarted:
        cluster.restart(2)
    cluster.lead(2, [2])
    retry = cluster[2].produce("retry", batch(2, producer=7, sequence=0))
    assert retry is not None and (retry.base_offset, retry.error) == (0, "")
    following = cluster[2].produce("following", batch(1, producer=7, sequence=2))
    assert following is not None and following.base_offset == 2


def test_what_was_fed_and_is_deleted_is_asked_for_again_so_that_the_leaders_machine_answers() -> None:
    cluster, host = following(log_of(1, 1))
    host.step(ev.Fed(9, [], [], 2, 0))
    assert host.step(ev.OutOfRange(9, 5, 6)) == []
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1)
    assert host.step(ev.OutOfRange(9, 5, 6, ProducerStates())) == [ev.ResetLog(5)]


LEADERSHIPS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(1, 3), max_size=3), st.integers(0, 2), st.integers(0, 9)),
    max_size=8,
)


def in_common(a: list[BatchHeader], b: list[BatchHeader]) -> int:
    """How many batches two logs begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x is not y), min(len(a), len(b)))


@given(LEADERSHIPS, st.integers(0, 3), st.integers(0, 3))
def test_whatever_leaderships_there_were_a_follower_cuts_exactly_what_the_leader_does_not_have(
    leaderships: list[tuple[int, list[int], int, int]], leader_start: int, follower_start: int
) -> None:
    """Three logs that came about as logs do: in each epoch one leads and appends, and another takes a part of that."""
    logs: list[list[BatchHeader]] = [[], [], []]
    for epoch, (leading, counts, copying, most) in enumerate(leaderships, 1):
        mine = logs[leading]
        for count in counts:
            mine.append(header(mine[-1].last_offset + 1 if mine else 0, epoch, count))
        logs[copying] = mine[: max(in_common(mine, logs[copying]), min(most, len(mine)))]
    leader, follower = MemoryLog(), MemoryLog()
    for log, batches, start in ((leader, logs[0], leader_start), (follower, logs[1], follower_start)):
        log.append(batches)
        log.advance_start(min(start, log.end))
    both = in_common(logs[0], logs[1])
    parts_at = logs[0][both - 1].last_offset + 1 if both else 0
    cuts = sync(leader, follower)
    assert follower.end == leader.end
    start = max(leader.start, follower.start)
    assert follower.between(start, 99) == leader.between(start, 99)
    if logs[1][both:] and logs[1][both].last_offset < follower_start:
        assert follower.batches == leader.batches, "it had deleted what this leader never had"
    for cut in cuts:
        if isinstance(cut, ev.Truncate):
            assert cut.end >= parts_at or leader.start >= parts_at, "cut below where the logs part"
