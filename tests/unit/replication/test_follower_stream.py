"""What comes over the wire to a follower, right or wrong, and what its disk does meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from rayqueue.replication import events as ev
from rayqueue.replication.follower import State
from tests.simulation.partitions_log import MemoryLog
from tests.unit.replication.harness import Cluster, following, header, log_of


def test_another_epochs_stream_is_not_listened_to() -> None:
    """A leader of old does not know that it is over."""
    _, host = following(log_of(1, 1))
    for epoch in (8, 10):
        for event in (
            ev.Fed(epoch, [header(2, epoch)], [0], 2, 0),
            ev.Diverged(epoch, 0, 0),
            ev.OutOfRange(epoch, 5, 6),
            ev.FeedRefused(epoch, "UnknownLeaderEpoch"),
            ev.FeedLost(epoch),
        ):
            assert host.step(event) == []
    assert host.follower.state is State.ASKED


@pytest.mark.parametrize(
    "wrong",
    [header(3, 9), header(1, 9), header(2, 0), header(2, 10), header(0, 9)],
    ids=["gap", "overlap", "an epoch that falls", "an epoch to come", "from the beginning"],
)
def test_what_does_not_continue_the_log_is_not_appended_and_the_follower_begins_anew(wrong: Any) -> None:
    cluster, host = following(log_of(1, 1))
    effects = host.step(ev.Fed(9, [wrong], [0], 2, 0))
    assert effects == [ev.Unfollow()]
    assert (host.log.end, host.follower.faults) == (2, 1)
    cluster.pass_ms(99)
    assert host.follower.state is State.WAITING
    cluster.pass_ms(1)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1)


def test_what_came_before_the_fault_is_kept_and_counted() -> None:
    cluster, host = following(log_of(1, 1))
    host.step(ev.Fed(9, [header(2, 9), header(4, 9)], [0, 0], 2, 0))
    assert host.log.end == 3
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 3, 9)


@pytest.mark.parametrize("end", [-5, 2, 7])
def test_a_divergence_that_makes_no_sense_ends_in_a_pause_not_in_a_loop(end: int) -> None:
    _, host = following(log_of(1, 1))
    host.step(ev.Diverged(9, 1, end))
    assert host.effects[-1] == ev.Unfollow() and host.log.end == 2


def test_a_leader_that_feeds_and_then_says_that_the_logs_part_is_wrong() -> None:
    _, host = following(log_of(1, 1))
    host.step(ev.Fed(9, [], [], 1, 0))
    assert host.step(ev.Diverged(9, 0, 0)) == [ev.Unfollow()]
    assert host.log.end == 2


@pytest.mark.parametrize("end", [4, 1])
def test_out_of_range_that_is_not_so_empties_no_log(end: int) -> None:
    cluster, host = following(log_of(1, 1))
    assert host.step(ev.OutOfRange(9, 0, end)) == []
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1)


@pytest.mark.parametrize("event", [ev.FeedRefused(9, "UnknownLeaderEpoch"), ev.FeedLost(9)])
def test_a_stream_that_is_refused_or_lost_is_tried_again_later(event: ev.Event) -> None:
    cluster, host = following(log_of(1, 1))
    assert host.step(event) == []
    assert host.replica.next_deadline_ms() == cluster.now_ms + 100
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1)


def test_a_full_disk_of_a_follower() -> None:
    cluster, host = following(log_of(1, 1))
    host.disk_full = True
    host.step(ev.Fed(9, [header(2, 9)], [0], 3, 0))
    assert host.effects[-1] == ev.Unfollow()
    assert (host.replica.log_end, host.replica.high_watermark) == (2, 2)
    host.disk_full = False
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1)


def test_a_log_that_cannot_be_cut_on_a_full_disk_is_cut_when_there_is_room() -> None:
    cluster, host = following(log_of(1, 1, 1))
    host.disk_full = True
    for _ in range(3):
        assert host.step(ev.Diverged(9, 1, 2)) == [ev.Truncate(2)]
        assert host.follower.state is State.WAITING and host.effects[-1] == ev.Unfollow()
        assert host.step(ev.Fed(9, [header(3, 9)], [0], 4, 0)) == [], "of the stream before"
        assert (host.log.end, host.replica.log_end) == (3, 3)
        cluster.pass_ms(100)
        assert host.effects[-1] == ev.Follow(1, 9, 3, 1)
    host.disk_full = False
    host.step(ev.Diverged(9, 1, 2))
    assert host.effects[-1] == ev.Follow(1, 9, 2, 1) and host.log.end == 2


def test_a_log_that_cannot_be_emptied_begins_anew_without_what_was_held_back() -> None:
    """The batch that is to be its first was fed already: it is asked for again."""
    cluster, host = following(MemoryLog(5))
    host.disk_full = True
    host.step(ev.Fed(9, [header(3, 9, 4)], [0], 4, 0))
    assert host.effects[-2:] == [ev.ResetLog(3), ev.Unfollow()]
    host.disk_full = False
    cluster.pass_ms(100)
    host.step(ev.Fed(9, [header(3, 9, 4), header(7, 9)], [0, 0], 4, 0))
    assert (host.log.start, host.log.end) == (3, 8)


@pytest.mark.parametrize("missed", [ev.Fed(9, [header(7, 9)], [0], 4, 3), ev.FeedLost(9)])
def test_what_comes_on_the_stream_while_the_log_is_emptied_is_asked_for_again(missed: ev.Event) -> None:
    """Found by the simulation: the shell takes its time to empty a log. Dropped in silence, a batch would be missing
    and nobody would ask for it before the next one came."""
    cluster, host = following(MemoryLog(5))
    host.holds_cuts = True
    host.step(ev.Fed(9, [header(3, 9, 4)], [0], 4, 3))
    host.step(missed)
    host.cut()
    assert host.log.end == 7 and host.effects[-1] != ev.Follow(1, 9, 7, 9)
    cluster.pass_ms(100)
    assert host.effects[-1] == ev.Follow(1, 9, 7, 9)


def test_a_cut_that_failed_after_the_leader_changed_is_no_news() -> None:
    _, host = following(log_of(1, 1))
    assert host.step(ev.CutFailed("no space left on device")) == []
    assert host.follower.state is State.ASKED


def test_a_truncation_that_nobody_waits_for_starts_nothing() -> None:
    _, host = following(log_of(1, 1))
    host.step(ev.FeedLost(9))
    log = host.log
    assert host.step(ev.Truncated(log.start, log.end, log.epochs(), log.producers(0))) == []
    assert host.follower.state is State.WAITING


def test_nobody_leads() -> None:
    cluster = Cluster()
    cluster.lead(-1, [1])
    for host in cluster.hosts.values():
        assert host.effects == [] and host.replica.next_deadline_ms() is None
        host.step(ev.WriteFailed("nothing was appended"))
        assert host.follower.state is State.IDLE


def test_a_followers_log_that_failed_is_followed_no_more() -> None:
    _, host = following(log_of(1, 1))
    assert host.step(ev.LogFailed("I/O error")) == [ev.Unfollow()]
    assert host.step(ev.Fed(9, [header(2, 9)], [0], 2, 0)) == []
